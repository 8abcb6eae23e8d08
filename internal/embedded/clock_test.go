package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"tandem"
	"tandem/internal/callback"
	"tandem/internal/egress"
	"tandem/internal/embedded"
	"tandem/internal/engine"
	"tandem/internal/storetest"
	"tandem/webhook"
	"tandem/work"
)

// wallClock is a clock that can be set. As on a machine whose clock is set, its
// times tell the new wall time, and their monotonic reading goes on as before.
type wallClock struct{ ahead atomic.Int64 } // in seconds

func (c *wallClock) set(ahead time.Duration) { c.ahead.Store(int64(ahead / time.Second)) }

// now is time.Now with another wall time. There is no other way to make such a
// time than to know how package time lays it out: the seconds are above the 30
// bits of the nanoseconds.
func (c *wallClock) now() time.Time {
	t := time.Now()
	*(*uint64)(unsafe.Pointer(&t)) += uint64(c.ahead.Load()) << 30
	return t
}

func TestTheClockOfTheseTestsIsOneThatWasSet(t *testing.T) {
	clock := &wallClock{}
	for _, ahead := range []time.Duration{0, time.Hour, -time.Hour} {
		clock.set(ahead)
		before, now := time.Now(), clock.now()
		if wall := now.Round(0).Sub(before.Round(0)) - ahead; wall < 0 || wall > time.Minute {
			t.Errorf("set by %v, the wall time is %v off", ahead, wall)
		}
		if passed := now.Sub(before); passed < 0 || passed > time.Minute {
			t.Errorf("set by %v, %v have passed", ahead, passed)
		}
	}
}

// clocked is an engine on a database, by a clock that can be set, with the demo
// policy: attempts at once, after 1 s and after 2 s, each a fifth less at most.
type clocked struct {
	*engine.Engine
	stop func()
}

func newClocked(t *testing.T, database string, clock *wallClock) clocked {
	t.Helper()
	backend, err := embedded.Open(t.Context(), database, embedded.Options{Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	registry, err := work.Builtin(work.Options{Rounds: 1})
	if err != nil {
		t.Fatal(err)
	}
	guard, err := egress.New(egress.Options{LoopbackAnyPort: true})
	if err != nil {
		t.Fatal(err)
	}
	sender := callback.NewSender(guard.Dial, callback.Options{})
	secrets := []webhook.Secret{webhook.NewSecret()}
	e, err := engine.New(backend, registry, guard, sender, func(string) []webhook.Secret { return secrets }, engine.Options{Policy: callback.Demo, Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- e.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		e.Halt()
		if err := errors.Join(<-ran, backend.Close()); err != nil {
			t.Errorf("stop: %v", err)
		}
		sender.Close()
	})
	t.Cleanup(stop)
	return clocked{e, stop}
}

// failing is a receiver that refuses so many attempts of each callback, and
// keeps the times of all by its path.
type failing struct {
	url   string
	mu    sync.Mutex
	times map[string][]time.Time
}

func newFailing(t *testing.T, refused int) *failing {
	t.Helper()
	f := &failing{times: make(map[string][]time.Time)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.times[r.URL.Path] = append(f.times[r.URL.Path], time.Now())
		if len(f.times[r.URL.Path]) <= refused {
			w.WriteHeader(http.StatusNotFound) // which does not count against the host
		}
	}))
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

func (f *failing) attempts() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, times := range f.times {
		n += len(times)
	}
	return n
}

