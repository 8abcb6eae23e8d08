package loadtest

import (
	"maps"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// recorder takes what happens, from many goroutines at once, and hands it out
// by intervals. It is striped, so that the goroutines seldom wait for one
// another, and a stripe is exchanged for an empty one to be read, so that they
// never wait for a histogram to be merged.
type recorder struct {
	window  atomic.Int64 // when it ends, in run time: what comes later is not in the window's counts; 0: it has no end yet
	stripes []*stripe
	next    atomic.Uint32
	spare   *tally // empty
}

type stripe struct {
	mu    sync.Mutex
	tally *tally
}

// tally is what happened in some time: the counts and the distributions.
type tally struct {
	arms                           [2]armTally
	lag, callbackLag, verification Latency
}

type armTally struct {
	sent, accepted, rejected, errored, timedOut int
	completed, failed                           int
	answered                                    int           // well or not
	waited                                      time.Duration // of the answered, from written to answered
	windowAccepted, windowCompleted             int
	errors                                      map[string]int

	response, uncorrected, completion, unsuccessful Latency
}

func newTally() *tally {
	t := &tally{lag: newLatency(), callbackLag: newLatency(), verification: newLatency()}
	for i := range t.arms {
		t.arms[i] = armTally{
			errors:   map[string]int{},
			response: newLatency(), uncorrected: newLatency(), completion: newLatency(), unsuccessful: newLatency(),
		}
	}
	return t
}

func newRecorder(window time.Duration) *recorder {
	r := &recorder{spare: newTally()}
	r.endWindow(window)
	for range runtime.GOMAXPROCS(0) {
		r.stripes = append(r.stripes, &stripe{tally: newTally()})
	}
	return r
}

// record calls note with a tally that it may write to.
func (r *recorder) record(note func(*tally)) {
	s := r.stripes[r.next.Add(1)%uint32(len(r.stripes))]
	s.mu.Lock()
	note(s.tally)
	s.mu.Unlock()
}

// endWindow ends the window at a time.
func (r *recorder) endWindow(at time.Duration) { r.window.Store(int64(at)) }

// inWindow is 1 if something that happened at t belongs to the window.
func (r *recorder) inWindow(t time.Duration) int {
	if end := time.Duration(r.window.Load()); end == 0 || t <= end {
		return 1
	}
	return 0
}

// takeInto moves what was recorded since the last call into a tally. One
// goroutine at a time may call it.
func (r *recorder) takeInto(into *tally) {
	for _, s := range r.stripes {
		s.mu.Lock()
		s.tally, r.spare = r.spare, s.tally
		s.mu.Unlock()
		into.add(r.spare)
		r.spare.reset()
	}
}

func (t *tally) add(o *tally) {
	t.lag.merge(o.lag)
	t.callbackLag.merge(o.callbackLag)
	t.verification.merge(o.verification)
	for i := range t.arms {
		t.arms[i].add(&o.arms[i])
	}
}

func (a *armTally) add(o *armTally) {
	a.sent += o.sent
	a.accepted += o.accepted
	a.rejected += o.rejected
	a.errored += o.errored
	a.timedOut += o.timedOut
	a.completed += o.completed
	a.failed += o.failed
	a.answered += o.answered
	a.waited += o.waited
	a.windowAccepted += o.windowAccepted
	a.windowCompleted += o.windowCompleted
	for category, n := range o.errors {
		a.errors[category] += n
	}
	a.response.merge(o.response)
	a.uncorrected.merge(o.uncorrected)
	a.completion.merge(o.completion)
	a.unsuccessful.merge(o.unsuccessful)
}

// reset empties the tally, and keeps its histograms' memory.
func (t *tally) reset() {
	for _, l := range []Latency{t.lag, t.callbackLag, t.verification} {
		l.reset()
	}
	for i := range t.arms {
		a := &t.arms[i]
		for _, l := range []Latency{a.response, a.uncorrected, a.completion, a.unsuccessful} {
			l.reset()
		}
		clear(a.errors)
		*a = armTally{errors: a.errors, response: a.response, uncorrected: a.uncorrected, completion: a.completion, unsuccessful: a.unsuccessful}
	}
}

// fill writes the arm's part of a tally into a Result.
func (a *armTally) fill(arm *Arm) {
	l := &arm.Ledger
	l.Sent, l.Accepted, l.Rejected, l.Errored, l.TimedOut = a.sent, a.accepted, a.rejected, a.errored, a.timedOut
	l.Completed, l.Failed = a.completed, a.failed
	arm.WindowAccepted, arm.WindowCompleted = a.windowAccepted, a.windowCompleted
	arm.Response, arm.Uncorrected, arm.Completion, arm.Unsuccessful = a.response, a.uncorrected, a.completion, a.unsuccessful
	arm.Errors = maps.Clone(a.errors)
}
