// Package limit keeps callers within a rate: so many requests in any window of
// a given length. Its decisions are exact and its memory is bounded.
package limit

import (
	"container/list"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Rate allows N requests in any stretch of time as long as Window. The zero
// Rate allows everything.
type Rate struct {
	N      int
	Window time.Duration
}

// ParseRate reads a rate such as "50/60s".
func ParseRate(s string) (Rate, error) {
	n, window, ok := strings.Cut(s, "/")
	count, err := strconv.Atoi(strings.TrimSpace(n))
	length, lengthErr := time.ParseDuration(strings.TrimSpace(window))
	if !ok || err != nil || lengthErr != nil || count < 1 || count > 1_000_000 || length < time.Second {
		return Rate{}, fmt.Errorf("rate %q must be a count and a window of at least a second, such as 50/60s", s)
	}
	return Rate{count, length}, nil
}

// String is what ParseRate reads, in seconds.
func (r Rate) String() string {
	return strconv.Itoa(r.N) + "/" + strconv.FormatFloat(r.Window.Seconds(), 'f', -1, 64) + "s"
}

// Decision is what a Limiter says to one request.
type Decision struct {
	OK        bool
	Limit     int           // requests allowed in the window
	Window    time.Duration // its length
	Remaining int           // how many more are allowed now
	Reset     time.Duration // until Remaining grows
	Retry     time.Duration // until a refused request would be allowed; 0 if it was
}

// maxCallers and maxLogged bound the callers and the requests that are kept in
// mind. Past them the caller not seen for longest is forgotten, and begins anew
// when it returns.
const (
	maxCallers = 10_000
	maxLogged  = 2_000_000
)

// Taker keeps callers within one rate. It is safe for concurrent use.
type Taker interface {
	// Take decides on a request of the caller at time now, which must carry a
	// monotonic reading, and counts it if it is allowed.
	Take(key string, now time.Time) Decision
	// Counts returns how many requests were allowed and refused here, and how
	// many callers are kept in mind.
	Counts() (allowed, refused int64, callers int)
}

// Limiter keeps a sliding log of every caller's allowed requests, on the
// monotonic clock. It is safe for concurrent use.
type Limiter struct {
	rate  Rate
	epoch time.Time // times are counted from it

	mu      sync.Mutex
	callers map[string]*list.Element // of *caller
	recent  *list.List               // the most recently seen first
	logged  int                      // requests in all logs
	allowed int64
	refused int64
}

// caller is one key's log: a ring of the times of its last allowed requests.
type caller struct {
	key   string
	times []time.Duration
	next  int // where the next time goes; the oldest, once the ring is full
}

// New returns a Limiter for the rate.
func New(rate Rate) *Limiter {
	return &Limiter{rate: rate, epoch: time.Now(), callers: make(map[string]*list.Element), recent: list.New()}
}

// Take decides on a request of the caller at time now, which must carry a
// monotonic reading, and counts it if it is allowed.
func (l *Limiter) Take(key string, now time.Time) Decision {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate == (Rate{}) {
		l.allowed++
		return Decision{OK: true}
	}
	c := l.caller(key)
	at := now.Sub(l.epoch)
	begin := at - l.rate.Window
	used, oldest := c.since(begin)
	d := Decision{Limit: l.rate.N, Window: l.rate.Window}
	if used >= l.rate.N {
		d.Retry = oldest - begin
		d.Reset = d.Retry
		l.refused++
		return d
	}
	l.logged -= len(c.times)
	c.add(at, l.rate.N)
	l.logged += len(c.times)
	for l.logged > maxLogged && len(l.callers) > 1 {
		l.forgetOne()
	}
	l.allowed++
	d.OK, d.Remaining, d.Reset = true, l.rate.N-used-1, l.rate.Window
	if used > 0 {
		d.Reset = oldest - begin
	}
	return d
}

// Look returns what is left to the caller at time now, and counts nothing.
func (l *Limiter) Look(key string, now time.Time) Decision {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := Decision{OK: true, Limit: l.rate.N, Window: l.rate.Window, Remaining: l.rate.N, Reset: l.rate.Window}
	e, ok := l.callers[key]
	if !ok {
		return d
	}
	begin := now.Sub(l.epoch) - l.rate.Window
	used, oldest := e.Value.(*caller).since(begin)
	if used == 0 {
		return d
	}
	d.Remaining, d.Reset = l.rate.N-used, oldest-begin
	if d.OK = d.Remaining > 0; !d.OK {
		d.Retry = d.Reset
	}
	return d
}

// Counts returns how many requests were allowed and refused, and how many
// callers are kept in mind.
func (l *Limiter) Counts() (allowed, refused int64, callers int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.allowed, l.refused, len(l.callers)
}

func (l *Limiter) caller(key string) *caller {
	if e, ok := l.callers[key]; ok {
		l.recent.MoveToFront(e)
		return e.Value.(*caller)
	}
	if len(l.callers) >= maxCallers {
		l.forgetOne()
	}
	c := &caller{key: key}
	l.callers[key] = l.recent.PushFront(c)
	return c
}

// forgetOne forgets the caller not seen for longest.
func (l *Limiter) forgetOne() {
	last := l.recent.Remove(l.recent.Back()).(*caller)
	delete(l.callers, last.key)
	l.logged -= len(last.times)
}

// since returns how many logged requests are younger than begin, and the time
// of the oldest of these.
func (c *caller) since(begin time.Duration) (n int, oldest time.Duration) {
	at := func(i int) time.Duration { return c.times[(c.next+i)%len(c.times)] } // 0: the oldest
	first := sort.Search(len(c.times), func(i int) bool { return at(i) > begin })
	if first == len(c.times) {
		return 0, 0
	}
	return len(c.times) - first, at(first)
}

// add logs a request. Callers at once may come a little out of order; the log
// stays in order, and so counts such a request no shorter than it should.
func (c *caller) add(at time.Duration, limit int) {
	if n := len(c.times); n > 0 {
		at = max(at, c.times[(c.next+n-1)%n])
	}
	if len(c.times) < limit {
		c.times = append(c.times, at) // next stays 0: the ring is in order
		return
	}
	c.times[c.next] = at
	c.next = (c.next + 1) % limit
}
