package embedded

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

// slots are steps whose reservations are counted, and whose work ends when the
// test lets it.
type slots struct {
	engine.Steps
	free  chan struct{}
	asked int // how often a reservation was asked for without waiting
	begun chan *tandem.Request
	end   chan struct{}
}

func newSlots(free int) *slots {
	s := &slots{free: make(chan struct{}, 10), begun: make(chan *tandem.Request, 10), end: make(chan struct{})}
	for range free {
		s.free <- struct{}{}
	}
	return s
}

func (s *slots) Reserve(ctx context.Context, _ string) error {
	if ctx.Err() != nil {
		s.asked++
	}
	select {
	case <-s.free:
		return nil
	default:
	}
	select {
	case <-s.free:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *slots) Unreserve(string) { s.free <- struct{}{} }

func (s *slots) TooOld() (owed, due time.Time) { return time.Time{}, time.Time{} }

func (s *slots) Process(_ context.Context, req *tandem.Request) error {
	s.begun <- req
	<-s.end
	return &tandem.Error{Code: tandem.CodeConflict} // the row stays as it is
}

// whileRunning opens a backend, runs it with so many free slots, and stops it
// after f.
func whileRunning(t *testing.T, free int, f func(t *testing.T, b *Backend, s *slots, stop func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(free)
		b := openAt(t, filepath.Join(t.TempDir(), "requests.db"), Options{})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx, s) }()
		synctest.Wait()
		f(t, b, s, stop)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

// onDisk wants the row of a request to stand so.
func onDisk(t *testing.T, b *Backend, req *tandem.Request, status tandem.Status, starts int) {
	t.Helper()
	got, err := b.Request(t.Context(), req.ID)
	if err != nil || got.Status != status || got.Starts != starts {
		t.Errorf("got %s after %d starts, %v, want %s after %d", got.Status, got.Starts, err, status, starts)
	}
}

func TestARequestIsStartedAsItIsAcceptedIfItsTurnHasCome(t *testing.T) {
	whileRunning(t, 1, func(t *testing.T, b *Backend, s *slots, _ func()) {
		first, second, third := kept(time.Now()), kept(time.Now()), kept(time.Now())
		for _, req := range []*tandem.Request{first, second, third} {
			if err := b.Accept(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		onDisk(t, b, first, tandem.Processing, 1)
		onDisk(t, b, second, tandem.Pending, 0)
		onDisk(t, b, third, tandem.Pending, 0)
		soundCounters(t, b)
		if got := <-s.begun; got.ID != first.ID || got.Status != tandem.Processing || got.Starts != 1 || got.Epoch != 1 || got.StartedAt.IsZero() {
			t.Errorf("got %+v to process, want the first, started", got)
		}
		if s.asked != 2 {
			t.Errorf("slots were asked for %d times, want 2: the third may not go before the second", s.asked)
		}
		s.Unreserve("cpu")
		if got := <-s.begun; got.ID != second.ID || got.Status != tandem.Pending {
			t.Errorf("got %+v to process, want the second, not started", got)
		}
		close(s.end)
	})
}

func TestAReservationIsGivenBackIfNothingWasAccepted(t *testing.T) {
	whileRunning(t, 2, func(t *testing.T, b *Backend, s *slots, _ func()) {
		key := engine.IdempotencyKey{Key: "k"}
		for _, want := range []int{1, 1} {
			if _, err := b.Claim(t.Context(), kept(time.Now()), key); err != nil {
				t.Fatal(err)
			}
			if got := len(s.free); got != want {
				t.Errorf("%d slots are free, want %d: a repeated request starts nothing", got, want)
			}
		}
		close(s.end)
		closed, err := store.NewQueue[change](b.log, prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		closed.Close()
		b.writer.Queue, closed = closed, b.writer.Queue
		if err := b.Accept(t.Context(), kept(time.Now())); tandem.CodeOf(err) != tandem.CodeDraining || len(s.free) != 1 {
			t.Errorf("got %v and %d free slots, want a closed database and 1", err, len(s.free))
		}
		b.writer.Queue = closed
	})
}

func TestRunEndsAfterWhatWasStartedAsItWasAccepted(t *testing.T) {
	whileRunning(t, 1, func(t *testing.T, b *Backend, s *slots, stop func()) {
		req := kept(time.Now())
		accept := func() error { return b.Accept(t.Context(), req) }
		stopping := func() error { stop(); return nil } // while that is being written
		if errs := together(t, b, accept, stopping); errs[0] != nil {
			t.Fatal(errs[0])
		}
		if got := <-s.begun; got.ID != req.ID {
			t.Errorf("got %s to process, want %s", got.ID, req.ID)
		}
		late := kept(time.Now())
		if err := b.Accept(t.Context(), late); err != nil {
			t.Fatal(err)
		}
		onDisk(t, b, req, tandem.Processing, 1)
		onDisk(t, b, late, tandem.Pending, 0)
		close(s.end)
	})
}

// While storage hangs, more sync requests begin than the queue has room for.
func TestASyncRequestBeginsWithoutWaitingForStorage(t *testing.T) {
	b := openAt(t, filepath.Join(t.TempDir(), "requests.db"), Options{})
	hangs, release := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- b.do(t.Context(), func(*transaction) error { close(hangs); <-release; return nil })
	}()
	<-hangs
	begun := make(chan *tandem.Request, 6*store.MaxBatch)
	go func() {
		defer close(begun)
		for range cap(begun) {
			req := kept(b.now())
			req.Mode, req.Status, req.StartedAt, req.Starts, req.Epoch = tandem.Sync, tandem.Processing, req.CreatedAt, 1, 1
			b.Begin(req)
			begun <- req
		}
	}()
	var all []*tandem.Request
	timeout := time.After(30 * time.Second)
	for waiting := true; waiting; {
		select {
		case req, more := <-begun:
			if waiting = more; more {
				all = append(all, req)
			}
		case <-timeout:
			t.Errorf("%d requests have begun, and the next waits for storage", len(all))
			waiting = false
		}
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	err := store.Each(all, func(req *tandem.Request) error {
		req.Status, req.Result, req.WorkedAt = tandem.Completed, []byte(`{}`), b.now()
		return b.Complete(t.Context(), req)
	})
	if err != nil {
		t.Error(err)
	}
	for _, req := range all {
		onDisk(t, b, req, tandem.Completed, 1)
	}
	soundCounters(t, b)
}
