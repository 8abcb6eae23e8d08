package loadtest

import (
	"strings"
	"testing"
	"time"

	"tandem"
)

func TestParseSLO(t *testing.T) {
	for _, c := range []struct {
		name, text, want string
	}{
		{"the 202 of async", "async.accept.p99<20ms", "async.accept.p99<20ms"},
		{"spaces around the operator and before the unit", " completion.mean  <=  1.5 s ", "completion.mean<=1.5s"},
		{"a percentile with two decimals", "sync.latency.p99.99<2s", "sync.latency.p99.99<2s"},
		{"the median is the lowest percentile", "latency.p50<1h", "latency.p50<1h"},
		{"a compound duration", "completion.max<1m30s", "completion.max<1m30s"},
		{"a rate in percent", "error_rate < 1 %", "error_rate<1%"},
		{"a rate as a fraction", "async.error_rate<=0.01", "async.error_rate<=0.01"},
		{"no error at all", "error_rate<=0", "error_rate<=0"},
		{"every callback", "callback_rate>=100%", "callback_rate>=100%"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := ParseSLO(c.text)
			if err != nil || s.String() != c.want {
				t.Errorf("got %q, %v, want %q", s, err, c.want)
			}
		})
	}
}

func TestParseSLORefusals(t *testing.T) {
	for _, c := range []struct {
		name, text, want string
	}{
		{"nothing", "", "async.accept.p99<20ms"},
		{"no operator", "accept.p99 20ms", "one of < <= > >="},
		{"an operator that is none", "accept.p99=<20ms", "one of < <= > >="},
		{"no limit", "accept.p99<", "one of < <= > >="},
		{"an unknown metric", "throughput>100", `no metric "throughput"`},
		{"a mode that is none", "both.completion.p99<1s", `no metric "both"`},
		{"no statistic", "accept<20ms", "accept.p99<20ms"},
		{"an unknown statistic", "accept.median<20ms", `"median" is no statistic`},
		{"a percentile below the median", "accept.p49.99<20ms", "p50 to p99.99"},
		{"the hundredth percentile", "accept.p100<20ms", "p50 to p99.99"},
		{"three decimals", "accept.p99.999<20ms", "p50 to p99.99"},
		{"accept of sync", "sync.accept.p99<20ms", "sync.latency.p99<20ms"},
		{"latency of async", "async.latency.p99<20ms", "async.accept.p99<20ms"},
		{"callbacks of sync", "sync.callback_rate>99%", "async.callback_rate>99.9%"},
		{"a latency without a unit", "accept.p99<20", "20ms or 1.5s"},
		{"a unit in two parts", "accept.p99<20m s", "one of < <= > >="},
		{"a latency of nothing", "accept.p99<0s", "from 1us"},
		{"a latency beyond what is kept", "accept.p99<61m", "to 1h0m0s"},
		{"a latency bounded from below", "accept.p99>20ms", "bounded from above"},
		{"an error rate bounded from below", "error_rate>1%", "error_rate<1%"},
		{"a callback rate bounded from above", "callback_rate<99%", "callback_rate>99.9%"},
		{"a rate with a statistic", "error_rate.p99<1%", "has no statistic"},
		{"a rate with half a statistic", "error_rate.<1%", "has no statistic"},
		{"a rate above all", "error_rate<101%", "from 0% to 100%"},
		{"a rate that is no number", "error_rate<NaN", "from 0% to 100%"},
		{"a duration for a rate", "error_rate<1s", "1% or 0.01"},
		{"fewer errors than none", "error_rate<0%", "write error_rate<=0%"},
		{"more callbacks than all", "callback_rate>1", "write callback_rate>=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := ParseSLO(c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, %v, want an error with %q", s, err, c.want)
			}
		})
	}
}

func FuzzParseSLO(f *testing.F) {
	for _, text := range []string{"async.accept.p99<20ms", "completion.mean <= 1.5 s", "error_rate<1%", "callback_rate>=.999", "sync.<1", "a<b"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSLO(text)
		if err != nil {
			return
		}
		again, err := ParseSLO(s.String())
		if err != nil || again != s {
			t.Errorf("%q was read as %#v, and its String as %#v, %v", text, s, again, err)
		}
		s.Check(&Result{Sync: Arm{Mode: tandem.Sync, Ledger: Ledger{Sent: 1}}})
	})
}

func TestSLOAppliesToModes(t *testing.T) {
	for _, c := range []struct {
		text        string
		sync, async bool
	}{
		{"accept.p99<1s", false, true},
		{"latency.p99<1s", true, false},
		{"completion.p99<1s", true, true},
		{"sync.completion.p99<1s", true, false},
		{"async.completion.p99<1s", false, true},
		{"error_rate<1%", true, true},
		{"callback_rate>99%", false, true},
	} {
		s := slo(t, c.text)
		if sync, async := s.Applies(tandem.Sync), s.Applies(tandem.Async); sync != c.sync || async != c.async {
			t.Errorf("%s: got sync %t, async %t, want %t, %t", c.text, sync, async, c.sync, c.async)
		}
	}
}

