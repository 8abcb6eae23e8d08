package embedded

import (
	"container/heap"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"tandem"
	"tandem/internal/engine"
)

// Each of very many hosts is owed one callback, in an hour. What is kept of each
// is small; a million of them are within what a small machine has.
func TestAHostThatIsOwedACallbackTakesLittleMemory(t *testing.T) {
	const hosts = 100_000
	d := newDeliveries(func(context.Context, string, int) ([]debt, error) { return nil, nil }, Options{Now: time.Now, MaxAttempts: 256})
	before := heapInUse()
	for i := range hosts {
		req := &tandem.Request{ID: tandem.NewID(time.Now())}
		req.Callback.URL = fmt.Sprintf("http://host-%d.example/hook", i)
		req.Callback.NextAt = time.Now().Add(time.Hour)
		d.hold(req.ID)
		d.push(req)
	}
	each := float64(heapInUse()-before) / hosts
	t.Logf("%.0f bytes a host", each)
	if each > 500 {
		t.Errorf("a host takes %.0f bytes, want at most 500", each)
	}
	runtime.KeepAlive(d)
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// oneCallback is a callback to a host, as it is on disk, and the deliveries that
// know of it what they have read or were told.
type oneCallback struct {
	*deliveries
	owedAt time.Time // on disk; zero: it is not owed
	reads  int
	during func() // what happens while the disk is read for the next time
}

const theHost = "example.com:80"

func newOneCallback() *oneCallback {
	c := &oneCallback{}
	c.deliveries = newDeliveries(func(context.Context, string, int) (rows []debt, err error) {
		c.reads++
		if !c.owedAt.IsZero() {
			rows = append(rows, debt{id: "it", at: c.owedAt})
		}
		if during := c.during; during != nil {
			c.during = nil
			during()
		}
		return rows, nil
	}, Options{Now: time.Now, MaxAttempts: 10})
	return c
}

// owe commits that it is owed, after a while.
func (c *oneCallback) owe(after time.Duration) *tandem.Request {
	c.owedAt = time.Now().Add(after)
	return &tandem.Request{ID: "it", Callback: tandem.Callback{URL: "http://example.com/hook", NextAt: c.owedAt}}
}

// serve returns how many attempts are begun.
func (c *oneCallback) serve(t *testing.T) (n int) {
	c.serveDue(t.Context(), admitting{}, func(debt, string) { n++ })
	return n
}

// deliver ends an attempt, which was the last.
func (c *oneCallback) deliver() {
	c.owedAt = time.Time{}
	c.ended(theHost)
	c.settled("it")
}

// admitting are steps that admit all attempts.
type admitting struct{ engine.Steps }

func (admitting) Admit(string) engine.Admission { return engine.Admission{OK: true} }

// A page is older than what has happened since, and may be newer than what this
// process was told of it.
func TestACallbackIsInOnePlaceWhateverIsReadOfIt(t *testing.T) {
	begin := func(c *oneCallback, req *tandem.Request) int {
		if _, _, ok := c.begin(req, admitting{}); ok {
			return 1
		}
		c.push(req)
		return 0
	}
	for _, row := range []struct {
		name string
		act  func(t *testing.T, c *oneCallback) (attempts int) // at most one of which may be under way at the end
		want int
	}{
		{"it is read before its step hands it on", func(t *testing.T, c *oneCallback) int {
			c.hold("it")
			req := c.owe(0)
			c.takeUp(theHost)
			n := c.serve(t)
			n += begin(c, req)
			return n + c.serve(t)
		}, 1},
		{"it is handed on while it is read", func(t *testing.T, c *oneCallback) int {
			c.hold("it")
			req, n := c.owe(0), 0
			c.takeUp(theHost)
			c.during = func() { n += begin(c, req) }
			n += c.serve(t)
			return n + c.serve(t)
		}, 1},
		{"its attempt goes on while it is read", func(t *testing.T, c *oneCallback) int {
			c.owe(0)
			c.takeUp(theHost)
			n := c.serve(t)
			c.takeUp(theHost)
			return n + c.serve(t)
		}, 1},
		{"its attempt fails while it is read", func(t *testing.T, c *oneCallback) int {
			c.owe(0)
			c.takeUp(theHost)
			n := c.serve(t)
			c.takeUp(theHost)
			c.during = func() {
				n-- // it has ended
				req := c.owe(time.Minute)
				c.ended(theHost)
				c.push(req)
			}
			n += c.serve(t)
			h := c.hosts[theHost]
			if h == nil || len(h.debts) != 1 || time.Until(h.debts[0].at) < 50*time.Second || time.Until(h.lookAt) < 50*time.Second {
				t.Errorf("its host is %+v, want it to be owed one callback in a minute", h)
			}
			c.owedAt = time.Time{}
			delete(c.hosts, theHost) // which is as far as this goes
			delete(c.held, "it")
			return n
		}, 0},
		{"its attempt succeeds while it is read", func(t *testing.T, c *oneCallback) int {
			c.owe(0)
			c.takeUp(theHost)
			n := c.serve(t)
			c.takeUp(theHost)
			c.during = func() { n--; c.deliver() }
			return n + c.serve(t)
		}, 0},
		{"its attempt was not recorded", func(t *testing.T, c *oneCallback) int {
			c.owe(0)
			c.takeUp(theHost)
			n := c.serve(t)
			c.during = func() {
				n--
				c.ended(theHost)
				c.leave("it", theHost, 0)
			}
			c.takeUp(theHost)
			return n + c.serve(t)
		}, 1},
		{"it is cancelled before its step has begun", func(t *testing.T, c *oneCallback) int {
			c.hold("it") // the step
			c.hold("it") // the cancellation
			c.push(c.owe(0))
			n := c.serve(t)
			c.leave("it", theHost, 0) // the step has found that it has moved on
			return n + c.serve(t)
		}, 1},
		{"the step of what was cancelled lets go of it while it is read", func(t *testing.T, c *oneCallback) int {
			c.takeUp(theHost)
			c.hold("it")
			c.hold("it")
			c.push(c.owe(0)) // which is left to the disk
			c.during = func() { c.leave("it", theHost, 0) }
			return c.serve(t)
		}, 1},
		{"the step of what was cancelled lets go of it after it was read", func(t *testing.T, c *oneCallback) int {
			c.takeUp(theHost)
			c.hold("it")
			c.hold("it")
			c.push(c.owe(0))
			n := c.serve(t)
			c.leave("it", theHost, 0)
			return n + c.serve(t)
		}, 1},
		{"it is owed again after it was delivered", func(t *testing.T, c *oneCallback) int {
			c.takeUp(theHost)
			c.owe(0)
			c.serve(t)
			c.deliver()
			c.hold("it")
			c.push(c.owe(0))
			return c.serve(t)
		}, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			c := newOneCallback()
			if got := row.act(t, c); got != row.want {
				t.Errorf("%d attempts are under way, want %d", got, row.want)
			}
			for range row.want {
				c.deliver()
			}
			if n := c.serve(t); n != 0 {
				t.Errorf("it is attempted %d times more after it was delivered", n)
			}
			if len(c.held) != 0 || len(c.hosts) != 0 || c.loaded != 0 || c.inFlight != 0 {
				t.Errorf("in memory stay %v and %v, %d loaded and %d in flight, want nothing", c.held, c.hosts, c.loaded, c.inFlight)
			}
		})
	}
}

