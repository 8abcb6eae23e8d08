// Package storetest is the contract of engine.Store and engine.Backend as one
// test suite, which every backend passes. Each case is named after the rule it
// holds the backend to.
package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"tandem"
	"tandem/internal/engine"
)

// Options of the backend that a case needs.
type Options struct {
	MaxPending int // 0: the backend's default
}

// Opener opens a backend on a place that belongs to the test. Opening the same
// place again after Close finds what was left there, as a restart does.
type Opener func(t *testing.T, place string, opts Options) engine.Backend

// Exercise runs the whole suite.
func Exercise(t *testing.T, open Opener) {
	for _, c := range slices.Concat(writes, claims, acts, reads, runs, ages) {
		t.Run(c.rule, func(t *testing.T) {
			t.Parallel()
			c.test(&suite{T: t, open: open, place: t.TempDir()})
		})
	}
}

type rule struct {
	rule string
	test func(*suite)
}

// suite is one case under way.
type suite struct {
	*testing.T
	open  Opener
	place string
}

// backend opens the case's place, and closes it with the case.
func (s *suite) backend(opts Options) engine.Backend {
	s.Helper()
	b := s.open(s.T, s.place, opts)
	closed := sync.OnceValue(b.Close)
	s.Cleanup(func() {
		if err := closed(); err != nil {
			s.Errorf("close: %v", err)
		}
	})
	return closeOnce{b, closed}
}

// closeOnce lets a case close its backend before the cleanup does.
type closeOnce struct {
	engine.Backend
	close func() error
}

func (c closeOnce) Close() error { return c.close() }

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// wantCode checks the code of an error; "" wants none.
func (s *suite) wantCode(what string, err error, want tandem.Code) {
	s.Helper()
	if got := tandem.CodeOf(err); got != want {
		s.Errorf("%s: got code %q (%v), want %q", what, got, err, want)
	}
}

func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }

// Pending is a fresh async request of the lane cpu; with a callback to the URL, if
// one is given.
func Pending(callbackURL string) *tandem.Request { return pending(callbackURL) }

func pending(callbackURL string) *tandem.Request {
	at := now()
	req := &tandem.Request{
		ID:         tandem.NewID(at),
		Mode:       tandem.Async,
		Status:     tandem.Pending,
		Workload:   "compute",
		Lane:       "cpu",
		Complexity: 3,
		Data:       json.RawMessage(`{"a":1.10,"b":[1e400,"ü"]}`),
		Callback:   tandem.Callback{State: tandem.CallbackNone},
		CreatedAt:  at,
	}
	if callbackURL != "" {
		req.Callback = tandem.Callback{URL: callbackURL, State: tandem.CallbackPending, MaxAttempts: 3}
	}
	return req
}

// processing is a fresh sync request that runs.
func processing() *tandem.Request {
	req := pending("")
	req.Mode, req.Status, req.Starts, req.Epoch, req.StartedAt = tandem.Sync, tandem.Processing, 1, 1, now()
	return req
}

// succeed gives a started request its outcome.
func succeed(req *tandem.Request) *tandem.Request {
	req.Status, req.Result, req.WorkedAt = tandem.Completed, json.RawMessage(`{"sum":1.10}`), now()
	if req.Callback.State == tandem.CallbackPending {
		req.Callback.NextAt = req.WorkedAt
	}
	return req
}

// fail gives a started request a failure.
func fail(req *tandem.Request) *tandem.Request {
	succeed(req)
	req.Status, req.Result = tandem.Failed, nil
	req.Failure = &tandem.Failure{Code: tandem.FailureUpstream, Message: "the upstream answered 503", Upstream: 503}
	return req
}

// start moves an accepted request to processing.
func (s *suite) start(b engine.Backend, req *tandem.Request) {
	s.Helper()
	req.StartedAt = now()
	s.must(b.Start(s.Context(), req))
}

// found reads a request back and compares it whole.
func (s *suite) found(b engine.Backend, want *tandem.Request) {
	s.Helper()
	got, err := b.Request(s.Context(), want.ID)
	s.must(err)
	if g, w := describe(&got), describe(want); g != w {
		s.Errorf("the record differs\n got %s\nwant %s", g, w)
	}
}

func describe(req *tandem.Request) string {
	known := *req
	known.Seq = 0 // the backend's own
	text, err := json.Marshal(&known)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// countersMatchRows compares the counters with a walk over the whole history.
func (s *suite) countersMatchRows(b engine.Backend) {
	s.Helper()
	if difference := s.compareCounters(b); difference != "" {
		s.Errorf("the counters differ from the rows\n%s", difference)
	}
}

// countersComeToMatchRows does so while writes may still be on their way, whose
// callers have left.
func (s *suite) countersComeToMatchRows(b engine.Backend) {
	s.Helper()
	var difference string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if difference = s.compareCounters(b); difference == "" {
			return
		}
	}
	s.Errorf("the counters differ from the rows for 10 s\n%s", difference)
}

// compareCounters says how the counters differ from the rows, "" if they do not.
func (s *suite) compareCounters(b engine.Backend) string {
	s.Helper()
	type standing struct {
		mode     tandem.Mode
		status   tandem.Status
		callback tandem.CallbackState
	}
	type sums struct {
		n          int64
		processing time.Duration
	}
	rows, counters := make(map[standing]sums), make(map[standing]sums)
	for req := range s.history(b, engine.Query{Caller: tandem.Anyone, Limit: 1000}) {
		key := standing{req.Mode, req.Status, req.Callback.State}
		rows[key] = sums{rows[key].n + 1, rows[key].processing + req.ProcessingTime()}
	}
	counts, err := b.Counts(s.Context(), tandem.Anyone)
	s.must(err)
	for _, c := range counts.Requests {
		if c.N != 0 || c.Processing != 0 {
			counters[standing{c.Mode, c.Status, c.Callback}] = sums{c.N, c.Processing}
		}
	}
	if got, want := fmt.Sprint(counters), fmt.Sprint(rows); got != want {
		return fmt.Sprintf("counters %s\n    rows %s", got, want)
	}
	return ""
}

// history walks all pages of a query.
func (s *suite) history(b engine.Backend, q engine.Query) func(func(*tandem.Request) bool) {
	return func(yield func(*tandem.Request) bool) {
		for {
			page, err := b.Requests(s.Context(), q)
			s.must(err)
			for i := range page.Requests {
				if !yield(&page.Requests[i]) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			q.Cursor, q.Offset = page.Next, 0
		}
	}
}

// running runs the backend with the steps until the case is over, or stops it.
func (s *suite) running(b engine.Backend, steps engine.Steps) (stop func()) {
	ctx, cancel := context.WithCancel(s.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx, steps) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.Errorf("run: %v", err)
		}
	})
	s.Cleanup(stop)
	return stop
}

// within waits for an event and fails the case if it does not come.
func within[T any](s *suite, what string, events <-chan T) T {
	s.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(20 * time.Second):
		s.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}
