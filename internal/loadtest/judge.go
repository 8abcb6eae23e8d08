package loadtest

import (
	"fmt"
	"math"
	"strings"
	"time"

	"tandem"
)

// What makes a run void, and what is only worth a warning.
const (
	mostUnsent   = 0.01                 // of what was planned
	mostLagOfSLO = 0.05                 // the 99th percentile of the generator's lag, of the SLO
	mostLag      = 5 * time.Millisecond // the same, if there is no SLO on a latency; on one machine at the least
	warnLag      = time.Millisecond
	mostOfLimit  = 0.5 // of what the generator can send
)

// judge holds the run against its objectives, and against what a sound run must
// be: a generator that is late or saturated measures itself.
func (r *Result) judge(slos []SLO) {
	for _, slo := range slos {
		r.SLOs = append(r.SLOs, slo.Check(r))
	}
	void := func(format string, args ...any) { r.Void = append(r.Void, fmt.Sprintf(format, args...)) }
	warn := func(format string, args ...any) { r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...)) }

	planned, unsent, exchanges := 0, 0, 0
	for _, arm := range []Arm{r.Sync, r.Async} {
		if err := arm.Ledger.Balance(); err != nil {
			void("the %s ledger does not balance: %v", arm.Mode, err)
		}
		planned += arm.Ledger.Planned
		unsent += arm.Ledger.Unsent
		exchanges += arm.Ledger.Sent
		if arm.Mode == tandem.Async {
			exchanges += arm.Ledger.Sent // its callback or poll is work for the generator, too
		}
	}
	window := max(r.Sync.Window+r.Async.Window, time.Nanosecond)
	if r.Spec.Open() {
		window = r.Spec.Duration
	}
	offered := float64(exchanges) / window.Seconds()
	tooFast := offered > mostOfLimit*r.Generator.Ceiling
	if !r.Spec.Open() {
		if tooFast {
			warn("the generator was the limit (%.0f exchanges/s of the %.0f/s that it can do): throughput is a lower bound", offered, r.Generator.Ceiling)
		}
	} else {
		if unsent > int(mostUnsent*float64(planned)) {
			void("%d of %d planned requests were not sent", unsent, planned)
		}
		if r.Generator.Saturated > 0 {
			void("the generator was saturated: %d requests were due while %d were outstanding", r.Generator.Saturated, MaxConcurrency)
		}
		if tooFast {
			void("%.0f exchanges/s are over half of the %.0f/s that the generator can do", offered, r.Generator.Ceiling)
		}
		r.judgeLag(slos, void, warn)
	}
	for _, w := range r.LittleLaw {
		if !w.Holds {
			warn("Little's law does not hold from second %d to %d: %.3g requests in flight, where %.3g/s that wait %.3g s make %.3g",
				w.From, w.To, w.InFlight, w.Rate, w.Mean, w.Rate*w.Mean)
		}
	}
	if r.Async.Mode == tandem.Async && r.Async.Ledger.Sent > 0 && r.Service.Completion == string(Callback) && !r.Service.Verified {
		warn("callbacks are not signed, so they count unverified")
	}
}

func (r *Result) judgeLag(slos []SLO, void, warn func(string, ...any)) {
	lag, ok := r.Generator.Lag.Percentile(0.99)
	what := "99th percentile"
	if !ok {
		lag, ok = r.Generator.Lag.Max() // too few for a percentile: all of them must do
		what = "worst"
	}
	if !ok {
		return // nothing was sent
	}
	bound := time.Duration(0)
	for _, slo := range slos {
		if limit, ok := slo.Duration(); ok && (bound == 0 || time.Duration(mostLagOfSLO*float64(limit)) < bound) {
			bound = time.Duration(mostLagOfSLO * float64(limit))
		}
	}
	if bound == 0 || r.Service.Local {
		bound = max(bound, mostLag)
	}
	switch {
	case lag > bound:
		void("the generator was late: the %s of its lag is %v, over %v", what, lag.Round(time.Microsecond), bound)
	case lag > warnLag:
		warn("the generator was late at times: the %s of its lag is %v", what, lag.Round(time.Microsecond))
	}
}

