package loadtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem"
)

// service is a synthetic service: it says what a run at a rate, which is the
// nth, measured of it.
type service func(nth int, rate float64, length time.Duration) *Result

func (s service) measure(nth *int) measureFunc {
	return func(_ context.Context, _ tandem.Mode, rate float64, length time.Duration) (*Result, error) {
		*nth++
		return s(*nth-1, rate, length), nil
	}
}

// cliff serves any rate up to a capacity at once, and of a higher one as much
// as it can.
func cliff(capacity float64) service {
	return func(_ int, rate float64, length time.Duration) *Result {
		return fluid(tandem.Async, rate, min(rate, capacity), length)
	}
}

// fluid is a run in which requests come and are completed evenly.
func fluid(mode tandem.Mode, rate, completed float64, length time.Duration) *Result {
	n, seconds := int(rate*length.Seconds()), int(length.Seconds())
	drain := time.Duration((rate/completed - 1) * float64(length))
	r := offered(mode, rate, length, n, length+drain)
	for at := range seconds + int(drain.Seconds()) + 1 {
		backlog := (rate - completed) * min(float64(at)+0.5, length.Seconds())
		r.Series = append(r.Series, Second{At: at, Backlog: backlog, InFlight: 1, Async: Counts{Completed: 1}})
	}
	return r
}

// offered is a run of one mode whose requests were all sent and completed, in
// 10 ms and after having been accepted in 1 ms.
func offered(mode tandem.Mode, rate float64, length time.Duration, n int, took time.Duration) *Result {
	arm := Arm{Mode: mode, Window: length, WindowAccepted: n, WindowCompleted: n,
		Response: repeated(n, time.Millisecond), Completion: repeated(n, 10*time.Millisecond),
		Ledger: Ledger{Planned: n, Sent: n, Accepted: n, Completed: n}}
	r := &Result{
		Spec:      Spec{Rate: rate, Duration: length, Arrivals: Poisson},
		Service:   Service{Local: true, Verified: true, Completion: "callback"},
		Duration:  took,
		Sync:      Arm{Mode: tandem.Sync},
		Async:     Arm{Mode: tandem.Async},
		Generator: Generator{Ceiling: 50_000, Lag: repeated(1000, 100*time.Microsecond)},
	}
	if mode == tandem.Sync {
		r.Spec.SyncRatio, r.Sync = 1, arm
	} else {
		r.Async = arm
	}
	return r
}

// mm1 is a true queue: Poisson arrivals and one server of exponential times.
func mm1(mode tandem.Mode, capacity float64, seed uint64) service {
	return func(nth int, rate float64, length time.Duration) *Result {
		q := runQueue(rand.New(rand.NewPCG(seed, uint64(nth))), rate, 1/capacity, 1, int(length.Seconds()))
		last := 0.0
		latency := newLatency()
		for i := range q.arrived {
			last = max(last, q.left[i])
			latency.record(time.Duration((q.left[i] - q.arrived[i]) * float64(time.Second)))
		}
		r := offered(mode, rate, length, len(q.arrived), max(length, time.Duration(last*float64(time.Second))))
		r.Series = q.series(mode)
		if mode == tandem.Sync {
			r.Sync.Response, r.Sync.Completion = latency, latency
		} else {
			r.Async.Completion = latency
			for i := range r.Series {
				r.Series[i].InFlight = 0
			}
		}
		return r
	}
}

func delayed(r *Result) *Result {
	r.Generator.Lag = repeated(1000, 50*time.Millisecond)
	return r
}

const stageLength = 10 * time.Second

