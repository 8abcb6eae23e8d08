package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/server"
	"tandem/webhook"
	"tandem/work"
)

// A program that embeds Tandem registers its own work; both patterns run it.
func Example() {
	ctx := context.Background()
	s, err := server.New(ctx, server.Options{
		Addr: "127.0.0.1:0",
		Workloads: []work.Kind{{
			Name:  "greet",
			Class: work.CPU,
			Func: func(_ context.Context, in work.Input) (json.RawMessage, error) {
				var data struct{ Name string }
				if err := json.Unmarshal(in.Data, &data); err != nil {
					return nil, err
				}
				return json.Marshal("Hello, " + data.Name)
			},
		}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := s.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	answer, err := http.Post("http://"+s.Addr()+"/sync", "application/json",
		strings.NewReader(`{"workload":"greet","data":{"name":"Ada"}}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer answer.Body.Close()
	var body struct{ Result string }
	if err := json.NewDecoder(answer.Body).Decode(&body); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(answer.StatusCode, body.Result)
	fmt.Println(s.Stop(ctx))
	// Output:
	// 200 Hello, Ada
	// <nil>
}

func TestNewNamesAllFaultsAtOnce(t *testing.T) {
	_, err := server.New(t.Context(), server.Options{Mode: "best", CallbackAttempts: 21, Rounds: -1, DrainTimeout: -1, CallbackTimeout: -1})
	for _, want := range []string{"Mode", "CallbackAttempts", "Rounds", "DrainTimeout", "CallbackTimeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
	for name, opts := range map[string]server.Options{
		"Workers":  {Workers: -1},
		"range":    {InsecureAllowCallbackNets: []netip.Prefix{{}}},
		"workload": {Workloads: []work.Kind{{Name: "Bad Name"}}},
		"no such":  {Database: filepath.Join(t.TempDir(), "missing", "requests.db")},
		"URL must": {Upstreams: []work.Upstream{{Name: "a", URL: "nowhere"}}},
		"database": {Database: t.TempDir()}, // which is a directory
	} {
		s, err := server.New(t.Context(), opts)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: error %v does not say %q", opts, err, name)
		}
		if s != nil {
			t.Errorf("%s: a server comes with the error", name)
		}
	}
}

func TestABusyAddressIsSaidSo(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s, err := server.New(t.Context(), server.Options{Addr: listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), listener.Addr().String()) {
		t.Errorf("Run returned %v, want the address that is taken", err)
	}
}

func TestRunDrainsWhenItsContextEnds(t *testing.T) {
	database := filepath.Join(t.TempDir(), "requests.db")
	ctx, cancel := context.WithCancel(t.Context())
	s, err := server.New(ctx, server.Options{Addr: "127.0.0.1:0", Database: database})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if status := getStatus(t, "http://"+s.Addr()+"/readyz"); status != http.StatusOK {
		t.Errorf("ready: %d", status)
	}
	cancel()
	if err := s.Wait(ctx); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if _, err := http.Get("http://" + s.Addr() + "/healthz"); err == nil {
		t.Error("it still answers")
	}
	again, err := server.New(t.Context(), server.Options{Database: database}) // the file is free again
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Stop(t.Context()); err != nil {
		t.Errorf("Stop without Start: %v", err)
	}
}

func TestModesHaveTheirDefaults(t *testing.T) {
	for mode, limited := range map[server.Mode]bool{server.Demo: false, server.Production: true} {
		s, err := server.New(t.Context(), server.Options{Mode: mode, Addr: "127.0.0.1:0", Database: filepath.Join(t.TempDir(), "requests.db"), Rounds: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		answer, err := http.Post("http://"+s.Addr()+"/sync", "application/json", strings.NewReader(`{"data":{"a":1}}`))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if got := answer.Header.Get("RateLimit-Policy"); (got == `"default";q=50;w=60`) != limited {
			t.Errorf("%s: RateLimit-Policy is %q", mode, got)
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Errorf("%s: stop: %v", mode, err)
		}
	}
}

func TestTheSecretIsKeptWithTheDatabase(t *testing.T) {
	database := filepath.Join(t.TempDir(), "requests.db")
	var kept []webhook.Secret
	for range 2 {
		s, err := server.New(t.Context(), server.Options{Database: database})
		if err != nil {
			t.Fatal(err)
		}
		secret, err := server.ReadSecret(t.Context(), database) // while it is open
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, secret)
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if kept[0].Reveal() != kept[1].Reveal() || kept[0].Reveal() == "" {
		t.Error("a restart changes the secret")
	}
}

func TestStopEndsWhatDoesNotEndInTime(t *testing.T) {
	started := make(chan struct{})
	s, err := server.New(t.Context(), server.Options{
		Addr: "127.0.0.1:0",
		Workloads: []work.Kind{{Name: "endless", Class: work.Waits, Func: func(ctx context.Context, _ work.Input) (json.RawMessage, error) {
			close(started)
			<-ctx.Done()
			return nil, ctx.Err()
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	status := make(chan int, 1)
	go func() {
		answer, err := http.Post("http://"+s.Addr()+"/sync", "application/json", strings.NewReader(`{"data":{"a":1},"workload":"endless"}`))
		if err != nil {
			status <- 0
			return
		}
		defer answer.Body.Close()
		io.Copy(io.Discard, answer.Body)
		status <- answer.StatusCode
	}()
	<-started
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if got := <-status; got != http.StatusInternalServerError {
		t.Errorf("the caller whose work was ended got %d, want 500", got)
	}
}

func getStatus(t *testing.T, url string) int {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	return answer.StatusCode
}
