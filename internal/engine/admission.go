package engine

import (
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"tandem"
)

// concurrency is a limit on requests in flight that follows their latency, in
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
type concurrency struct {
	limit       float64
	least, most float64
	target      time.Duration

	// The window under way: sums over its samples.
	began                       time.Time
	n                           int
	inFlight                    int
	latency, served, unburdened time.Duration

	mean time.Duration // latency, in the last window
	each time.Duration // between two that ended, in the last window
}

// sample is what a request that has ended says of the load.
type sample struct {
	at         time.Time     // when it ended
	inFlight   int           // requests in flight once it was admitted
	latency    time.Duration // from then until it ended
	served     time.Duration // the part of latency that it did not wait for a slot
	unburdened time.Duration // what served is for such a request while few are in flight
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

func newConcurrency(slots int, target time.Duration) concurrency {
	least := float64(min(slots+1, 16)) // with one to follow
	start := float64(2*slots + 64)
	return concurrency{limit: min(start, mostInFlight), least: least, most: mostInFlight, target: target}
}

// admits says whether one more may join so many in flight.
func (c concurrency) admits(inFlight int) bool { return float64(inFlight)+1 <= c.limit }

// note takes in a sample and, if it ends a window, judges that.
func (c concurrency) note(s sample) concurrency {
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
	c.unburdened += s.unburdened
	if lasted := s.at.Sub(c.began); lasted >= windowLongest || lasted >= windowLength && c.n >= windowSamples {
		c = c.judge()
		c.began, c.n, c.inFlight, c.latency, c.served, c.unburdened = s.at, 0, 0, 0, 0, 0
	}
	return c
}

func (c concurrency) judge() concurrency {
	n := time.Duration(c.n)
	c.mean = c.latency / n
	// Over the sums, so that work of the same name may be short or long.
	tolerated := 2*min(c.served, c.unburdened)/n + c.target
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

// appointments spread those who were refused over the time that it takes to
// serve them, so that who comes back when told finds room. It is a value, as
// concurrency is.
type appointments struct{ last time.Time }

// longestAppointment is the longest that anyone is told to stay away.
const longestAppointment = 30 * time.Second

// next makes one more: no sooner than soonest from now, and as long after the
// one before as it takes to serve one. When those made reach further than
// longestAppointment, it is some time in the second half of that: jitter is a
// random number in [0, 1).
func (a appointments) next(now time.Time, soonest, each time.Duration, jitter float64) (appointments, time.Duration) {
	at := now.Add(soonest)
	if next := a.last.Add(each); next.After(at) {
		at = next
	}
	if away := at.Sub(now); away <= longestAppointment {
		return appointments{at}, away
	}
	away := longestAppointment/2 + time.Duration(jitter*float64(longestAppointment/2))
	return appointments{now.Add(longestAppointment)}, away
}

// gate admits the sync requests of one lane, as many at once as its concurrency
// says. Async requests do not pass it: they wait on disk, and meet the sync ones
// in the lane only.
type gate struct {
	mu         sync.Mutex
	limit      concurrency
	inFlight   int
	refused    int64
	comebacks  appointments
	unburdened map[kindOfWork]time.Duration // moving mean of what is served while few are in flight
}

// kindOfWork is what takes about the same time. There are as many as ten for
// each workload.
type kindOfWork struct {
	workload   string
	complexity int
}

func newGate(slots int, target time.Duration) *gate {
	return &gate{limit: newConcurrency(slots, target), unburdened: make(map[kindOfWork]time.Duration)}
}

// passage is one sync request on its way through the service. It ends with
// either left or ended.
type passage struct {
	gate     *gate
	kind     kindOfWork
	entered  time.Time
	begun    time.Time // when it got its slot; zero if it has none
	inFlight int       // once it was admitted
}

// enter admits a sync request, or returns CodeBusy with a time to come back.
func (g *gate) enter(req *tandem.Request) (*passage, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.limit.admits(g.inFlight) {
		return nil, g.busy("too many requests are being worked")
	}
	g.inFlight++
	return &passage{
		gate:     g,
		kind:     kindOfWork{req.Workload, req.Complexity},
		entered:  time.Now(),
		inFlight: g.inFlight,
	}, nil
}

// busy refuses a request. The caller holds mu.
func (g *gate) busy(why string) error {
	g.refused++
	var away time.Duration
	g.comebacks, away = g.comebacks.next(time.Now(), max(time.Second, g.limit.mean), g.limit.each, rand.Float64())
	return &tandem.Error{
		Code:       tandem.CodeBusy,
		Message:    why + "; come back after the time in Retry-After, or use POST /async",
		RetryAfter: away,
	}
}

// left ends a passage that says nothing of the load: its caller did not wait
// for the end.
func (p *passage) left() {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	p.gate.inFlight--
}

// ended ends a passage that was answered.
func (p *passage) ended() {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	p.gate.end(p)
}

// waitedInVain ends a passage that got no slot in time, and returns what to
// answer.
func (p *passage) waitedInVain() error {
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	p.gate.end(p)
	return p.gate.busy("no slot became free in time")
}

// end takes in what a passage has to say. The caller holds mu.
func (g *gate) end(p *passage) {
	now := time.Now()
	s := sample{at: now, inFlight: p.inFlight, latency: now.Sub(p.entered)}
	usual, known := g.unburdened[p.kind]
	if p.begun.IsZero() {
		s.served = usual
	} else {
		s.served = now.Sub(p.begun)
		if !known {
			usual = s.served
		}
		if !known || float64(p.inFlight) <= g.limit.least {
			usual += (s.served - usual) / 8
			g.unburdened[p.kind] = usual
		}
	}
	s.unburdened = usual
	g.inFlight--
	g.limit = g.limit.note(s)
}

// comebacks makes the appointments of those whom a full backlog turns away.
type comebacks struct {
	mu sync.Mutex
	appointments
}

// mayComeBack is err. If it is the refusal of a full backlog it says when there
// is room for its caller: once as many as were refused before have been worked.
func (e *Engine) mayComeBack(err error) error {
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
	e.comebacks.mu.Lock()
	defer e.comebacks.mu.Unlock()
	e.comebacks.appointments, told.RetryAfter = e.comebacks.next(now, time.Second, time.Second/time.Duration(perSecond), rand.Float64())
	return &told
}

// state returns what the gate does at the moment.
func (g *gate) state() (limit, inFlight int, refused int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return int(g.limit.limit), g.inFlight, g.refused
}
