package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"

	"tandem/work"
)

// serveBare is what the service is compared with: a plain net/http handler
// that decodes the same JSON and answers 202, and one that runs the same work.
func serveBare(args []string) {
	flags := flag.NewFlagSet("bare", flag.ExitOnError)
	addressFile := flags.String("address-file", "", "where to write the address")
	rounds := flags.Int("rounds", work.DefaultRounds, "rounds of compute")
	_ = flags.Parse(args) // ends the program on an error

	type submission struct {
		Data        json.RawMessage `json:"data"`
		Complexity  int             `json:"complexity"`
		Workload    string          `json:"workload"`
		CallbackURL string          `json:"callback_url"`
	}
	compute := work.Compute(*rounds)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /async", func(w http.ResponseWriter, r *http.Request) {
		var sub submission
		if err := json.NewDecoder(r.Body).Decode(&sub); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"request_id":"req_0","status":"accepted","message":"accepted","status_url":"/requests/req_0"}`)
	})
	mux.HandleFunc("POST /sync", func(w http.ResponseWriter, r *http.Request) {
		sub := submission{Complexity: 1}
		if err := json.NewDecoder(r.Body).Decode(&sub); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if sub.Workload == "none" { // what the load generators are compared on
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"request_id":"req_0","result":{}}`)
			return
		}
		result, err := compute.Func(r.Context(), work.Input{Data: sub.Data, Complexity: sub.Complexity})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"request_id":"req_0","result":%s}`, result)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(*addressFile+".part", []byte(listener.Addr().String()), 0o600); err != nil {
		log.Fatal(err)
	}
	if err := os.Rename(*addressFile+".part", *addressFile); err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, mux))
}
