package engine

import (
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"tandem"
)

// concurrencyLimit is a limit on requests in flight that follows their latency, in
// the manner of TCP Vegas and of Netflix's concurrency-limits. It is a value:
// its methods take the present and return the limit of the future.
//
// What ended is judged by the window. By Little's law latency would be as
// tolerated - twice what it is without load, and target - if as many were in
// flight as were when those judged were admitted, times tolerated latency over
// theirs. If latency is more, the limit falls to that number: it finds its place
// in one window, and those who were admitted before it fell do not make it fall
// twice. If it is less, the limit rises towards that number, by its square root
// a window and only if it was made use of.
//
// Unlike those, it need not guess latency without load from the least it has
// seen, which fails where short and long work is mixed: how long a request
// waited for its slot is known, and its sample says what it took without.
type concurrencyLimit struct {
	limit       float64
	least, most float64
	target      time.Duration

	// The window under way: sums over its samples.
	began                   time.Time
	n                       int
	inFlight                int
	latency, served, noLoad time.Duration

	mean time.Duration // latency, in the last window
	each time.Duration // between two that ended, in the last window
}

// sample is what a request that has ended says of the load.
type sample struct {
	at       time.Time     // when it ended
	inFlight int           // requests in flight once it was admitted
	latency  time.Duration // from then until it ended
	served   time.Duration // the part of latency that it did not wait for a slot
	noLoad   time.Duration // what served is for such a request while few are in flight
}

// A window ends with a sample, once it has lasted and holds as many as make a
// mean; or once it has lasted long, whatever it holds.
const (
	windowLength  = 100 * time.Millisecond
	windowSamples = 10
	windowLongest = time.Second
)

// mostInFlight bounds the sync requests of a lane, however short their work is.
const mostInFlight = 10_000

func newConcurrencyLimit(slots int, target time.Duration) concurrencyLimit {
	least := float64(min(slots+1, 16)) // with one to follow
	start := float64(2*slots + 64)
	return concurrencyLimit{limit: min(start, mostInFlight), least: least, most: mostInFlight, target: target}
}

// admits says whether one more may join so many in flight.
func (c concurrencyLimit) admits(inFlight int) bool { return float64(inFlight)+1 <= c.limit }

// note takes in a sample and, if it ends a window, judges that.
func (c concurrencyLimit) note(s sample) concurrencyLimit {
	if c.n == 0 {
		c.began = s.at.Add(-s.latency)
		if longest := s.at.Add(-windowLongest); c.began.Before(longest) {
			c.began = longest
		}
	}
	c.n++
	c.inFlight += s.inFlight
	c.latency += s.latency
	c.served += s.served
	c.noLoad += s.noLoad
	if lasted := s.at.Sub(c.began); lasted >= windowLongest || lasted >= windowLength && c.n >= windowSamples {
		c = c.judge()
		c.began, c.n, c.inFlight, c.latency, c.served, c.noLoad = s.at, 0, 0, 0, 0, 0
	}
	return c
}

func (c concurrencyLimit) judge() concurrencyLimit {
	n := time.Duration(c.n)
	c.mean = c.latency / n
	// Over the sums, so that work of the same name may be short or long.
	tolerated := 2*min(c.served, c.noLoad)/n + c.target
	inFlight := float64(c.inFlight) / float64(c.n)
	c.each = time.Duration(float64(c.mean) / inFlight) // Little's law
	fits := inFlight * tolerated.Seconds() / c.mean.Seconds()
	switch {
	case c.mean > tolerated:
		c.limit = max(c.least, min(c.limit, fits))
	case inFlight >= c.limit/2:
		c.limit = min(c.most, max(c.limit, min(fits, c.limit+math.Sqrt(c.limit))))
	}
	return c
}

// retryAfter spreads those who were refused over the time that it takes to serve
// them, so that who comes back when told finds room. It is a value, as
// concurrencyLimit is.
type retryAfter struct{ last time.Time }

// longestRetryAfter is the longest that anyone is told to stay away.
const longestRetryAfter = 30 * time.Second

// next is when one more is to come back: no sooner than soonest from now, and as
// long after the one before as it takes to serve one. When those who were told
// reach further than longestRetryAfter, it is some time in the second half of
// that: jitter is a random number in [0, 1).
func (r retryAfter) next(now time.Time, soonest, each time.Duration, jitter float64) (retryAfter, time.Duration) {
	at := now.Add(soonest)
	if next := r.last.Add(each); next.After(at) {
		at = next
	}
	if away := at.Sub(now); away <= longestRetryAfter {
		return retryAfter{at}, away
	}
	away := longestRetryAfter/2 + time.Duration(jitter*float64(longestRetryAfter/2))
	return retryAfter{now.Add(longestRetryAfter)}, away
}

