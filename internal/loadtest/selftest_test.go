package loadtest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// What the lab must find when it is known what there is to find.

func open200(length time.Duration) Spec {
	return Spec{Workload: "compute", Complexity: 1, SyncRatio: 1, Seed: 1, Rate: 200, Duration: length, Arrivals: Constant}
}

func TestAStallShowsInTheCorrectedLatencyOnly(t *testing.T) {
	f := newFaulty(t)
	var stalled sync.RWMutex
	f.answer = func(string, int, http.ResponseWriter) bool {
		stalled.RLock() // held up while the service stands still
		defer stalled.RUnlock()
		return false
	}
	spec := open200(6 * time.Second)
	spec.Concurrency = 4
	opts := f.options()
	once := sync.OnceFunc(func() {
		stalled.Lock()
		time.AfterFunc(2*time.Second, stalled.Unlock)
	})
	opts.Progress = func(p Progress) {
		if p.Sync.Sent > 100 {
			once()
		}
	}
	result, err := Run(t.Context(), spec, opts)
	if err != nil {
		t.Fatal(err)
	}
	corrected, ok := result.Sync.Response.Percentile(0.99)
	uncorrected, okToo := result.Sync.Uncorrected.Percentile(0.99)
	if !ok || !okToo {
		t.Fatalf("p99 is not told: %+v", result.Sync.Ledger)
	}
	t.Logf("p99 from the planned time %v, from the sending %v", corrected, uncorrected)
	if corrected < 1500*time.Millisecond {
		t.Errorf("from the planned time, p99 is %v: it hides a stall of 2 s", corrected)
	}
	if uncorrected > 500*time.Millisecond {
		t.Errorf("from the sending, p99 is %v; with four connections it should not see the stall", uncorrected)
	}
	if len(result.Void) != 0 {
		t.Errorf("void: %v; it is the service that stalled, not the generator", result.Void)
	}
}

func TestAGeneratorThatIsHeldBackMakesTheRunVoid(t *testing.T) {
	f := newFaulty(t)
	opts := f.options()
	opts.hinder = func() { time.Sleep(6 * time.Millisecond) } // at 200/s it falls behind, more and more
	result, err := Run(t.Context(), open200(2*time.Second), opts)
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Void) == 0 {
		lag, _ := result.Generator.Lag.Max()
		t.Errorf("not void, with a lag of up to %v", lag)
	}
	if code, _ := (&File{Load: result}).Verdict(); code != Void {
		t.Errorf("the exit code is %d, want %d", code, Void)
	}
}

func TestScheduledTimesAreKept(t *testing.T) {
	f := newFaulty(t)
	spec := open200(3 * time.Second)
	spec.SyncRatio = 0.5
	result, err := Run(t.Context(), spec, f.options())
	if err != nil {
		t.Fatal(err)
	}
	sent := result.Sync.Ledger.Sent + result.Async.Ledger.Sent
	if sent != 600 {
		t.Errorf("%d sent, want 600", sent)
	}
	if len(result.LittleLaw) == 0 || !result.LittleLaw[0].Holds {
		t.Errorf("Little's law: %+v", result.LittleLaw)
	}
	perSecond := 0
	for _, s := range result.Series[1 : len(result.Series)-1] {
		perSecond = s.Sync.Sent + s.Async.Sent
		if perSecond < 190 || perSecond > 210 {
			t.Errorf("second %d has %d sent, want 200", s.At, perSecond)
		}
	}
}

func TestSyncAgainstSyncFindsNoDifference(t *testing.T) {
	f := newFaulty(t)
	f.answer = func(string, int, http.ResponseWriter) bool {
		time.Sleep(time.Millisecond)
		return false
	}
	found := 0
	for seed := range uint64(10) {
		spec := spec(400)
		spec.Pairs, spec.AA, spec.Seed = 10, true, seed
		c, err := Compare(t.Context(), spec, f.options())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.Metrics {
			if m.Verdict == Faster || m.Verdict == Slower {
				t.Logf("seed %d: %+v", seed, m)
				found++
				break
			}
		}
		if s, a := c.Run.Sync.Ledger.Completed, c.Run.Async.Ledger.Completed; s != 200 || a != 200 {
			t.Errorf("%d and %d completed, want 200 in both arms", s, a)
		}
	}
	if found > 1 {
		t.Errorf("a difference was found in %d of 10 A/A tests, where there is none", found)
	}
}