func TestSearchFindsCapacity(t *testing.T) {
	flapping := func(nth int, rate float64, length time.Duration) *Result {
		capacity := 1000.0
		if rate > 900 && nth%3 == 0 {
			capacity = 500 // a bad moment
		}
		return cliff(capacity)(nth, rate, length)
	}
	tired := func(nth int, rate float64, length time.Duration) *Result {
		if length > stageLength {
			return cliff(950)(nth, rate, length)
		}
		return cliff(1000)(nth, rate, length)
	}
	exhausted := func(nth int, rate float64, length time.Duration) *Result {
		if rate < 2000 {
			return delayed(cliff(10_000)(nth, rate, length))
		}
		return cliff(10_000)(nth, rate, length)
	}
	limited := func(nth int, rate float64, length time.Duration) *Result {
		r := cliff(10_000)(nth, rate, length)
		r.Generator.Ceiling = 3000
		return r
	}
	noisyOnce := func(nth int, rate float64, length time.Duration) *Result {
		if nth%2 == 0 {
			return delayed(cliff(1000)(nth, rate, length))
		}
		return cliff(1000)(nth, rate, length)
	}
	saturated := func(nth int, rate float64, length time.Duration) *Result {
		r := cliff(1000)(nth, rate, length)
		if rate > 1000 {
			r.Generator.Saturated = 100
		}
		return r
	}
	unlucky := func(nth int, rate float64, length time.Duration) *Result {
		if nth == 0 {
			return cliff(1)(nth, rate, length)
		}
		return cliff(1000)(nth, rate, length)
	}

	for _, c := range []struct {
		name      string
		service   service
		first     float64
		low, high float64 // where Passed must be
		failed    bool    // a rate failed, within 5 % above Passed
		confirmed bool
		bound     string
	}{
		{"a cliff from far below", cliff(1000), 10, 930, 1020, true, true, "the backlog grew by"},
		{"a cliff from far above", cliff(1000), 50_000 / 4, 930, 1020, true, true, "the backlog grew by"},
		{"a cliff at the first rate", cliff(1000), 1000, 980, 1020, true, true, "the backlog grew by"},
		{"a bad moment in the first stage is found out", unlucky, 100, 930, 1020, true, true, "the backlog grew by"},
		{"bad moments near the edge are outvoted", flapping, 100, 850, 1020, true, true, "the backlog grew by"},
		{"it steps down to what lasts", tired, 100, 850, 960, true, true, "the backlog grew by"},
		{"noise is measured again", noisyOnce, 100, 930, 1020, true, true, "the backlog grew by"},
		{"connections that run out are the service's fault if the backlog grows", saturated, 100, 930, 1020, true, true, "the backlog grew by"},
		{"the generator's limit", limited, 100, 750, 750, false, true, "the generator's limit: no more than 750/s is ever sent; capacity is at least 750/s"},
		{"the generator's limit at the first rate", limited, 3000, 750, 750, false, true, "capacity is at least 750/s"},
		{"a generator that is always late", exhausted, 100, 0, 0, false, false, "the generator's limit"},
		{"an overload below the generator's limit", func(nth int, rate float64, length time.Duration) *Result {
			r := cliff(600)(nth, rate, length)
			r.Generator.Ceiling = 3000
			return r
		}, 3000, 570, 610, true, true, "the backlog grew by"},
		{"nothing passes", cliff(1), 1000, 0, 0, true, false, "no rate down to 1"},
		{"everything passes", func(nth int, rate float64, length time.Duration) *Result {
			r := cliff(1e6)(nth, rate/100, length)
			r.Spec.Rate, r.Generator.Ceiling = rate, 1e6
			return r
		}, 30_000, 1e5, 1e5, false, true, "no more than 100000/s is ever sent; capacity is at least 1e+05/s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			nth := 0
			got, stages, err := searchCapacity(t.Context(), tandem.Async, nil, c.first, stageLength, c.service.measure(&nth))
			if err != nil {
				t.Fatal(err)
			}
			if got.Passed < c.low || got.Passed > c.high || got.Confirmed != c.confirmed || (got.Failed > 0) != c.failed {
				t.Errorf("got %+v, want %g to %g, confirmed %t", got, c.low, c.high, c.confirmed)
			}
			if got.Passed > 0 && got.Failed > 0 && (got.Failed <= got.Passed || got.Failed > got.Passed*1.06) {
				t.Errorf("passed %g, failed %g: not within 5 %%", got.Passed, got.Failed)
			}
			if !strings.Contains(got.Bound, c.bound) {
				t.Errorf("got the bound %q, want %q", got.Bound, c.bound)
			}
			if len(stages) != nth || nth > 40 {
				t.Errorf("%d stages were run, and %d returned; want at most 40", nth, len(stages))
			}
			if c.confirmed && (stages[len(stages)-1].Phase != Confirm || stages[len(stages)-1].For != 3*stageLength) {
				t.Errorf("the last stage is %+v, want a confirmation", stages[len(stages)-1])
			}
		})
	}
}

func TestSearchKeepsWhatWasNotConfirmed(t *testing.T) {
	nth := 0
	got, stages, err := searchCapacity(t.Context(), tandem.Async, nil, 100, stageLength,
		service(func(nth int, rate float64, length time.Duration) *Result {
			if length > stageLength {
				return cliff(1)(nth, rate, length)
			}
			return cliff(1000)(nth, rate, length)
		}).measure(&nth))
	confirmations := slices.DeleteFunc(slices.Clone(stages), func(s Stage) bool { return s.Phase != Confirm })
	passed := slices.ContainsFunc(stages, func(s Stage) bool { return s.Rate == got.Passed && s.Passed })
	if err != nil || got.Confirmed || len(confirmations) != 4 || !passed || got.Failed != confirmations[3].Rate {
		t.Errorf("got %+v, %v after %d confirmations, want one that passed only short stages", got, err, len(confirmations))
	}
}

