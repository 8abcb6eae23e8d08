package loadtest

import (
	"fmt"
	"math"
	"time"

	"tandem"
)

// judge says what the figures of a finished run are worth: it fills SLOs,
// LittleLaw and Void, and adds to Warnings. It calls for nothing to be measured
// again, and changes no figure.
//
// A run is void if its accounts do not balance and, in the open model, if the
// generator did not offer the load that was planned: whatever the figures say
// then, they say it of the generator too. In the closed model the load is what
// the generator can do, so its limits bound the figures and are warnings.
func (r *Result) judge(slos []SLO) {
	r.SLOs, r.Void = []Objective{}, []string{}
	for _, s := range slos {
		r.SLOs = append(r.SLOs, s.Check(r))
	}
	for _, v := range r.voids(slos) {
		r.Void = append(r.Void, v.reason)
	}
	r.LittleLaw = littleLaw(r.Series)
	r.Warnings = append(r.Warnings, r.warnings(slos)...)
}

// void is one reason why the figures of a run do not count.
type void struct {
	cause  cause
	reason string
}

// cause is what a reason of void comes from. A search goes on differently after
// each.
type cause int

const (
	broken      cause = iota // the accounts do not balance, or the generator's limit is not known
	exhausted                // more was asked of the generator than it can be trusted with
	undelivered              // the plan was not sent, for whatever reason
	late                     // the generator was late: its fault, or noise
)

const (
	maxUnsent  = 0.01 // of the plan
	maxCeiling = 0.5  // of Generator.Ceiling: beyond, the generator's own queues show in the latencies
	maxLagPart = 0.05 // of the smallest latency that an objective is about
	maxLag     = 5 * time.Millisecond
	lagToWarn  = time.Millisecond
)

func (r *Result) voids(slos []SLO) []void {
	var found []void
	add := func(c cause, format string, args ...any) {
		found = append(found, void{c, fmt.Sprintf(format, args...)})
	}
	for _, arm := range r.arms() {
		if err := arm.Ledger.Balance(); err != nil {
			add(broken, "The ledger of %s does not balance: %v.", arm.Mode, err)
		}
	}
	if !r.Spec.Open() {
		return found
	}

	planned, unsent := r.Sync.Ledger.Planned+r.Async.Ledger.Planned, r.Sync.Ledger.Unsent+r.Async.Ledger.Unsent
	if value, text, ok := rate(unsent, planned); ok && value > maxUnsent {
		add(undelivered, "The generator did not send %s of the planned requests; 1%% is allowed.", text)
	}
	if n := r.Generator.Saturated; n > 0 {
		add(undelivered, "%d requests were not sent, because the most connections were outstanding that the generator holds.", n)
	}
	switch offered, ceiling := r.Spec.offered(), r.Generator.Ceiling; {
	case ceiling <= 0:
		add(broken, "The generator was not calibrated, so nobody knows whether the load was within its limit.")
	case offered > maxCeiling*ceiling:
		add(exhausted, "The load of %.4g/s (an async request counts twice: its callback is work for the generator too) "+
			"is above half of the %.4g/s that the generator can send.", offered, ceiling)
	}
	bound, why := r.lagBound(slos)
	if lag, text, ok := r.lag(); !ok {
		add(broken, "The generator did not measure how late it was.")
	} else if lag > bound {
		add(late, "The generator was late: %s after the planned time, and %v are allowed, %s.", text, bound, why)
	}
	return found
}

func (r *Result) arms() []Arm { return []Arm{r.Sync, r.Async} }

// offered is the highest rate of an open run, in messages for the generator.
func (s Spec) offered() float64 { return max(s.Rate, s.RateTo) * s.messages() }

// messages is how many of them a request is for the generator: a sync one counts
// once, an async one twice, as its callback has to be received.
func (s Spec) messages() float64 { return 2 - s.SyncRatio }

// lagBound is how late the generator may be. Lag is part of every response
// time, so it must be small beside the smallest latency that is to be told.
// Without an objective it is not known which that is: then 5 ms, less than the
// latencies that a network and a disk make; and no more for a remote service,
// which does not take the processor from the generator. A local one does, so
// there no less than 5 ms is asked for.
func (r *Result) lagBound(slos []SLO) (bound time.Duration, why string) {
	smallest, objective := time.Duration(math.MaxInt64), ""
	for _, s := range slos {
		if limit, ok := s.Duration(); ok && limit < smallest {
			smallest, objective = limit, s.String()
		}
	}
	if objective == "" {
		return maxLag, "since no objective says how exact the latencies must be"
	}
	bound = time.Duration(maxLagPart * float64(smallest))
	if r.Service.Local && bound < maxLag {
		return maxLag, "since the service runs on the same machine"
	}
	return bound, "5% of the limit of " + objective
}

// lag is how late the generator was: p99, or the worst if there are too few to
// tell.
func (r *Result) lag() (lag time.Duration, text string, ok bool) {
	if lag, ok = r.Generator.Lag.Percentile(0.99); ok {
		return lag, fmt.Sprintf("%v (p99)", threeDigits(lag)), true
	}
	lag, ok = r.Generator.Lag.Max()
	return lag, fmt.Sprintf("%v (the worst of %d)", threeDigits(lag), r.Generator.Lag.N()), ok
}