func TestARealDifferenceIsFound(t *testing.T) {
	f := newFaulty(t)
	f.answer = func(mode string, _ int, _ http.ResponseWriter) bool {
		if mode == "sync" {
			time.Sleep(3 * time.Millisecond)
		}
		return false
	}
	spec := spec(400)
	spec.Pairs = 10
	c, err := Compare(t.Context(), spec, f.options())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"acceptance.p50", "completion.p50", "throughput"} {
		i := slices.IndexFunc(c.Metrics, func(m Metric) bool { return m.Name == name })
		if m := c.Metrics[i]; m.Verdict != Faster {
			t.Errorf("%+v, want it faster: async does not sleep", m)
		}
	}
}

// TestAnMM1QueueWaitsAsTheorySays measures a server with one place, Poisson
// arrivals and exponential service times. The mean time in such a system is
// 1/(mu-lambda).
func TestAnMM1QueueWaitsAsTheorySays(t *testing.T) {
	const mu, lambda = 200.0, 100.0
	f := newFaulty(t)
	var mu0 sync.Mutex
	var free time.Time
	random := rand.New(rand.NewPCG(2, 0))
	f.answer = func(string, int, http.ResponseWriter) bool {
		mu0.Lock()
		service := time.Duration(random.ExpFloat64() / mu * float64(time.Second))
		if now := time.Now(); now.After(free) {
			free = now
		}
		free = free.Add(service) // first come, first served
		until := free
		mu0.Unlock()
		time.Sleep(time.Until(until))
		return false
	}
	spec := open200(20 * time.Second)
	spec.Rate, spec.Arrivals = lambda, Poisson
	result, err := Run(t.Context(), spec, f.options())
	if err != nil {
		t.Fatal(err)
	}
	// Seconds depend on one another, so the mean's error is that of batches.
	var batches []float64
	for from := 0; from+2 <= 20; from += 2 {
		joined := Latency{}
		for _, s := range result.Series {
			if s.At >= from && s.At < from+2 {
				joined = Merge(joined, s.Sync.Response)
			}
		}
		mean, ok := joined.Mean()
		if !ok {
			t.Fatalf("no answers in seconds %d and %d", from, from+1)
		}
		batches = append(batches, mean.Seconds())
	}
	mean, deviation := moments(batches)
	half := student(0.9995, float64(len(batches)-1)) * deviation / math.Sqrt(float64(len(batches)))
	want := 1 / (mu - lambda)
	t.Logf("mean time in the system %.4f s, 99.9 %% interval ±%.4f, theory %.4f", mean, half, want)
	if math.Abs(mean-want) > half {
		t.Errorf("the mean is %.4f s ± %.4f, theory says %.4f", mean, half, want)
	}
	if half > want {
		t.Errorf("the interval ±%.4f says nothing", half)
	}
	for _, w := range result.LittleLaw {
		if !w.Holds {
			t.Errorf("Little's law does not hold: %+v", w)
		}
	}
}

func moments(xs []float64) (mean, deviation float64) {
	for _, x := range xs {
		mean += x / float64(len(xs))
	}
	for _, x := range xs {
		deviation += (x - mean) * (x - mean)
	}
	return mean, math.Sqrt(deviation / float64(len(xs)-1))
}

