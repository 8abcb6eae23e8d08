package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"tandem"
	"tandem/internal/engine"
	"tandem/work"
)

// One that is started on disk ahead of its slot, and cancelled before it has one.
func TestWorkThatNeverRanHasNoProcessingTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openModel(newTable(), 100)
		e := engineOn(t, m, engine.Options{Workers: 1}, work.Kind{Name: "quick", Class: work.CPU, Func: func(ctx context.Context, _ work.Input) (json.RawMessage, error) {
			time.Sleep(time.Second)
			return json.RawMessage(`{}`), nil
		}})
		stop := running(t, e)
		var ids [2]string
		for i := range ids {
			req, _, err := e.Accept(t.Context(), quickWork)
			if err != nil {
				t.Fatal(err)
			}
			ids[i] = req.ID
			synctest.Wait()
		}
		time.Sleep(500 * time.Millisecond)
		if req, err := m.Request(t.Context(), ids[1]); err != nil || req.Status != tandem.Processing {
			t.Fatalf("the one that waits for its slot: %+v, %v, want it started", req, err)
		}
		if _, err := e.Cancel(t.Context(), tandem.Anyone, ids[1]); err != nil {
			t.Fatal(err)
		}
		req, err := m.Request(t.Context(), ids[1])
		if err != nil || req.Failure == nil || req.Failure.Code != tandem.FailureCancelled {
			t.Fatalf("got %+v, %v", req, err)
		}
		if req.ProcessingTime() != 0 || !req.StartedAt.IsZero() {
			t.Errorf("it ran for %v from %v on, and never ran", req.ProcessingTime(), req.StartedAt)
		}
		time.Sleep(time.Second)
		stop()
		stats, err := e.Stats(t.Context(), tandem.Anyone)
		if err != nil {
			t.Fatal(err)
		}
		if n := stats.Processing[tandem.Async].N; n != 1 {
			t.Errorf("%d requests are in the figures, want the one that ran", n)
		}
	})
}

func TestWhatTheWorkSaysOfItsFailureIsBounded(t *testing.T) {
	long := strings.Repeat("ü", 5<<20)
	for _, row := range []struct {
		name string
		do   func() error
		code tandem.FailureCode
		want string // how it begins
	}{
		{"a long error", func() error { return errors.New(long) }, tandem.FailureWork, "üü"},
		{"a long panic", func() error { panic(long) }, tandem.FailurePanic, "the work panicked: üü"},
		{"a failure of its own making", func() error { return &tandem.Failure{Code: tandem.FailureUpstream, Message: long, Upstream: 503} }, tandem.FailureUpstream, "üü"},
		{"an upstream's long story", func() error { return &work.UpstreamError{Name: "a", Reason: long} }, tandem.FailureUpstream, "upstream a: üü"},
		{"no text, but bytes", func() error { return errors.New(strings.Repeat("\xffa", 600)) }, tandem.FailureWork, "\uFFFDa"},
		{"many bytes that are no text", func() error { return errors.New(strings.Repeat("\xff", 5000)) }, tandem.FailureWork, "\uFFFD"},
		{"a short one", func() error { return errors.New("short") }, tandem.FailureWork, "short"},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := engineOn(t, openModel(newTable(), 100), engine.Options{}, work.Kind{Name: "quick", Class: work.Waits, Func: func(context.Context, work.Input) (json.RawMessage, error) {
					return nil, row.do()
				}})
				req, _, err := e.Do(t.Context(), quickWork)
				if err != nil || req.Failure == nil || req.Failure.Code != row.code {
					t.Fatalf("got %+v, %v", req, err)
				}
				text := req.Failure.Message
				if len(text) > 1024 || !utf8.ValidString(text) || !strings.HasPrefix(text, row.want) {
					t.Errorf("%d bytes: %.60q, want at most 1024 of text that begin with %q", len(text), text, row.want)
				}
			})
		})
	}
}