// Near the edge, a lucky stage must not be left to the confirmation to find out.
func TestSearchRepeatsStagesNearTheEdge(t *testing.T) {
	nth, tried := 0, map[float64]bool{}
	got, stages, err := searchCapacity(t.Context(), tandem.Async, nil, 10, stageLength,
		service(func(nth int, rate float64, length time.Duration) *Result {
			capacity := 1000.0
			if rate < 1060 && !tried[rate] {
				capacity = 1060
			}
			tried[rate] = true
			return cliff(capacity)(nth, rate, length)
		}).measure(&nth))
	lucky, confirmations := 0, 0
	for _, s := range stages {
		if s.Rate > 1030 && s.Passed {
			lucky++
		}
		if s.Phase == Confirm {
			confirmations++
		}
	}
	if err != nil || lucky == 0 || confirmations != 1 || got.Passed > 1030 {
		t.Errorf("got %+v, %v, %d lucky stages and %d confirmations", got, err, lucky, confirmations)
	}
}

// A service that fails at every rate at first, and then does not, is not
// searched without end.
func TestSearchGivesUp(t *testing.T) {
	nth, tried := 0, map[float64]bool{}
	got, stages, err := searchCapacity(t.Context(), tandem.Async, nil, 4, stageLength,
		service(func(nth int, rate float64, length time.Duration) *Result {
			capacity := 1e6
			if rate > 4 && !tried[rate] {
				capacity = 1
			}
			tried[rate] = true
			return cliff(capacity)(nth, rate, length)
		}).measure(&nth))
	if err != nil || len(stages) != maxStages || got.Passed < 4 || got.Confirmed || !strings.Contains(got.Bound, "64 stages did not find the edge") {
		t.Errorf("got %+v after %d stages, %v", got, len(stages), err)
	}
}

func TestSearchOfTrueQueues(t *testing.T) {
	const capacity = 400
	// By queueing theory the p95 of the response is ln(20)/(capacity-rate).
	limited := slo(t, "completion.p95<50ms")
	for _, c := range []struct {
		name      string
		mode      tandem.Mode
		slo       *SLO
		low, high float64
	}{
		{"sync, all it sustains", tandem.Sync, nil, 0.9 * capacity, 1.1 * capacity},
		{"async, all it sustains", tandem.Async, nil, 0.9 * capacity, 1.1 * capacity},
		{"sync, an objective", tandem.Sync, &limited, 300, 375},
		{"async, an objective", tandem.Async, &limited, 300, 375},
	} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprint(c.name, ", seed ", seed), func(t *testing.T) {
				t.Parallel()
				nth := 0
				got, _, err := searchCapacity(t.Context(), c.mode, c.slo, 50, stageLength, mm1(c.mode, capacity, seed).measure(&nth))
				if err != nil || got.Passed < c.low || got.Passed > c.high || got.Mode != c.mode {
					t.Errorf("got %+v, %v, want %g to %g", got, err, c.low, c.high)
				}
				if c.slo != nil && (got.SLO != c.slo.String() || !strings.Contains(got.Bound, got.SLO)) {
					t.Errorf("got %+v, want it bound by %s", got, c.slo)
				}
			})
		}
	}
}

// However a service behaves, a search ends.
func TestSearchEnds(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 0))
		nth := 0
		_, stages, err := searchCapacity(t.Context(), tandem.Async, nil, 10, stageLength,
			service(func(nth int, rate float64, length time.Duration) *Result {
				r := cliff(100*float64(1+random.IntN(2)))(nth, min(rate, 100*float64(1+random.IntN(3))), length)
				if random.IntN(5) == 0 {
					return delayed(r)
				}
				return r
			}).measure(&nth))
		if err != nil || len(stages) > maxStages || nth != len(stages) {
			t.Errorf("seed %d: %d stages, %v", seed, len(stages), err)
		}
	}
}

func TestSearchStopsAtErrors(t *testing.T) {
	cause := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	nth := 0
	got, stages, err := searchCapacity(ctx, tandem.Async, nil, 100, stageLength,
		func(ctx context.Context, mode tandem.Mode, rate float64, length time.Duration) (*Result, error) {
			if nth++; nth == 3 {
				cancel(cause)
			}
			return cliff(1000)(nth, rate, length), nil
		})
	if !errors.Is(err, cause) || len(stages) != 3 || nth != 3 || got.Passed != 400 || got.Confirmed {
		t.Errorf("got %+v, %d stages, %v, want the three that were run and the cause", got, len(stages), err)
	}

	broken := errors.New("no connection")
	_, _, err = searchCapacity(t.Context(), tandem.Async, nil, 100, stageLength,
		func(context.Context, tandem.Mode, float64, time.Duration) (*Result, error) { return nil, broken })
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}

	nth = 0
	_, stages, err = searchCapacity(t.Context(), tandem.Async, nil, 100, stageLength,
		service(func(nth int, rate float64, length time.Duration) *Result {
			r := cliff(1000)(nth, rate, length)
			r.Generator.Ceiling = 0
			return r
		}).measure(&nth))
	if err == nil || !strings.Contains(err.Error(), "not calibrated") || len(stages) != 1 {
		t.Errorf("got %d stages, %v, want an error at the first", len(stages), err)
	}
}