func TestASearchFindsTheCapacityOfAServer(t *testing.T) {
	f := newFaulty(t)
	var mu sync.Mutex
	var free time.Time
	f.answer = func(string, int, http.ResponseWriter) bool { // 150 a second, in order
		mu.Lock()
		if now := time.Now(); now.After(free) {
			free = now
		}
		free = free.Add(time.Second / 150)
		until := free
		mu.Unlock()
		time.Sleep(time.Until(until))
		return false
	}
	slo, err := ParseSLO("sync.latency.p95<100ms")
	if err != nil {
		t.Fatal(err)
	}
	opts := f.options()
	opts.setDefaults()
	l, err := openLab(t.Context(), open200(time.Second), opts)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	spec := open200(2 * time.Second)
	s := &searcher{mode: "sync", slo: &slo, length: spec.Duration, measure: l.measure(spec, "sync", &slo)}
	c, err := s.find(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v after %d stages", c, len(s.stages))
	if c.Passed < 120 || c.Passed > 155 || !c.Confirmed {
		for _, stage := range s.stages {
			t.Logf("%v %.1f/s passed %v: %s", stage.Phase, stage.Rate, stage.Passed, why(stage))
		}
		t.Errorf("found %+v, want a little under 150/s", c)
	}
}

func TestASearchEndsWhateverTheServiceDoes(t *testing.T) {
	for name, row := range map[string]struct {
		passes func(rate float64, length time.Duration, n int) bool
		void   func(rate float64) bool
		low    float64
		high   float64
	}{
		"a cliff at 1000": {passes: func(r float64, _ time.Duration, _ int) bool { return r <= 1000 }, low: 940, high: 1000},
		"nothing passes":  {passes: func(float64, time.Duration, int) bool { return false }, low: 0, high: 0},
		"all passes":      {passes: func(float64, time.Duration, int) bool { return true }, low: MaxRate / 2, high: MaxRate},
		"a coin is tossed near the edge": {passes: func(r float64, _ time.Duration, n int) bool { return r < 950 || r < 1050 && n%2 == 0 },
			low: 800, high: 1050},
		"the long stage fails above 500": {passes: func(r float64, l time.Duration, _ int) bool { return r <= 520 && (l == time.Second || r <= 500) },
			low: 440, high: 500},
		"the generator ends at 3000": {passes: func(float64, time.Duration, int) bool { return true }, void: func(r float64) bool { return r > 3000 },
			low: 1500, high: 3000},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			s := &searcher{length: time.Second, measure: func(_ context.Context, rate float64, length time.Duration) (Stage, error) {
				n++
				stage := Stage{Rate: rate, For: length, Passed: row.passes(rate, length, n)}
				if row.void != nil && row.void(rate) {
					stage.Passed, stage.Void = false, []string{"late"}
				} else if !stage.Passed {
					stage.Broke = []string{"broke"}
				}
				return stage, nil
			}}
			c, err := s.find(t.Context(), 20)
			if err != nil {
				t.Fatal(err)
			}
			if c.Passed < row.low || c.Passed > row.high {
				t.Errorf("found %+v, want %v to %v", c, row.low, row.high)
			}
			if (c.Passed > 0) != c.Confirmed || c.Bound == "" {
				t.Errorf("found %+v", c)
			}
			if len(s.stages) > 64 {
				t.Errorf("%d stages", len(s.stages))
			}
		})
	}
}

func TestASearchStopsWhenItMust(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &searcher{length: time.Second, measure: func(ctx context.Context, rate float64, _ time.Duration) (Stage, error) {
		if rate > 100 {
			cancel()
		}
		return Stage{Passed: true}, context.Cause(ctx)
	}}
	if _, err := s.find(ctx, 20); err == nil {
		t.Error("an interrupted search has found something")
	}
}

func TestABacklogThatGrowsIsNotSustained(t *testing.T) {
	series := func(of func(at int) float64) (all []Second) {
		for at := range 10 {
			all = append(all, Second{At: at, Span: 1, Backlog: of(at)})
		}
		return all
	}
	for name, row := range map[string]struct {
		backlog func(at int) float64
		drain   time.Duration
		passed  bool
	}{
		"none":               {func(int) float64 { return 0 }, 0, true},
		"steady":             {func(int) float64 { return 50 }, 0, true},
		"up and down":        {func(at int) float64 { return []float64{5, 60}[at%2] }, 0, true},
		"growing by a tenth": {func(at int) float64 { return 10 * float64(at) }, 0, false},
		"slow to drain":      {func(int) float64 { return 50 }, 3 * time.Second, false},
	} {
		r := &Result{Spec: Spec{Rate: 100, Duration: 10 * time.Second}, Duration: 10*time.Second + lead + row.drain, Series: series(row.backlog),
			Async: Arm{Mode: "async", Window: 10 * time.Second, WindowAccepted: 1000, WindowCompleted: 1000, Ledger: Ledger{Planned: 1000, Sent: 1000, Accepted: 1000, Completed: 1000}}}
		if s := r.stage("async", nil); s.Passed != row.passed {
			t.Errorf("%s: passed is %v: %v", name, s.Passed, s.Broke)
		}
	}
}

func TestProductionModeIsNeverRefused(t *testing.T) {
	f := newFaulty(t)
	const limit = 5 // requests in each 500 ms
	var mu sync.Mutex
	window, taken, refused := time.Now(), 0, 0
	f.answer = func(_ string, _ int, w http.ResponseWriter) bool {
		mu.Lock()
		defer mu.Unlock()
		if now := time.Now(); now.Sub(window) > 500*time.Millisecond {
			window, taken = now, 0
		}
		taken++
		w.Header().Set("RateLimit", fmt.Sprintf(`"default";r=%d;t=1`, max(limit-taken, 0)))
		if taken > limit {
			refused++
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, `{}`)
			return true
		}
		return false
	}
	s := spec(24)
	opts := f.options()
	opts.Considerate = true
	result, err := Run(t.Context(), s, opts)
	if err != nil {
		t.Fatal(err)
	}
	if refused > 0 || result.Sync.Ledger.Completed+result.Async.Ledger.Completed != 24 {
		t.Errorf("%d refused, ledgers %+v and %+v", refused, result.Sync.Ledger, result.Async.Ledger)
	}
}