func TestSLODuration(t *testing.T) {
	if d, ok := slo(t, "accept.p99<20ms").Duration(); d != 20*time.Millisecond || !ok {
		t.Errorf("got %v, %t, want 20ms", d, ok)
	}
	if _, ok := slo(t, "error_rate<1%").Duration(); ok {
		t.Error("a rate has a duration")
	}
}

func TestSLOCheck(t *testing.T) {
	// Sync answers in 1 to 1000 ms; async accepts in 1 ms and completes in 1 to
	// 2000 ms, of which 2 of 1000 are missing.
	r := Result{
		Service: Service{Verified: true},
		Sync: Arm{
			Mode: tandem.Sync, Response: ramp(1000, time.Millisecond), Completion: ramp(1000, time.Millisecond),
			Ledger: Ledger{Planned: 1010, Sent: 1010, Accepted: 1000, Rejected: 4, Errored: 3, TimedOut: 3, Completed: 1000},
		},
		Async: Arm{
			Mode: tandem.Async, Response: ramp(1000, time.Microsecond), Completion: ramp(998, 2*time.Millisecond),
			Ledger: Ledger{Planned: 1000, Sent: 1000, Accepted: 1000, Completed: 998, Failed: 1, Missing: 1},
		},
	}
	few := r
	few.Sync.Response, few.Async.Completion = ramp(661, time.Millisecond), ramp(661, time.Millisecond)
	unverified := r
	unverified.Service.Verified = false
	silent := r
	silent.Sync.Completion = newLatency()

	for _, c := range []struct {
		name, text string
		of         Result
		want       Objective
	}{
		{"met", "latency.p50<600ms", r, Objective{Outcome: Met, Measured: "500ms", N: 1000}},
		{"missed", "latency.p50<500ms", r, Objective{Outcome: Missed, Measured: "500ms", N: 1000}},
		{"the longest", "latency.max<=1.1s", r, Objective{Outcome: Met, Measured: "1s", N: 1000}},
		{"the mean", "latency.mean<502ms", r, Objective{Outcome: Met, Measured: "501ms", N: 1000}},
		{"accept is the 202", "accept.p99<1ms", r, Objective{Outcome: Met, Measured: "990µs", N: 1000}},
		{"without a mode the slower one counts", "completion.p50<1.5s", r, Objective{Outcome: Met, Measured: "998ms", N: 998}},
		{"without a mode one miss is a miss", "completion.p50<900ms", r, Objective{Outcome: Missed, Measured: "998ms", N: 998}},
		{"with a mode the other does not count", "sync.completion.p50<900ms", r, Objective{Outcome: Met, Measured: "500ms", N: 1000}},
		{"one sample too few for p99", "latency.p99<2s", few, Objective{Outcome: NotMeasured, N: 661}},
		{"a miss of one mode outweighs too few of the other", "completion.p99<900ms", few, Objective{Outcome: Missed, Measured: "990ms", N: 1000}},
		{"too few of one mode outweigh that the other meets it", "completion.p99<2s", few, Objective{Outcome: NotMeasured, N: 661}},
		{"a mode that completed nothing is not measured", "completion.p50<3s", silent, Objective{Outcome: NotMeasured}},
		{"all that was not completed is an error", "sync.error_rate<1%", r, Objective{Outcome: Met, Measured: "0.9901% (10 of 1010)", N: 1010}},
		{"the worse error rate counts", "error_rate<0.9%", r, Objective{Outcome: Missed, Measured: "0.9901% (10 of 1010)", N: 1010}},
		{"a limit is met exactly", "async.error_rate<=0.2%", r, Objective{Outcome: Met, Measured: "0.2% (2 of 1000)", N: 1000}},
		{"a callback of a failure is a callback", "callback_rate>=99.9%", r, Objective{Outcome: Met, Measured: "99.9% (999 of 1000)", N: 1000}},
		{"more than the limit", "callback_rate>99.9%", r, Objective{Outcome: Missed, Measured: "99.9% (999 of 1000)", N: 1000}},
		{"callbacks that nobody verified", "callback_rate>1%", unverified, Objective{Outcome: NotMeasured, N: 1000}},
		{"a mode that sent nothing", "latency.p50<1s", Result{Async: r.Async}, Objective{Outcome: NotMeasured}},
		{"the mode that sent something", "completion.p50<1s", Result{Async: r.Async}, Objective{Outcome: Met, Measured: "998ms", N: 998}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.want.SLO = c.text
			if got := slo(t, c.text).Check(&c.of); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func slo(t *testing.T, text string) SLO {
	t.Helper()
	s, err := ParseSLO(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ramp is n latencies: step, twice the step, and so on.
func ramp(n int, step time.Duration) Latency {
	l := newLatency()
	for i := range n {
		l.record(time.Duration(i+1) * step)
	}
	return l
}
