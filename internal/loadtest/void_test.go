package loadtest

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem"
)

// soundRun is an open run that nothing is wrong with: 100/s for 100 s, half of
// it sync, sent 0.5 ms late to a local service.
func soundRun() Result {
	return Result{
		Spec:    Spec{Rate: 100, Duration: 100 * time.Second, SyncRatio: 0.5, Arrivals: Poisson},
		Service: Service{Local: true, Verified: true, Completion: "callback"},
		Sync: Arm{Mode: tandem.Sync, Window: 100 * time.Second, Response: ramp(5000, time.Microsecond),
			Ledger: Ledger{Planned: 5000, Sent: 5000, Accepted: 5000, Completed: 5000}},
		Async: Arm{Mode: tandem.Async, Window: 100 * time.Second, Response: ramp(5000, time.Microsecond),
			Ledger: Ledger{Planned: 5000, Sent: 5000, Accepted: 5000, Completed: 5000}},
		Generator: Generator{Ceiling: 1000, Lag: repeated(10_000, 500*time.Microsecond)},
	}
}

func TestVoid(t *testing.T) {
	closed := func(r *Result) { r.Spec = Spec{Requests: 10_000, Concurrency: 10} }
	unsend := func(n int) func(r *Result) {
		return func(r *Result) {
			l := &r.Async.Ledger
			l.Unsent, l.Sent, l.Accepted, l.Completed = n, l.Sent-n, l.Accepted-n, l.Completed-n
		}
	}
	lag := func(d time.Duration) func(r *Result) {
		return func(r *Result) { r.Generator.Lag = repeated(10_000, d) }
	}
	remote := func(r *Result) { r.Service.Local = false }
	ceiling := func(perSecond float64) func(r *Result) {
		return func(r *Result) { r.Generator.Ceiling = perSecond }
	}
	unbalanced := func(r *Result) { r.Sync.Ledger.Completed-- }
	type change = []func(*Result)

	for _, c := range []struct {
		name   string
		change change
		slo    string
		want   string // part of the only reason; empty: the run counts
	}{
		{"a sound run", nil, "", ""},
		{"a remainder in a ledger", change{unbalanced}, "", "The ledger of sync does not balance: accepted = completed + failed + missing: 5000 is not 4999."},
		{"a remainder in a closed run", change{closed, unbalanced}, "", "ledger of sync"},
		{"exactly 1 % unsent", change{unsend(100)}, "", ""},
		{"more than 1 % unsent", change{unsend(101)}, "", "did not send 1.01% (101 of 10000)"},
		{"unsent in a closed run", change{closed, unsend(101)}, "", ""},
		{"a saturated generator", change{func(r *Result) { r.Generator.Saturated = 1 }}, "", "1 requests were not sent"},
		{"not calibrated", change{ceiling(0)}, "", "not calibrated"},
		{"a closed run needs no calibration", change{closed, ceiling(0)}, "", ""},
		{"half of the ceiling, async counting twice", change{ceiling(300)}, "", ""},
		{"just above half of the ceiling", change{ceiling(299)}, "", "load of 150/s"},
		{"only sync counts once", change{ceiling(200), func(r *Result) { r.Spec.SyncRatio = 1 }}, "", ""},
		{"a ramp is judged by its peak", change{ceiling(300), func(r *Result) { r.Spec.RateTo = 101 }}, "", "load of 151.5/s"},
		{"local without an objective, just within", change{lag(4990 * time.Microsecond)}, "", ""},
		{"local without an objective, beyond", change{lag(5010 * time.Microsecond)}, "", "late: 5.01ms (p99) after the planned time, and 5ms are allowed"},
		{"local with a small objective", change{lag(4990 * time.Microsecond)}, "accept.p99<20ms", ""},
		{"local with a large objective", change{lag(9 * time.Millisecond)}, "accept.p99<200ms", ""},
		{"local beyond a large objective", change{lag(11 * time.Millisecond)}, "accept.p99<200ms", "10ms are allowed, 5% of the limit of accept.p99<200ms"},
		{"remote with a small objective", change{remote, lag(1100 * time.Microsecond)}, "accept.p99<20ms", "1ms are allowed"},
		{"remote within a small objective", change{remote, lag(900 * time.Microsecond)}, "accept.p99<20ms", ""},
		{"remote without an objective", change{remote, lag(5010 * time.Microsecond)}, "", "5ms are allowed"},
		{"remote with an objective about a rate", change{remote, lag(5010 * time.Microsecond)}, "error_rate<1%", "5ms are allowed"},
		{"too few for p99: the worst counts", change{func(r *Result) { r.Generator.Lag = outlier(661, 6*time.Millisecond) }}, "", "6ms (the worst of 661)"},
		{"enough for p99: an outlier does not count", change{func(r *Result) { r.Generator.Lag = outlier(662, 6*time.Millisecond) }}, "", ""},
		{"no lag was measured", change{func(r *Result) { r.Generator.Lag = Latency{} }}, "", "did not measure how late"},
		{"a late generator in a closed run", change{closed, lag(time.Second)}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := soundRun()
			for _, apply := range c.change {
				apply(&r)
			}
			var slos []SLO
			if c.slo != "" {
				slos = append(slos, slo(t, c.slo))
			}
			r.judge(slos)
			if c.want == "" && len(r.Void) > 0 || c.want != "" && (len(r.Void) != 1 || !strings.Contains(r.Void[0], c.want)) {
				t.Errorf("got %q, want %q", r.Void, c.want)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Result)
		want   string // part of the only warning; empty: none
	}{
		{"a sound run", func(*Result) {}, ""},
		{"a lag above 1 ms on the same machine", func(r *Result) { r.Generator.Lag = repeated(1000, 1100*time.Microsecond) }, "1.1ms (p99) late"},
		{"the same lag from elsewhere", func(r *Result) {
			r.Generator.Lag, r.Service.Local = repeated(1000, 1100*time.Microsecond), false
		}, ""},
		{"closed, async bound by the generator", func(r *Result) {
			r.Spec, r.Generator.Ceiling = Spec{Requests: 10_000, Concurrency: 10}, 199
		}, "throughput of async is a lower bound: it made 100/s"},
		{"closed, within the generator", func(r *Result) {
			r.Spec, r.Generator.Ceiling = Spec{Requests: 10_000, Concurrency: 10}, 200
		}, ""},
		{"callbacks without signatures", func(r *Result) { r.Service.Verified = false }, "not verified"},
		{"polled outcomes have no signatures", func(r *Result) { r.Service.Verified, r.Service.Completion = false, "poll" }, ""},
		{"refused callbacks", func(r *Result) { r.Callbacks = Callbacks{Forged: 1, Late: 2, Malformed: 3} }, "6 callbacks were not believed: 1 forged, 2 late or replayed, 3 malformed."},
		{"more failures than p99 has room for", func(r *Result) {
			l := &r.Async.Ledger
			l.Rejected, l.Accepted, l.Completed = 51, 4949, 4949
		}, "accept.p99<20ms is about the requests that succeeded; 1.02% (51 of 5000) of async did not."},
		{"as many failures as p99 has room for", func(r *Result) {
			l := &r.Async.Ledger
			l.Rejected, l.Accepted, l.Completed = 49, 4951, 4951
		}, ""},
		{"Little's law broken", func(r *Result) {
			r.Series = steady(10, 20, 100, 0.1)
		}, "Little's law does not hold from 0 s to 10 s: 20 were in flight, and 100/s that took 0.1 s each make 10"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := soundRun()
			c.change(&r)
			r.judge([]SLO{slo(t, "accept.p99<20ms")})
			if c.want == "" && len(r.Warnings) > 0 || c.want != "" && (len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], c.want)) {
				t.Errorf("got %q, want %q", r.Warnings, c.want)
			}
		})
	}
}

