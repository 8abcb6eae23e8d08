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

func TestStage(t *testing.T) {
	type change = func(r *Result)
	fail := func(n int) change {
		return func(r *Result) {
			l := &r.Async.Ledger
			l.Rejected, l.Accepted, l.Completed = n, l.Accepted-n, l.Completed-n
		}
	}
	backlog := func(perSecond float64) change {
		return func(r *Result) {
			for i := range r.Series {
				r.Series[i].Backlog = perSecond * float64(i)
			}
		}
	}
	burst := func(backlog float64) change {
		return func(r *Result) { r.Series[9].Backlog = backlog }
	}
	unanswered := func(r *Result) {
		for i := range r.Series {
			r.Series[i].InFlight = 100 * float64(i)
		}
	}
	// The last request ends late, and the work takes so long at the least.
	drain := func(after, work time.Duration) change {
		return func(r *Result) {
			r.Duration = stageLength + after
			r.Series = append(r.Series, Second{At: int((r.Duration - 1) / time.Second), Async: Counts{Completed: 1}})
			r.Async.Completion = repeated(10_000, work)
		}
	}
	lag := func(r *Result) { delayed(r) }
	saturated := func(r *Result) { r.Generator.Saturated = 1 }
	slow := func(r *Result) { r.Generator.Ceiling = 3999 }

	for _, c := range []struct {
		name    string
		changes []change
		slo     string
		want    standing
		broke   string
	}{
		{"all is well", nil, "", sustained, ""},
		{"1 % failed", []change{fail(100)}, "", sustained, ""},
		{"more than 1 % failed", []change{fail(101)}, "", overloaded, "1.01% (101 of 10000) of the requests were not completed"},
		{"an objective about errors is the limit instead", []change{fail(101)}, "error_rate<2%", sustained, ""},
		{"and may be stricter", []change{fail(50)}, "error_rate<0.5%", overloaded, "error_rate<0.5%: it was 0.5%"},
		{"a backlog that grows by 2 % a second", []change{backlog(20)}, "", sustained, ""},
		{"a backlog that grows by 3 % a second", []change{backlog(30)}, "", overloaded, "the backlog grew by 30/s"},
		{"a backlog of 4 % in the last second", []change{burst(400)}, "", sustained, ""},
		{"a backlog of 6 % in the last second", []change{burst(600)}, "", overloaded, "the backlog grew by"},
		{"posts that pile up unanswered are a backlog", []change{unanswered}, "", overloaded, "the backlog grew by 100/s"},
		{"drained within a second", []change{drain(time.Second, 0)}, "", sustained, ""},
		{"drained in more than a second", []change{drain(1100*time.Millisecond, 0)}, "", overloaded, "took 1.1s after the end; 1s is allowed"},
		{"work that takes as long is no queue", []change{drain(3*time.Second, 2010*time.Millisecond)}, "", sustained, ""},
		{"work that takes less is", []change{drain(3*time.Second, 1990*time.Millisecond)}, "", overloaded, "took 3s"},
		{"an objective met", nil, "accept.p99<2ms", sustained, ""},
		{"an objective missed", nil, "accept.p99<1ms", overloaded, "accept.p99<1ms: it was 1ms"},
		{"an objective with too few samples", nil, "accept.p99.99<2ms", overloaded, "too few samples to tell, 10000"},
		{"a late generator", []change{lag}, "", disturbed, ""},
		{"a late generator cannot tell a latency", []change{lag}, "accept.p99<1ms", disturbed, ""},
		{"a late generator can tell errors", []change{lag, fail(101)}, "", overloaded, "not completed"},
		{"a saturated generator", []change{saturated}, "", beyondReach, ""},
		{"a generator saturated by a backlog", []change{saturated, backlog(30)}, "", overloaded, "the backlog grew"},
		{"a generator above half of its ceiling, whatever else", []change{slow, backlog(30)}, "", beyondReach, ""},
		{"a ledger that does not balance", []change{fail(101), func(r *Result) { r.Async.Ledger.Missing = 1 }}, "", unaccounted, ""},
		{"nothing was sent", []change{func(r *Result) { r.Async = Arm{Mode: tandem.Async} }}, "", overloaded, "nothing was sent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := fluid(tandem.Async, 1000, 1000, stageLength)
			for _, apply := range c.changes {
				apply(r)
			}
			var objective *SLO
			if c.slo != "" {
				s := slo(t, c.slo)
				objective = &s
			}
			s, got := r.stage(Stage{Mode: tandem.Async, Phase: Bisect, Rate: 1000, For: stageLength}, objective)
			if got != c.want || s.Passed != (c.want == sustained) || !strings.Contains(strings.Join(s.Broke, "; "), c.broke) {
				t.Errorf("got %d, passed %t, broke %q, void %q, want %d, %q", got, s.Passed, s.Broke, s.Void, c.want, c.broke)
			}
			if s.Phase != Bisect || s.Rate != 1000 {
				t.Errorf("got %+v, want the plan kept", s)
			}
		})
	}
}