// A host is owed one callback in an hour, and very many that succeed.
func TestTheAgendaHasEveryHostOnce(t *testing.T) {
	c := newOneCallback()
	later := &tandem.Request{ID: "later", Callback: tandem.Callback{URL: "http://example.com/hook", NextAt: time.Now().Add(time.Hour)}}
	c.hold(later.ID)
	c.push(later)
	for range 10_000 {
		c.hold("it")
		c.push(c.owe(0))
		if n := c.serve(t); n != 1 {
			t.Fatalf("%d attempts are begun, want 1", n)
		}
		c.deliver()
		c.serve(t)
	}
	if len(c.agenda) != 1 || len(c.hosts) != 1 {
		t.Errorf("%d appointments of %d hosts, want 1 of 1", len(c.agenda), len(c.hosts))
	}
}

func TestTheAgendaGoesByTimeHoweverOftenItIsMoved(t *testing.T) {
	d := newOneCallback().deliveries
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Now()
	want := make(map[string]time.Time)
	for range 2000 {
		name, at := fmt.Sprint("host", random.IntN(100)), now.Add(time.Duration(random.IntN(10_000))*time.Second)
		d.lookAt(d.host(name), at)
		if first, known := want[name]; !known || at.Before(first) {
			want[name] = at
		}
		if random.IntN(10) == 0 {
			first := heap.Pop(&d.agenda).(*hostQueue)
			for name, at := range want {
				if at.Before(first.lookAt) {
					t.Fatalf("%s comes before %s, whose time is %v earlier", first.name, name, first.lookAt.Sub(at))
				}
			}
			delete(want, first.name)
		}
	}
	got := make(map[string]time.Time)
	for i, h := range d.agenda {
		got[h.name] = h.lookAt
		if h.place != i+1 {
			t.Errorf("%s is at %d and takes itself to be at %d", h.name, i+1, h.place)
		}
	}
	if len(got) != len(d.agenda) || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the agenda has %v, want %v", got, want)
	}
}
