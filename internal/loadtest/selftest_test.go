package loadtest

import (
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
	t.Parallel() // it takes little of the machine
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
	if lag, ok := result.Generator.Lag.Percentile(0.99); !ok || lag > 500*time.Millisecond {
		t.Errorf("the generator's own lag is %v; it is the service that stalled", lag)
	}
}

func TestAGeneratorThatIsHeldBackMakesTheRunVoid(t *testing.T) {
	t.Parallel() // it takes little of the machine
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
	if code := result.Exit(); code != ExitVoid {
		t.Errorf("the exit code is %d, want %d", code, ExitVoid)
	}
}

func TestScheduledTimesAreKept(t *testing.T) {
	f := newFaulty(t)
	spec := open200(2 * time.Second)
	spec.SyncRatio = 0.5
	result, err := Run(t.Context(), spec, f.options())
	if err != nil {
		t.Fatal(err)
	}
	sent := result.Sync.Ledger.Sent + result.Async.Ledger.Sent
	if sent != 400 {
		t.Errorf("%d sent, want 400", sent)
	}
	// A machine too busy to keep the times cannot sample in time either.
	if lag, _ := result.Generator.Lag.Percentile(0.99); lag < 50*time.Millisecond && (len(result.LittleLaw) == 0 || !result.LittleLaw[0].Holds) {
		t.Errorf("Little's law: %+v, with a lag of %v", result.LittleLaw, lag)
	}
	soFar, end := 0, 0.0
	for _, s := range result.Series {
		end += s.Span
		if soFar += s.Sync.Sent + s.Async.Sent; float64(soFar) > 200*end+1 {
			t.Errorf("%d are sent by the end of second %d: some before their time", soFar, s.At)
		}
	}
	if n := result.Generator.Lag.N(); n != 400 {
		t.Errorf("the lag of %d is known, want 400", n)
	}
}

func TestSyncAgainstSyncFindsNoDifference(t *testing.T) {
	f := newFaulty(t)
	f.answer = func(string, int, http.ResponseWriter) bool {
		time.Sleep(time.Millisecond)
		return false
	}
	found := 0
	for seed := range uint64(4) {
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
		t.Errorf("a difference was found in %d of 4 A/A tests, where there is none", found)
	}
}

func TestARealDifferenceIsFound(t *testing.T) {
	f := newFaulty(t)
	f.answer = func(mode string, _ int, _ http.ResponseWriter) bool {
		if mode == "sync" {
			time.Sleep(40 * time.Millisecond) // far above what a busy machine adds
		}
		return false
	}
	spec := spec(200)
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
	t.Parallel() // it takes little of the machine
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
	const seconds = 14
	spec := open200(seconds * time.Second)
	spec.Rate, spec.Arrivals = lambda, Poisson
	result, err := Run(t.Context(), spec, f.options())
	if err != nil {
		t.Fatal(err)
	}
	if result.Exit() == ExitVoid {
		t.Skip("the machine is too busy to measure on: ", result.Void)
	}
	// Seconds depend on one another, so the mean's error is that of batches.
	var batches []float64
	for from := 0; from+2 <= seconds; from += 2 {
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
	half := studentQuantile(0.9995, len(batches)-1) * deviation / math.Sqrt(float64(len(batches)))
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

func TestProductionModeIsNeverRefused(t *testing.T) {
	t.Parallel() // it mostly waits to be let
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
	s := spec(14)
	opts := f.options()
	opts.Considerate = true
	result, err := Run(t.Context(), s, opts)
	if err != nil {
		t.Fatal(err)
	}
	if refused > 0 || result.Sync.Ledger.Completed+result.Async.Ledger.Completed != 14 {
		t.Errorf("%d refused, ledgers %+v and %+v", refused, result.Sync.Ledger, result.Async.Ledger)
	}
}
