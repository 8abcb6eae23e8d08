package loadtest

import (
	"fmt"
	"math"
	"sort"
	"time"

	"tandem"
)

// standing is what a stage of a search says about its rate.
type standing int

const (
	sustained   standing = iota // the service can do it
	overloaded                  // it cannot
	disturbed                   // the generator was late: once more may tell
	beyondReach                 // the generator cannot offer the rate
	unaccounted                 // the figures contradict each other; no other rate will do better
)

const (
	maxErrors = 0.01        // of what was sent, if no objective says otherwise
	minDrain  = time.Second // that the last requests may always take
	drainPart = 0.1         // of the stage that they may take beyond
)

// stage judges an open run of one mode at one rate: it returns planned, whose
// Mode, SLO, Phase, Rate and For are given, with the rest filled in.
//
// A rate is sustained if it was offered in full, at most 1 % of what was sent
// was not completed, the requests that were not completed yet did not grow in
// number (see grows), the last of them were completed soon after the last one
// was due, and the objective was met. How fast requests are accepted is never
// enough.
//
// Errors and a growing backlog show that a service is overloaded even if the
// generator was late, or had as many requests outstanding as it can hold: both
// follow from overload. So such a run may be void and count as overloaded, but
// never as sustained. Only a generator that was asked for more than half of its
// ceiling may be the cause of either.
func (r *Result) stage(planned Stage, slo *SLO) (Stage, standing) {
	s, arm := planned, r.Sync
	outstanding := func(s Second) float64 { return s.InFlight }
	if s.Mode == tandem.Async {
		arm, outstanding = r.Async, func(s Second) float64 { return s.InFlight + s.Backlog }
	}
	s.Accepted, _ = arm.Accepted()
	s.Completed, _ = arm.Throughput()
	s.Response, s.Completion = arm.Response.pack(), arm.Completion.pack()
	s.Drain = r.drain(s.For)
	s.Broke, s.Void = []string{}, []string{}
	broke := func(format string, args ...any) { s.Broke = append(s.Broke, fmt.Sprintf(format, args...)) }

	if part, text, ok := rate(arm.Ledger.unsuccessful(), arm.Ledger.Sent); !ok {
		broke("nothing was sent")
	} else if part > maxErrors && (slo == nil || slo.metric != metricErrorRate) {
		broke("%s of the requests were not completed; 1%% is allowed", text)
	}
	line := fit(r.Series, outstanding, s.For)
	s.Growth = line.slope
	if line.grows(s.Rate) {
		broke("the backlog grew by %.3g/s", line.slope)
	}
	if allowed := arm.shortest() + max(minDrain, time.Duration(drainPart*float64(s.For))); s.Drain > allowed {
		broke("the last requests took %v after the end; %v is allowed", threeDigits(s.Drain), threeDigits(allowed))
	}
	overload := len(s.Broke) > 0

	var slos []SLO
	if slo != nil {
		slos = append(slos, *slo)
		switch o := slo.Check(r); o.Outcome {
		case Missed:
			broke("%s: it was %s", o.SLO, o.Measured)
		case NotMeasured:
			broke("%s: too few samples to tell, %d", o.SLO, o.N)
		}
	}
	causes := map[cause]bool{}
	for _, v := range r.voids(slos) {
		causes[v.cause] = true
		s.Void = append(s.Void, v.reason)
	}
	s.Passed = len(s.Broke) == 0 && len(s.Void) == 0
	switch {
	case causes[broken]:
		return s, unaccounted
	case causes[exhausted]:
		return s, beyondReach
	case overload:
		return s, overloaded
	case causes[undelivered]:
		return s, beyondReach
	case causes[late]:
		return s, disturbed
	case !s.Passed:
		return s, overloaded
	}
	return s, sustained
}

// drain is how long the last requests took after the last one was due. It is
// known to a second, and never said to be less than it was.
func (r *Result) drain(length time.Duration) time.Duration {
	end := 0
	for _, s := range r.Series {
		if s.Sync.Completed+s.Sync.Failed+s.Async.Completed+s.Async.Failed > 0 {
			end = max(end, s.At+1)
		}
	}
	return max(min(time.Duration(end)*time.Second, r.Duration)-length, 0)
}

// shortest is the shortest completion: what the work takes alone, which is no
// queue.
func (a Arm) shortest() time.Duration {
	if a.Completion.N() == 0 {
		return 0
	}
	return microseconds(float64(a.Completion.unpacked().Min()))
}

// line is a straight line through a figure of some seconds.
type line struct {
	seconds float64
	slope   float64 // per second
	err     float64 // the standard error of slope
}

// fit draws the line of least squares through a figure of the whole seconds of a
// stage. The first third is left out: there the requests in flight grow from
// none to what the work itself takes.
func fit(series []Second, of func(Second) float64, length time.Duration) line {
	whole := int(length.Seconds())
	values := make([]float64, whole-whole/3) // seconds that were left out are zero
	for _, s := range series {
		if at := s.At - whole/3; at >= 0 && at < len(values) {
			values[at] = of(s)
		}
	}
	n := float64(len(values))
	if n < 3 {
		return line{seconds: n}
	}
	middle, mean := (n-1)/2, 0.0
	for _, v := range values {
		mean += v / n
	}
	var xx, xy, yy float64
	for i, v := range values {
		x, y := float64(i)-middle, v-mean
		xx, xy, yy = xx+x*x, xy+x*y, yy+y*y
	}
	rest := max(yy-xy*xy/xx, 0) // the squares that the line leaves
	return line{n, xy / xx, math.Sqrt(rest / (n - 2) / xx)}
}

// grows reports whether a backlog grows at a rate of requests, more than by
// chance. Over T seconds, rate*T requests come, give or take the root of that
// (arrivals are Poisson), so a healthy backlog may end that much higher. Growth
// is what is
//
//   - over 1 % of the requests, over twice that root, and steady: over three
//     standard errors of the slope; or
//   - over 5 % of the requests and over three times that root, however unsteady.
//
// So a stage tells no overload smaller than 2/sqrt(rate*T): 6 % of a thousand
// requests, 2 % of ten thousand.
func (l line) grows(rate float64) bool {
	requests, growth := rate*l.seconds, l.slope*l.seconds
	chance := math.Sqrt(requests)
	steady := l.slope > 3*l.err
	return steady && growth > max(0.01*requests, 2*chance) || growth > max(0.05*requests, 3*chance)
}

// fewest is how many samples an objective needs of a stage to be measured, with
// a fifth more for the chance of arrivals and for what fails.
func (s SLO) fewest() float64 {
	if s.q == 0 {
		return 2
	}
	return 1.2 * float64(sort.Search(1_000_000, func(n int) bool { return Enough(n, s.q) }))
}
