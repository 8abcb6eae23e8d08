package engine_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tandem"
	"tandem/internal/callback"
	"tandem/internal/egress"
	"tandem/internal/engine"
	"tandem/webhook"
	"tandem/work"
)

// full is a backend whose storage takes no outcome while broken is set.
type full struct {
	*model
	broken atomic.Bool
	tries  atomic.Int64
	ran    atomic.Int64 // times that work has run
}

func (f *full) Complete(ctx context.Context, req *tandem.Request) error {
	f.tries.Add(1)
	if f.broken.Load() {
		return errStorage
	}
	return f.model.Complete(ctx, req)
}

// onFull runs a test on an engine whose storage is broken.
func onFull(t *testing.T, test func(t *testing.T, e *engine.Engine, f *full)) {
	synctest.Test(t, func(t *testing.T) {
		f := &full{model: openModel(newTable(), 100)}
		f.broken.Store(true)
		e := engineOn(t, f, engine.Options{}, work.Kind{Name: "quick", Class: work.Waits, Func: func(context.Context, work.Input) (json.RawMessage, error) {
			f.ran.Add(1)
			return json.RawMessage(`{}`), nil
		}})
		defer running(t, e)()
		test(t, e, f)
	})
}

// engineOn is an engine on a backend that works the kinds, those of quickWork if
// there are none. Whatever it sends is taken; of the owner "keyless" it can sign
// nothing.
func engineOn(t *testing.T, b engine.Backend, opts engine.Options, kinds ...work.Kind) *engine.Engine {
	t.Helper()
	if len(kinds) == 0 {
		kinds = []work.Kind{{Name: "quick", Class: work.Waits, Func: func(context.Context, work.Input) (json.RawMessage, error) {
			return json.RawMessage(`{}`), nil
		}}}
	}
	registry := &work.Registry{}
	for _, kind := range kinds {
		if err := registry.Register(kind); err != nil {
			t.Fatal(err)
		}
	}
	guard, err := egress.New(egress.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sender := callback.NewSender(func(context.Context, string, string) (net.Conn, error) {
		ours, its := net.Pipe()
		go takeAll(its)
		return ours, nil
	}, callback.Options{})
	t.Cleanup(sender.Close)
	e, err := engine.New(b, registry, guard, sender, func(owner string) []webhook.Secret {
		if owner == "keyless" {
			return nil
		}
		return []webhook.Secret{simSecret}
	}, opts)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// takeAll is a receiver that answers 204 to all that comes.
func takeAll(conn net.Conn) {
	defer conn.Close()
	for in := bufio.NewReader(conn); ; {
		r, err := http.ReadRequest(in)
		if err != nil {
			return // the sender has closed it
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n"); err != nil {
			return
		}
	}
}

// running runs an engine, and stops it with the function it returns.
func running(t *testing.T, e *engine.Engine) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

var quickWork = engine.Submission{Workload: "quick", Complexity: 1, Data: []byte(`{}`)}

func TestTheOutcomeOfASyncRequestIsWrittenOnceStorageTakesIt(t *testing.T) {
	onFull(t, func(t *testing.T, e *engine.Engine, f *full) {
		_, _, err := e.Do(t.Context(), quickWork)
		if tandem.CodeOf(err) != tandem.CodeUnavailable {
			t.Fatalf("the caller is told %v", err)
		}
		if err := f.Ready(t.Context()); err != nil { // writes what was noted
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n := f.tries.Load(); n < 5 || n > 50 {
			t.Errorf("tried %d times in a minute", n)
		}
		f.broken.Store(false)
		time.Sleep(10 * time.Second)
		page, err := f.Requests(t.Context(), engine.Query{Caller: tandem.Anyone, Limit: 10})
		if err != nil || len(page.Requests) != 1 || page.Requests[0].Status != tandem.Completed {
			t.Errorf("on record is %+v, %v", page.Requests, err)
		}
	})
}

func TestSyncWorkIsRefusedWhileTooManyOutcomesAreUnwritten(t *testing.T) {
	onFull(t, func(t *testing.T, e *engine.Engine, f *full) {
		for range 300 {
			if _, _, err := e.Do(t.Context(), quickWork); tandem.CodeOf(err) != tandem.CodeUnavailable {
				t.Fatalf("the caller is told %v", err)
			}
		}
		if n := f.ran.Load(); n != 256 {
			t.Errorf("work has run %d times, want 256", n)
		}
		f.broken.Store(false)
		time.Sleep(10 * time.Second)
		if _, _, err := e.Do(t.Context(), quickWork); err != nil {
			t.Errorf("once storage is well: %v", err)
		}
	})
}

func TestACancellationDoesNotEndTheWritingOfAnOutcome(t *testing.T) {
	onFull(t, func(t *testing.T, e *engine.Engine, f *full) {
		req, _, err := e.Accept(t.Context(), quickWork)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it is worked, and its outcome is not written
		if _, err := e.Cancel(t.Context(), tandem.Anyone, req.ID); tandem.CodeOf(err) != tandem.CodeConflict {
			t.Errorf("the one who cancels is told %v", err)
		}
		f.broken.Store(false)
		time.Sleep(10 * time.Second)
		got, err := f.Request(t.Context(), req.ID)
		if err != nil || got.Status != tandem.Completed {
			t.Errorf("on record is %+v, %v", got, err)
		}
	})
}