func (r *Result) warnings(slos []SLO) []string {
	var found []string
	add := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	if lag, text, ok := r.lag(); ok && r.Spec.Open() && r.Service.Local && lag > lagToWarn {
		add("The generator was %s late, and that is part of the response times: it shares the processor with the service.", text)
	}
	for _, arm := range r.arms() {
		if made, ceiling := arm.messages(), r.Generator.Ceiling; !r.Spec.Open() && ceiling > 0 && made > maxCeiling*ceiling {
			add("The throughput of %s is a lower bound: it made %.4g/s for the generator to handle, more than half of "+
				"the %.4g/s that it can.", arm.Mode, made, ceiling)
		}
	}
	for _, w := range r.LittleLaw {
		if !w.Holds {
			add("Little's law does not hold from %d s to %d s: %.3g were in flight, and %.4g/s that took %.3g s each make %.3g; "+
				"one of the three is wrong.", w.From, w.To, w.InFlight, w.Rate, w.Mean, w.Rate*w.Mean)
		}
	}
	if r.Async.Ledger.Accepted > 0 && r.Service.Completion != "poll" && !r.Service.Verified {
		add("Callbacks were not verified: anybody could have sent them.")
	}
	if c := r.Callbacks; c.Refused() > 0 {
		add("%d callbacks were not believed: %d forged, %d late or replayed, %d malformed.", c.Refused(), c.Forged, c.Late, c.Malformed)
	}
	if w, ok := r.survivors(slos); ok {
		add("%s", w)
	}
	return found
}

// messages is how many per second an arm of a closed run made for the generator,
// as Spec.messages counts them.
func (a Arm) messages() float64 {
	sent, _ := per(a.Ledger.Sent, a.Window)
	if a.Mode == tandem.Async {
		return 2 * sent
	}
	return sent
}

// survivors warns of objectives that look met because what failed has no
// latency: those about a percentile beyond which all failures fit.
func (r *Result) survivors(slos []SLO) (warning string, ok bool) {
	for _, s := range slos {
		for _, arm := range r.arms() {
			failed, text, any := rate(arm.Ledger.unsuccessful(), arm.Ledger.Sent)
			if any && s.isLatency() && s.Applies(arm.Mode) && s.q > 0 && failed > 1-s.q {
				return fmt.Sprintf("%s is about the requests that succeeded; %s of %s did not.", s, text, arm.Mode), true
			}
		}
	}
	return "", false
}

const (
	windowLength  = 10  // seconds
	windowAnswers = 100 // the fewest that make a window
	// leastGap is what the two sides may always differ by: on a busy machine
	// the sampler itself is woken when the requests are, and sees more of them.
	leastGap = 0.1
)

// littleLaw holds Little's law against windows of ten seconds of a run, the last
// of them up to twice as long, or all of a shorter one. Windows of fewer than a
// hundred answers are left out.
//
// L*T and the sum of the waits differ only by the requests that are in flight
// at the window's edges, part of whose wait lies beyond: about V each, the
// longest mean wait of a second, since waits grow with a queue (J. D. C. Little,
// 1961; in this form S. Kim and W. Whitt, Statistical Analysis with Little's
// Law, 2013). That, and that L is the mean of few samples, is what the two may
// differ by besides 10 %: the drift V * |in flight at the end - at the
// beginning| / T, and three standard errors, the root of
//
//	L / samples + 2 V^2 (in flight at both edges) / T^2
func littleLaw(series []Second) []Window {
	if len(series) == 0 {
		return []Window{}
	}
	seconds := make([]Second, series[len(series)-1].At+1)
	for at := range seconds {
		seconds[at].Span = 1 // those that were left out: nothing happened in them
	}
	for _, s := range series {
		seconds[s.At] = s
	}
	windows := []Window{}
	for from := 0; from < len(seconds); {
		to := from + windowLength
		if len(seconds)-to < windowLength {
			to = len(seconds)
		}
		before := 0.0
		if from > 0 {
			before = seconds[from-1].InFlight
		}
		if w, ok := window(from, seconds[from:to], before); ok {
			windows = append(windows, w)
		}
		from = to
	}
	return windows
}

func window(from int, seconds []Second, before float64) (w Window, ok bool) {
	var answered int
	var waited, longest, length float64
	w = Window{From: from, To: from + len(seconds)}
	for _, s := range seconds {
		n, wait := s.Sync.Answered+s.Async.Answered, s.Sync.Waited+s.Async.Waited
		length += s.Span
		w.InFlight += s.InFlight * s.Span
		answered += n
		waited += wait
		longest = max(longest, wait/float64(max(n, 1)))
	}
	if answered < windowAnswers {
		return Window{}, false
	}
	w.InFlight /= length
	w.Rate = float64(answered) / length
	w.Mean = waited / float64(answered)

	after, made := seconds[len(seconds)-1].InFlight, w.Rate*w.Mean
	drift := longest * math.Abs(after-before) / length
	variance := max(w.InFlight, made)/(length*float64(time.Second/sampling)) + 2*longest*longest*(before+after)/(length*length)
	w.Holds = math.Abs(w.InFlight-made) <= max(0.1*made, leastGap, drift+3*math.Sqrt(variance))
	return w, true
}
