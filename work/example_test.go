package work_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"tandem/work"
)

// A program that embeds Tandem registers its own kinds of work beside the
// built-in ones. Both patterns then run the very same Func.
func Example_ownWorkload() {
	type order struct {
		Text string `json:"text"`
	}
	shout := work.Kind{
		Name:    "shout",
		Summary: "says data.text in capital letters",
		Class:   work.CPU, // it computes; work.Waits if it called something slow
		Check: func(in work.Input) error { // a bad submission is refused with a 422
			var o order
			if err := json.Unmarshal(in.Data, &o); err != nil || o.Text == "" {
				return errors.New("text must be a string with something in it")
			}
			return nil
		},
		Func: func(ctx context.Context, in work.Input) (json.RawMessage, error) {
			var o order
			if err := json.Unmarshal(in.Data, &o); err != nil {
				return nil, err
			}
			return json.Marshal(strings.ToUpper(o.Text))
		},
	}
	registry, err := work.Builtin(work.Options{})
	if err != nil {
		panic(err)
	}
	if err := registry.Register(shout); err != nil {
		panic(err)
	}
	fmt.Println(registry.Names())

	kind, _ := registry.Lookup("shout")
	fmt.Println(kind.Check(work.Input{Data: json.RawMessage(`{}`), Complexity: 1}))
	result, err := kind.Func(context.Background(), work.Input{Data: json.RawMessage(`{"text":"hello"}`), Complexity: 1})
	fmt.Println(string(result), err)
	// Output:
	// [compute mixed shout wait]
	// text must be a string with something in it
	// "HELLO" <nil>
}

func ExampleCompute() {
	kind := work.Compute(1000) // rounds for each unit of complexity
	result, err := kind.Func(context.Background(), work.Input{
		Data:       json.RawMessage(`{"prices": [1.5, 2.25], "count": 4}`),
		Complexity: 3,
	})
	fmt.Println(string(result), err)
	// Output: {"sum":7.75,"product":13.5,"operations":9,"checksum":"fce5adf561a0015f"} <nil>
}

func ExampleWait() {
	kind := work.Wait()
	result, err := kind.Func(context.Background(), work.Input{Data: json.RawMessage(`{}`), Complexity: 2})
	fmt.Println(string(result), err)
	// Output: {"waited_ms":20} <nil>
}

// The operator names an endpoint; a caller chooses it by that name.
func ExampleHTTP() {
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"price": 12.50}`)
	}))
	defer endpoint.Close()

	prices, err := work.ParseUpstream("prices=" + endpoint.URL + ",timeout=5s")
	if err != nil {
		panic(err)
	}
	kind, err := work.HTTP(prices)
	if err != nil {
		panic(err)
	}
	result, err := kind.Func(context.Background(), work.Input{Data: json.RawMessage(`{"upstream":"prices","article":7}`), Complexity: 1})
	fmt.Println(string(result), err)
	fmt.Println(kind.Check(work.Input{Data: json.RawMessage(`{"upstream":"stock"}`), Complexity: 1}))
	// Output:
	// {"price": 12.50} <nil>
	// upstream must be one of prices
}
