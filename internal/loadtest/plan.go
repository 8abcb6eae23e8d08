package loadtest

import (
	"encoding/json"
	"errors"
	"fmt"

	"tandem"
)

// Spec says what a run sends: a closed model, in bursts. A burst is up to
// Concurrency requests of one mode sent at once; it is over when all of them
// are completed, and only then the next begins. So both modes have the same
// number of requests outstanding, no burst works off the backlog of another,
// and a completion latency means the same in both.
type Spec struct {
	Requests    int    `json:"requests"`    // in all; half of them sync (the larger half) and half async
	Concurrency int    `json:"concurrency"` // requests of a burst
	Workload    string `json:"workload"`
	Complexity  int    `json:"complexity"`
}

// The most that a run keeps account of in memory, and sends at once.
const (
	MaxRequests    = 1_000_000
	MaxConcurrency = 10_000
)

// Check returns all that is wrong with the Spec, joined. Each fault begins with
// the name of its field in JSON.
func (s Spec) Check() error {
	var faults []error
	within := func(field string, value, low, high int) {
		if value < low || value > high {
			faults = append(faults, fmt.Errorf("%s must be from %d to %d, is %d", field, low, high, value))
		}
	}
	within("requests", s.Requests, 2, MaxRequests)
	within("concurrency", s.Concurrency, 1, MaxConcurrency)
	within("complexity", s.Complexity, 1, tandem.MaxComplexity)
	if s.Workload == "" {
		faults = append(faults, errors.New("workload must be named"))
	}
	return errors.Join(faults...)
}

// planned is one request of the plan.
type planned struct {
	seq  int // its place in the plan, from 0; callbacks are joined by it
	mode tandem.Mode
	body submission
}

// submission is the body of POST /sync and POST /async.
type submission struct {
	Data        json.RawMessage `json:"data"`
	Workload    string          `json:"workload"`
	Complexity  int             `json:"complexity"`
	CallbackURL string          `json:"callback_url,omitempty"`
}

// burst is what is sent at once, all of one mode.
type burst struct {
	mode  tandem.Mode
	posts []planned
}

// plan is fixed by the Spec alone, before the first request is sent. Bursts go
// in pairs of the same inputs, and the mode that goes first alternates, so that
// what changes with time hits both modes alike.
func plan(spec Spec) []burst {
	async := spec.Requests / 2
	sync := spec.Requests - async
	seq := 0
	cut := func(mode tandem.Mode, from, to int) burst {
		b := burst{mode: mode}
		for i := from; i < to; i++ {
			b.posts = append(b.posts, planned{seq: seq, mode: mode, body: submission{
				Data:       input(i),
				Workload:   spec.Workload,
				Complexity: spec.Complexity,
			}})
			seq++
		}
		return b
	}
	var bursts []burst
	for from, pair := 0, 0; from < sync; from, pair = from+spec.Concurrency, pair+1 {
		modes := []tandem.Mode{tandem.Sync, tandem.Async}
		if pair%2 == 1 {
			modes = []tandem.Mode{tandem.Async, tandem.Sync}
		}
		for _, mode := range modes {
			end := sync
			if mode == tandem.Async {
				end = async
			}
			if b := cut(mode, from, min(from+spec.Concurrency, end)); len(b.posts) > 0 {
				bursts = append(bursts, b)
			}
		}
	}
	return bursts
}

// input is the i-th input, the same for both modes.
func input(i int) json.RawMessage {
	return fmt.Appendf(nil, `{"order":%d,"values":[%d,%d.5,%d]}`, i+1, i%7+1, i%11+1, i%13+1)
}