// lawWindow is the length of the windows of littleLaw, in seconds; lawAnswers
// is how many answers one needs.
const (
	lawWindow  = 10
	lawAnswers = 100
)

// littleLaw holds Little's law against windows of the series. Requests that
// straddle an edge of a window are counted on one side only, each by about its
// wait; and L is the mean of samples, with the error that those have.
func littleLaw(series []Second) []Window {
	var all []Window
	for len(series) > 0 {
		from := series[0].At
		n := 0
		for n < len(series) && series[n].At < from+lawWindow {
			n++
		}
		window := series[:n]
		series = series[n:]
		answered, waited, inFlight, seconds := 0, 0.0, 0.0, 0.0
		for _, s := range window {
			answered += s.Sync.Answered + s.Async.Answered
			waited += s.Sync.Waited + s.Async.Waited
			inFlight += s.InFlight * s.Span
			seconds += s.Span
		}
		if answered < lawAnswers || seconds <= 0 {
			continue
		}
		w := Window{From: from, To: window[n-1].At + 1, InFlight: inFlight / seconds, Rate: float64(answered) / seconds, Mean: waited / float64(answered)}
		straddling := (window[0].InFlight + window[n-1].InFlight) * w.Mean / seconds
		samples := seconds * float64(time.Second/sampling)
		tolerance := 0.1*max(w.InFlight, waited/seconds) + straddling + 4*math.Sqrt(max(w.InFlight, waited/seconds)/samples)
		w.Holds = math.Abs(w.InFlight-waited/seconds) <= tolerance
		all = append(all, w)
	}
	return all
}

// ExitCode is what a measurement ends the program with.
type ExitCode int

const (
	OK ExitCode = iota
	BadUsage
	SLOMissed
	Void
	Undecided
)

// Verdict is the exit code for a measurement, and why it is not OK.
func (f *File) Verdict() (code ExitCode, why string) {
	switch {
	case f.Load != nil:
		return f.Load.verdict()
	case f.Compare != nil:
		return f.Compare.verdict()
	default:
		return f.Search.verdict()
	}
}

func (r *Result) verdict() (ExitCode, string) {
	if len(r.Void) > 0 {
		return Void, "VOID: " + strings.Join(r.Void, "; ")
	}
	code, why := OK, ""
	for _, o := range r.SLOs {
		switch {
		case o.Outcome == Missed && code != SLOMissed:
			code, why = SLOMissed, fmt.Sprintf("objective missed: %s, measured %s", o.SLO, o.Measured)
		case o.Outcome == NotMeasured && code == OK:
			code, why = Undecided, fmt.Sprintf("inconclusive: n too small for %s (%d)", o.SLO, o.N)
		}
	}
	return code, why
}

func (c *Comparison) verdict() (ExitCode, string) {
	if len(c.Run.Void) > 0 {
		return Void, "VOID: " + strings.Join(c.Run.Void, "; ")
	}
	for _, m := range c.Metrics {
		if c.AA && (m.Verdict == Faster || m.Verdict == Slower) {
			return Void, fmt.Sprintf("VOID: sync against sync was found %s in %s, so this set-up sees differences where there are none", m.Verdict, m.Name)
		}
	}
	for _, m := range c.Metrics {
		headline := m.Name == "throughput" || strings.HasSuffix(m.Name, ".p50")
		if !c.AA && headline && (m.Verdict == Inconclusive || m.Verdict == Unmeasured) {
			return Undecided, fmt.Sprintf("inconclusive: %s; send more --requests, in more --pairs", m.Name)
		}
	}
	return OK, ""
}

func (s *Search) verdict() (ExitCode, string) {
	for _, c := range s.Capacities {
		switch {
		case c.Passed == 0:
			return SLOMissed, fmt.Sprintf("no rate passed for %s: %s", c.Mode, c.Bound)
		case !c.Confirmed:
			return Undecided, fmt.Sprintf("inconclusive: no rate of %s passed the longer stage", c.Mode)
		}
	}
	return OK, ""
}
