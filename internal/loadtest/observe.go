package loadtest

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// observer looks at a run while it goes on: it samples what is in flight, cuts
// what was recorded into seconds, and reports progress.
type observer struct {
	run     *run
	planned atomic.Int64
	done    chan struct{}
	ended   chan struct{}

	// What the generator and the service use in all, and the service while a block
	// runs. They are looked at every reporting.
	generator, service *meter
	blockMeter         atomic.Pointer[meter]

	mu                   sync.Mutex
	total, second, block *tally
	fresh                *tally // empty
	at                   int    // the second that is under way
	began                time.Duration
	samples              int
	inFlight, backlog    int // sums of samples
	series               []Second
}

// The observer samples about every sampling, and calls Progress every reporting.
const (
	sampling  = 5 * time.Millisecond
	reporting = 250 * time.Millisecond
)

// observe starts the observer of a run against a service.
func (r *run) observe(service process) *observer {
	o := &observer{
		run: r, done: make(chan struct{}), ended: make(chan struct{}),
		generator: self().meter(), service: service.meter(),
		total: newTally(), second: newTally(), block: newTally(), fresh: newTally(),
	}
	go func() {
		defer close(o.ended)
		// At irregular times, so that a regular load is not sampled in step.
		timer := time.NewTimer(sampling)
		defer timer.Stop()
		next := reporting
		for {
			select {
			case <-timer.C:
				timer.Reset(sampling/2 + rand.N(sampling))
				now := r.now()
				o.sample(now)
				if now >= next {
					o.look()
					o.report(false)
					next = now + reporting
				}
			case <-o.done:
				return
			}
		}
	}()
	return o
}

// stop ends the observer; what it has gathered is whole then.
func (o *observer) stop() {
	close(o.done)
	<-o.ended
	o.mu.Lock()
	o.take()
	o.finishSecond()
	o.mu.Unlock()
	o.report(true)
}

// look reads how much memory is in use.
func (o *observer) look() {
	for _, m := range []*meter{o.generator, o.service, o.blockMeter.Load()} {
		if m != nil {
			m.read()
		}
	}
}

// sample counts what is in flight, and ends the second when it is over.
func (o *observer) sample(now time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if at := int(now / time.Second); at != o.at {
		o.take()
		o.finishSecond()
		o.at = at
	}
	o.samples++
	o.inFlight += int(o.run.client.inFlight.Load())
	o.backlog += o.run.backlog()
}

// backlog is how many async requests are accepted and not completed.
func (r *run) backlog() int { return r.book.backlog() + int(r.polling.Load()) }

// take takes over what was recorded since the last time.
func (o *observer) take() {
	o.run.recorder.takeInto(o.fresh)
	for _, into := range []*tally{o.total, o.second, o.block} {
		into.add(o.fresh)
	}
	o.fresh.reset()
}

func (o *observer) finishSecond() {
	now := o.run.now()
	s := Second{At: o.at, Span: (now - o.began).Seconds(), Lag: o.second.lag.pack(), CallbackLag: o.second.callbackLag.pack()}
	if o.samples > 0 {
		s.InFlight = float64(o.inFlight) / float64(o.samples)
		s.Backlog = float64(o.backlog) / float64(o.samples)
	}
	for i, counts := range []*Counts{&s.Sync, &s.Async} {
		a := &o.second.arms[i]
		*counts = Counts{
			Sent: a.sent, Answered: a.answered, Waited: a.waited.Seconds(),
			Accepted: a.accepted, Completed: a.completed, Failed: a.rejected + a.errored + a.timedOut + a.failed,
			Response: a.response.pack(), Completion: a.completion.pack(),
		}
	}
	if s.InFlight+s.Backlog > 0 || s.Sync.Sent+s.Sync.Answered+s.Async.Sent+s.Async.Answered+s.Async.Completed+s.Async.Failed > 0 {
		o.series = append(o.series, s)
	}
	o.began = now
	o.second.reset()
	o.samples, o.inFlight, o.backlog = 0, 0, 0
}

// cut forgets what a turn before may have left.
func (o *observer) cut() {
	o.blockMeter.Store(o.service.process.meter())
	o.mu.Lock()
	defer o.mu.Unlock()
	o.take()
	o.block.reset()
}

// cutBlock returns what was recorded of a turn since cut.
func (o *observer) cutBlock(t turn, started, took time.Duration) Block {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.take()
	a := &o.block.arms[t.arm]
	return Block{
		Pair: t.pair, Arm: string("ab"[t.arm]), Started: started, Duration: took,
		Completed: a.completed, Response: a.response.pack(), Completion: a.completion.pack(),
	}
}

// Progress is how far a run is.
type Progress struct {
	Elapsed  time.Duration
	Planned  int
	Rate     float64 // planned per second, at first; 0: a closed model
	InFlight int     // requests written and not answered
	Backlog  int     // async requests accepted and not completed
	Sync     ArmProgress
	Async    ArmProgress
	Done     bool
}

// ArmProgress is how far one arm is. Response is that of the run so far.
type ArmProgress struct {
	Sent, Completed, Failed int
	Response                Latency
}

func (o *observer) report(done bool) {
	if o.run.opts.Progress == nil {
		return
	}
	o.mu.Lock()
	o.take()
	p := Progress{
		Elapsed: o.run.now(), Planned: int(o.planned.Load()), Rate: o.run.spec.Rate,
		InFlight: int(o.run.client.inFlight.Load()), Backlog: o.run.backlog(), Done: done,
	}
	for i, arm := range []*ArmProgress{&p.Sync, &p.Async} {
		a := &o.total.arms[i]
		*arm = ArmProgress{Sent: a.sent, Completed: a.completed, Failed: a.rejected + a.errored + a.timedOut + a.failed, Response: a.response.clone()}
	}
	o.mu.Unlock()
	o.run.opts.Progress(p)
}