func TestLittleLawWindows(t *testing.T) {
	for _, c := range []struct {
		name   string
		series []Second
		want   []int // where the windows begin and end
	}{
		{"nothing", nil, nil},
		{"a short run is one window", steady(4, 2.5, 25, 0.1), []int{0, 4}},
		{"too few answers", steady(4, 2.4, 24, 0.1), nil},
		{"a rest joins the last window", steady(29, 5, 50, 0.1), []int{0, 10, 10, 29}},
		{"whole windows", steady(30, 5, 50, 0.1), []int{0, 10, 10, 20, 20, 30}},
		{"seconds left out are zero", slices.Delete(steady(10, 10, 100, 0.1), 3, 6), []int{0, 10}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []int
			for _, w := range littleLaw(c.series) {
				got = append(got, w.From, w.To)
				if !w.Holds {
					t.Errorf("does not hold: %+v", w)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// The law must hold for every true queue, from its empty beginning to its
// drained end, and break when one of the three figures is wrong by half.
func TestLittleLawOfQueues(t *testing.T) {
	for _, c := range []struct {
		name          string
		rate, service float64 // arrivals per second, mean seconds of service
		servers       int
	}{
		{"idle", 20, 0.001, 1},
		{"busy", 200, 0.004, 1},
		{"overloaded", 200, 0.006, 1},
		{"long waits of many", 100, 2, 1000},
	} {
		for seed := range uint64(20) {
			q := runQueue(rand.New(rand.NewPCG(seed, 1)), c.rate, c.service, c.servers, 30)
			for _, w := range littleLaw(q.series(tandem.Sync)) {
				if !w.Holds {
					t.Errorf("%s, seed %d: does not hold: %+v", c.name, seed, w)
				}
			}
			wrong := q.series(tandem.Sync)
			for i := range wrong {
				wrong[i].Sync.Waited *= 2
			}
			broken := slices.ContainsFunc(littleLaw(wrong), func(w Window) bool { return !w.Holds })
			if w := c.rate * c.service; w > 0.5 && w < 1 && !broken {
				t.Errorf("%s, seed %d: twice the wait, and the law holds", c.name, seed)
			}
		}
	}
}

func TestExitCodes(t *testing.T) {
	run := func(void []string, outcomes ...Outcome) Result {
		r := Result{Void: void}
		for _, o := range outcomes {
			r.SLOs = append(r.SLOs, Objective{Outcome: o})
		}
		return r
	}
	fruitless := run(nil, Met)
	fruitless.Sync.Ledger = Ledger{Planned: 5, Sent: 5, Accepted: 5, Completed: 5}
	fruitless.Async.Ledger = Ledger{Planned: 5, Sent: 5, Rejected: 5}
	compare := func(aa bool, run Result, verdicts ...Verdict) *Comparison {
		c := Comparison{AA: aa, Run: run}
		for _, v := range verdicts {
			c.Metrics = append(c.Metrics, Metric{Verdict: v})
		}
		return &c
	}
	load := func(r Result) *Result { return &r }
	search := func(capacities ...Capacity) *Search { return &Search{Capacities: capacities} }
	found := Capacity{Passed: 100, Failed: 105, Confirmed: true}

	for _, c := range []struct {
		name string
		of   interface{ Exit() ExitCode }
		want ExitCode
	}{
		{"no objectives", load(run(nil)), ExitOK},
		{"all met", load(run(nil, Met, Met)), ExitOK},
		{"one not measured", load(run(nil, Met, NotMeasured)), ExitInconclusive},
		{"nothing was completed of one pattern", load(fruitless), ExitInconclusive},
		{"missed wins over not measured", load(run(nil, NotMeasured, Missed)), ExitMissed},
		{"void wins over missed", load(run([]string{"late"}, Missed)), ExitVoid},
		{"a difference", compare(false, run(nil), Inconclusive, Faster), ExitOK},
		{"equal", compare(false, run(nil), Equivalent), ExitOK},
		{"no answer", compare(false, run(nil), Inconclusive, Unmeasured), ExitInconclusive},
		{"a comparison of a void run", compare(false, run([]string{"late"}), Faster), ExitVoid},
		{"a comparison that missed", compare(false, run(nil, Missed), Faster), ExitMissed},
		{"A/A without a difference", compare(true, run(nil), Inconclusive, Unmeasured), ExitOK},
		{"A/A with a difference", compare(true, run(nil), Equivalent, Slower), ExitVoid},
		{"A/A without a figure", compare(true, run(nil), Unmeasured), ExitInconclusive},
		{"a capacity", search(found), ExitOK},
		{"not confirmed", search(found, Capacity{Passed: 100, Failed: 105}), ExitInconclusive},
		{"at least so much", search(found, Capacity{Passed: 100, Confirmed: true}), ExitInconclusive},
		{"no rate passed", search(Capacity{Failed: 1}, Capacity{Passed: 100}), ExitMissed},
		{"nothing could be measured", search(Capacity{Failed: 1}, Capacity{}), ExitVoid},
		{"nothing was searched", search(), ExitVoid},
		{"a search that was ended", &File{Search: &Search{Capacities: []Capacity{{Passed: 9, Failed: 10, Confirmed: true}}, Void: []string{"interrupted"}}}, ExitVoid},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.of.Exit(); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func repeated(n int, d time.Duration) Latency {
	l := newLatency()
	for range n {
		l.record(d)
	}
	return l
}

// outlier is n latencies of 0.1 ms, the last of which is another.
func outlier(n int, other time.Duration) Latency {
	l := repeated(n-1, 100*time.Microsecond)
	l.record(other)
	return l
}

// steady is a run of some seconds in each of which as many were in flight and
// were answered after waiting so long.
func steady(seconds int, inFlight float64, answers int, wait float64) []Second {
	var series []Second
	for i := range seconds {
		series = append(series, Second{At: i, Span: 1, InFlight: inFlight, Sync: Counts{Answered: answers, Waited: float64(answers) * wait}})
	}
	return series
}

// queue is a simulated service: when each request arrived and left, in seconds.
type queue struct {
	length        int
	arrived, left []float64
}

// runQueue simulates Poisson arrivals over some seconds, served for exponential
// times by some servers in the order of their arrival.
func runQueue(random *rand.Rand, rate, service float64, servers, length int) queue {
	q := queue{length: length}
	free := make([]float64, servers)
	for at := random.ExpFloat64() / rate; at < float64(length); at += random.ExpFloat64() / rate {
		first := 0
		if servers > 1 {
			first = slices.Index(free, slices.Min(free))
		}
		free[first] = max(at, free[first]) + random.ExpFloat64()*service
		q.arrived, q.left = append(q.arrived, at), append(q.left, free[first])
	}
	return q
}

// samplesPerSecond is how often the queue is sampled.
const samplesPerSecond = int(time.Second / sampling)

// series is what a run would have seen of the queue.
func (q queue) series(mode tandem.Mode) []Second {
	end := float64(q.length)
	if len(q.left) > 0 {
		end = max(end, slices.Max(q.left))
	}
	series := make([]Second, int(math.Ceil(end))+1)
	for i := range series {
		series[i].At, series[i].Span = i, 1
	}
	for i := range q.arrived {
		wait := q.left[i] - q.arrived[i]
		s := &series[int(q.left[i])]
		counts := &s.Sync
		if mode == tandem.Async {
			counts = &s.Async
		}
		counts.Completed++
		counts.Answered++
		counts.Waited += wait
		for sample := math.Ceil(q.arrived[i] * float64(samplesPerSecond)); sample < q.left[i]*float64(samplesPerSecond); sample++ {
			s := &series[int(sample)/samplesPerSecond]
			s.InFlight += 1.0 / float64(samplesPerSecond)
			s.Backlog += 1.0 / float64(samplesPerSecond)
		}
	}
	return series
}