// limiter is the adaptive concurrency limiter of one lane's sync requests. Async
// requests need no permit: they wait on disk, and meet the sync ones in the lane
// only.
type limiter struct {
	mu         sync.Mutex
	limit      concurrencyLimit
	inFlight   int
	refused    int64
	retryAfter retryAfter
	noLoad     map[kindOfWork]time.Duration // moving mean of what is served while few are in flight
}

// kindOfWork is what takes about the same time. There are as many as ten for
// each workload.
type kindOfWork struct {
	workload   string
	complexity int
}

func newLimiter(slots int, target time.Duration) *limiter {
	return &limiter{limit: newConcurrencyLimit(slots, target), noLoad: make(map[kindOfWork]time.Duration)}
}

// permit is what a sync request is in flight by. It ends with one of drop, record
// and timeOut.
type permit struct {
	limiter  *limiter
	kind     kindOfWork
	entered  time.Time
	begun    time.Time // when it got its slot; zero if it has none
	inFlight int       // once it was admitted
}

// acquire admits a sync request, or returns CodeBusy with a time to come back.
func (l *limiter) acquire(req *tandem.Request) (*permit, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.limit.admits(l.inFlight) {
		return nil, l.busy("too many requests are being worked")
	}
	l.inFlight++
	return &permit{
		limiter:  l,
		kind:     kindOfWork{req.Workload, req.Complexity},
		entered:  time.Now(),
		inFlight: l.inFlight,
	}, nil
}

// busy refuses a request. The caller holds mu.
func (l *limiter) busy(why string) error {
	l.refused++
	var away time.Duration
	l.retryAfter, away = l.retryAfter.next(time.Now(), max(time.Second, l.limit.mean), l.limit.each, rand.Float64())
	return &tandem.Error{
		Code:       tandem.CodeBusy,
		Message:    why + "; come back after the time in Retry-After, or use POST /async",
		RetryAfter: away,
	}
}

// drop ends a permit that says nothing of the load: its caller did not wait
// for the end.
func (p *permit) drop() {
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	p.limiter.inFlight--
}

// record ends the permit of a request that was answered.
func (p *permit) record() {
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	p.limiter.end(p)
}

// timeOut ends the permit of a request that got no slot in time, and returns what to
// answer.
func (p *permit) timeOut() error {
	p.limiter.mu.Lock()
	defer p.limiter.mu.Unlock()
	p.limiter.end(p)
	return p.limiter.busy("no slot became free in time")
}

// end takes in what a permit has to say. The caller holds mu.
func (l *limiter) end(p *permit) {
	now := time.Now()
	s := sample{at: now, inFlight: p.inFlight, latency: now.Sub(p.entered)}
	usual, known := l.noLoad[p.kind]
	if p.begun.IsZero() {
		s.served = usual
	} else {
		s.served = now.Sub(p.begun)
		if !known {
			usual = s.served
		}
		if !known || float64(p.inFlight) <= l.limit.least {
			usual += (s.served - usual) / 8
			l.noLoad[p.kind] = usual
		}
	}
	s.noLoad = usual
	l.inFlight--
	l.limit = l.limit.note(s)
}

// refusals tell those whom a full backlog turns away when to come back.
type refusals struct {
	mu sync.Mutex
	retryAfter
}

// withRetryAfter is err. If it is the refusal of a full backlog it says when there
// is room for its caller: once as many as were refused before have been worked.
func (e *Engine) withRetryAfter(err error) error {
	busy, ok := errors.AsType[*tandem.Error](err)
	if !ok || busy.Code != tandem.CodeBusy {
		return err
	}
	now := e.opts.Now()
	perSecond := e.seen.worked[tandem.Async].busiest(now, 10)
	if perSecond == 0 { // nothing is known: as the backend says
		return err
	}
	told := *busy
	e.refusals.mu.Lock()
	defer e.refusals.mu.Unlock()
	e.refusals.retryAfter, told.RetryAfter = e.refusals.next(now, time.Second, time.Second/time.Duration(perSecond), rand.Float64())
	return &told
}

// state returns what the limiter does at the moment.
func (l *limiter) state() (limit, inFlight int, refused int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(l.limit.limit), l.inFlight, l.refused
}