// What a search has found is not lost when it is ended, or runs into a stage
// that cannot be believed.
func TestASearchThatIsEndedKeepsWhatItFound(t *testing.T) {
	for name, row := range map[string]struct {
		spoil func(cancel context.CancelCauseFunc, r *Result)
		why   string
	}{
		"by hand":                            {func(cancel context.CancelCauseFunc, _ *Result) { cancel(errors.New("interrupt")) }, "interrupted (interrupt)"},
		"by a stage that cannot be believed": {func(_ context.CancelCauseFunc, r *Result) { r.Generator.Ceiling = 0 }, "not calibrated"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			objective := slo(t, "async.accept.p50<1s")
			spec := Spec{Rate: 100, Duration: stageLength}
			questions, err := questionsOf(objective, spec)
			if err != nil || len(questions) != 3 {
				t.Fatalf("%d questions, %v; want two without the objective, and one with it", len(questions), err)
			}
			nth, asyncs := 0, 0
			found := &Search{Spec: spec}
			found.answer(ctx, questions, func(_ context.Context, mode tandem.Mode, rate float64, length time.Duration) (*Result, error) {
				r := fluid(mode, rate, min(rate, 1000), length)
				if nth++; mode == tandem.Async {
					if asyncs++; asyncs == 3 {
						row.spoil(cancel, r)
						return r, interrupted(ctx)
					}
				}
				return r, nil
			})
			if len(found.Stages) < nth-1 {
				t.Errorf("%d stages are kept of %d", len(found.Stages), nth)
			}
			if len(found.Void) != 1 || !strings.Contains(found.Void[0], row.why) || found.Exit() != ExitVoid {
				t.Errorf("void as %q, exit code %d; want %q", found.Void, found.Exit(), row.why)
			}
			if c := found.Capacities; len(c) != 2 || !c[0].Confirmed || c[0].Passed < 900 || c[1].Passed != 200 || c[1].Confirmed || !strings.Contains(c[1].Bound, row.why) {
				t.Errorf("kept %+v; want that of sync, and of async that 200/s passed", c)
			}
		})
	}
}

// TestStageForTellsWhetherAnObjectiveIsMet holds the length of a stage against
// what the search asks of it.
func TestStageForTellsWhetherAnObjectiveIsMet(t *testing.T) {
	for _, c := range []struct {
		slo  string
		rate float64
		want time.Duration
	}{
		{"completion.p95<200ms", 20, 8 * time.Second},
		{"completion.p99<200ms", 20, 40 * time.Second},
		{"completion.p99<200ms", 1000, 5 * time.Second},
		{"error_rate<1%", 20, 5 * time.Second},
		{"completion.p99<200ms", 1e-12, time.Hour},
	} {
		objective := slo(t, c.slo)
		if got := StageFor(objective, c.rate); got != c.want {
			t.Errorf("%s at %v/s: %v, want %v", c.slo, c.rate, got, c.want)
		}
		s := search{mode: tandem.Sync, slo: &objective, length: c.want}
		if err := s.plan(c.rate); err != nil && c.want < time.Hour {
			t.Errorf("%s at %v/s is refused: %v", c.slo, c.rate, err)
		}
	}
}

func TestSearchRefusals(t *testing.T) {
	for _, c := range []struct {
		name, slo string
		first     float64
		length    time.Duration
		want      string // empty: none
	}{
		{"an objective of the other mode", "latency.p99<1s", 100, stageLength, "says nothing of async"},
		{"a short stage", "", 100, 4999 * time.Millisecond, "--stage 5s"},
		{"no rate", "", 0, stageLength, "above 0"},
		{"more than is ever sent", "", 100_001, stageLength, "at most 100000"},
		{"too few samples for p99", "accept.p99<20ms", 79, stageLength, "--stage 11s, or begin at 80/s"},
		{"enough samples for p99", "accept.p99<20ms", 80, stageLength, ""},
		{"too few requests", "", 0.9, stageLength, "--stage 12s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var objective *SLO
			if c.slo != "" {
				s := slo(t, c.slo)
				objective = &s
			}
			nth := 0
			_, stages, err := searchCapacity(t.Context(), tandem.Async, objective, c.first, c.length, cliff(1000).measure(&nth))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || len(stages) > 0) {
				t.Errorf("got %v after %d stages, want %q", err, len(stages), c.want)
			}
		})
	}
}