func TestLineOfLeastSquares(t *testing.T) {
	values := []float64{999, 999, 999, 3, 5, 4, 8, 10, 9} // the first third does not count
	var series []Second
	for at, v := range values {
		series = append(series, Second{At: at, Backlog: v})
	}
	series = append(series, Second{At: len(values), Backlog: 999}) // nor what comes after the stage
	got := fit(series, func(s Second) float64 { return s.Backlog }, 9900*time.Millisecond)
	// By hand: xx = 17.5, xy = 24.5, yy = 41.5.
	want := line{6, 24.5 / 17.5, math.Sqrt((41.5 - 24.5*24.5/17.5) / 4 / 17.5)}
	if math.Abs(got.slope-want.slope) > 1e-9 || math.Abs(got.err-want.err) > 1e-9 || got.seconds != want.seconds {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// A stage of a true queue must not be taken for overloaded by chance below its
// capacity, nor for sustained above it.
func TestGrowthOfTrueQueues(t *testing.T) {
	for _, c := range []struct {
		name     string
		rate     float64 // of a capacity of 1
		capacity float64
		most     int // of 100 stages that may grow
		least    int
	}{
		{"half loaded", 0.5, 100, 0, 0},
		{"busy", 0.9, 100, 3, 0},
		{"busy and small", 0.9, 10, 6, 0},
		{"overloaded by a tenth", 1.1, 1000, 100, 97},
		{"overloaded by a third", 1.33, 100, 100, 97},
	} {
		grew := 0
		for seed := range uint64(100) {
			q := runQueue(rand.New(rand.NewPCG(seed, 2)), c.rate*c.capacity, 1/c.capacity, 1, 10)
			if fit(q.series(tandem.Async), func(s Second) float64 { return s.Backlog }, stageLength).grows(c.rate * c.capacity) {
				grew++
			}
		}
		if grew > c.most || grew < c.least {
			t.Errorf("%s: %d of 100 grew, want %d to %d", c.name, grew, c.least, c.most)
		}
	}
}

// Work that takes long fills up before it is steady, and that is no growth.
func TestLongWorkDoesNotGrow(t *testing.T) {
	q := runQueue(rand.New(rand.NewPCG(1, 3)), 200, 0, 1, 10)
	for i := range q.left {
		q.left[i] = q.arrived[i] + 3
	}
	series := q.series(tandem.Sync)
	if l := fit(series, func(s Second) float64 { return s.InFlight }, stageLength); l.grows(200) {
		t.Errorf("%+v grows", l)
	}
	if full := slices.MaxFunc(series, func(a, b Second) int { return int(a.InFlight - b.InFlight) }); full.InFlight < 500 {
		t.Errorf("got %v in flight at most, want about 600", full.InFlight)
	}
}