// The clock is set by an hour while callbacks wait for their next attempt. None
// comes early, none is lost, and none is made more often than it may.
func TestAClockThatIsSetMovesNoRetry(t *testing.T) {
	const callbacks = 20
	for _, row := range []struct {
		name string
		to   []time.Duration // where the clock is set, one after the other, while attempts go on
	}{
		{"forth", []time.Duration{time.Hour}},
		{"back", []time.Duration{-time.Hour}},
		{"back and forth, again and again", []time.Duration{time.Hour, -time.Hour, time.Hour, 0, -time.Hour, 0}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			clock := &wallClock{}
			e := newClocked(t, filepath.Join(t.TempDir(), "requests.db"), clock)
			rcv := newFailing(t, 2)
			var ids []string
			for i := range callbacks {
				req, _, err := e.Accept(t.Context(), engine.Submission{Workload: "wait", Complexity: 1, Data: []byte(`{}`), CallbackURL: fmt.Sprintf("%s/%d", rcv.url, i)})
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, req.ID)
			}
			for i, to := range row.to {
				storetest.Eventually(t, "attempts go on", func() bool { return rcv.attempts() >= callbacks*(1+2*i/len(row.to)) })
				clock.set(to)
			}
			for _, id := range ids {
				storetest.Eventually(t, "every callback is delivered", func() bool {
					req, err := e.Find(t.Context(), tandem.Anyone, id, 0)
					if err != nil {
						t.Fatal(err)
					}
					return req.Callback.State == tandem.CallbackDelivered
				})
				req, err := e.Find(t.Context(), tandem.Anyone, id, 0)
				if err != nil {
					t.Fatal(err)
				}
				if req.Callback.Attempts != 3 || req.Status != tandem.CallbackSent || req.ProcessingTime() < 0 {
					t.Errorf("the record is %+v", req)
				}
			}
			rcv.mu.Lock()
			defer rcv.mu.Unlock()
			longest := time.Duration(0)
			for path, times := range rcv.times {
				if len(times) != 3 {
					t.Errorf("%s was tried %d times, want 3", path, len(times))
					continue
				}
				// A fifth is jitter; the receiver's clock starts a little late.
				first, second := times[1].Sub(times[0]), times[2].Sub(times[1])
				if first < 750*time.Millisecond || second < 1550*time.Millisecond {
					t.Errorf("%s was tried after %v and %v, before its time", path, first, second)
				}
				longest = max(longest, first, second)
			}
			t.Logf("%d callbacks, 3 attempts each; the longest gap is %v", len(rcv.times), longest.Round(time.Millisecond))
		})
	}
}

// A restart knows no more than the rows do, and those carry wall time. A retry
// that was a second away is due at once if the clock was set forth meanwhile,
// and waits for the clock if it was set back; but it is not lost.
func TestARestartAfterTheClockWasSetLosesNoRetry(t *testing.T) {
	for _, row := range []struct {
		name     string
		ahead    time.Duration
		then     time.Duration // where the clock is set after the restart
		restarts int
	}{
		{"forth", time.Hour, time.Hour, 1},
		{"back, and right again before the next restart", -time.Hour, 0, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			clock, database := &wallClock{}, filepath.Join(t.TempDir(), "requests.db")
			e := newClocked(t, database, clock)
			rcv := newFailing(t, 1)
			req, _, err := e.Accept(t.Context(), engine.Submission{Workload: "wait", Complexity: 1, Data: []byte(`{}`), CallbackURL: rcv.url + "/a"})
			if err != nil {
				t.Fatal(err)
			}
			storetest.Eventually(t, "the first attempt is on record", func() bool {
				found, err := e.Find(t.Context(), tandem.Anyone, req.ID, 0)
				if err != nil {
					t.Fatal(err)
				}
				return found.Callback.Attempts == 1
			})
			e.stop()
			clock.set(row.ahead)
			for range row.restarts {
				e.stop()
				e = newClocked(t, database, clock)
				clock.set(row.then)
			}
			storetest.Eventually(t, "it is delivered", func() bool {
				found, err := e.Find(t.Context(), tandem.Anyone, req.ID, 0)
				if err != nil && !strings.Contains(err.Error(), "closed") {
					t.Fatal(err)
				}
				return found.Callback.State == tandem.CallbackDelivered
			})
			if n := rcv.attempts(); n != 2 {
				t.Errorf("there were %d attempts, want 2", n)
			}
		})
	}
}
