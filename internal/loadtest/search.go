package loadtest

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"tandem"
)

// How a search goes.
const (
	lowestRate   = 0.5  // per second; what does not sustain it sustains nothing
	closeEnough  = 0.05 // of the rate: how near the edge is searched for
	nearEdge     = 0.15 // of the rate: a stage within it of the edge is repeated, and two of three decide
	confirmTimes = 3    // how much longer the last stage is
	confirmTries = 4    // rates that the last stage is tried with
	stepDown     = 0.95 // from one of them to the next
)

// FindCapacity searches the rate that each pattern sustains, at all and under
// an objective. An error means that it could not be begun, or was interrupted.
func FindCapacity(ctx context.Context, spec Spec, slo SLO, opts Options) (*Search, error) {
	l, err := openLab(ctx, spec, opts)
	if err != nil {
		return nil, err
	}
	defer l.close()
	started := time.Now()
	found := &Search{SLO: slo.String(), Spec: spec, Service: l.service, Started: started.UTC().Round(0)}
	for _, mode := range []tandem.Mode{tandem.Sync, tandem.Async} {
		for _, objective := range []*SLO{nil, &slo} {
			if objective != nil && !objective.Applies(mode) {
				continue
			}
			s := &searcher{mode: mode, slo: objective, length: spec.Duration, measure: l.measure(spec, mode, objective)}
			capacity, err := s.find(ctx, spec.Rate)
			found.Stages = append(found.Stages, s.stages...)
			if err != nil {
				return nil, err
			}
			found.Capacities = append(found.Capacities, capacity)
		}
	}
	found.Duration = time.Since(started)
	return found, nil
}

// measure returns what runs one stage of a mode.
func (l *lab) measure(spec Spec, mode tandem.Mode, slo *SLO) func(context.Context, float64, time.Duration) (Stage, error) {
	return func(ctx context.Context, rate float64, length time.Duration) (Stage, error) {
		spec.Rate, spec.Duration, spec.SyncRatio = rate, length, 0
		if mode == tandem.Sync {
			spec.SyncRatio = 1
		}
		spec.Seed++ // every stage has arrivals of its own
		result, _, err := l.run(ctx, spec)
		if err != nil {
			return Stage{}, err
		}
		return result.stage(mode, slo), context.Cause(ctx)
	}
}

// stage judges a run as a stage of a search. A rate is sustained if what was
// sent was completed, the objective met, and nothing piled up: what is not
// completed must not grow over the stage, and must be worked off soon after it.
func (r *Result) stage(mode tandem.Mode, slo *SLO) Stage {
	arm, piled := r.Sync, func(s Second) float64 { return s.InFlight }
	if mode == tandem.Async {
		arm, piled = r.Async, func(s Second) float64 { return s.Backlog }
	}
	accepted, _ := arm.Accepted()
	completed, _ := arm.Throughput()
	s := Stage{
		Mode: mode, Rate: r.Spec.Rate, For: r.Spec.Duration, Void: r.Void,
		Accepted: accepted, Completed: completed, Response: arm.Response.pack(), Completion: arm.Completion.pack(),
		Drain: max(r.Duration-lead-r.Spec.Duration, 0),
	}
	broke := func(format string, args ...any) { s.Broke = append(s.Broke, fmt.Sprintf(format, args...)) }
	if errors := errorRate(arm); slo == nil || slo.metric != "error_rate" {
		if errors.value > 0.01 {
			broke("%.1f %% of the requests did not succeed", 100*errors.value)
		}
	}
	if slo != nil {
		s.SLO = slo.String()
		switch o := slo.Check(r); o.Outcome {
		case Missed:
			broke("%s: measured %s", o.SLO, o.Measured)
		case NotMeasured:
			broke("%s: n too small (%d); make --stage longer", o.SLO, o.N)
		}
	}
	var significant bool
	if s.Growth, significant = growth(r.Series, int(r.Spec.Duration/time.Second), piled); significant {
		if grown := s.Growth * r.Spec.Duration.Seconds(); grown > max(10, 0.02*float64(arm.Ledger.Sent)) {
			broke("what waits grew by %.3g a second", s.Growth)
		}
	}
	if bound := max(time.Second, r.Spec.Duration/10); s.Drain > bound {
		broke("what had piled up took %v to work off", s.Drain.Round(time.Millisecond))
	}
	s.Passed = len(s.Broke) == 0 && len(s.Void) == 0
	return s
}

// growth is the slope of the least-squares line through a figure of the first
// seconds of a series, and whether it is above zero by three standard errors.
func growth(series []Second, seconds int, of func(Second) float64) (slope float64, significant bool) {
	var xs, ys []float64
	for _, s := range series {
		if s.At < seconds {
			xs, ys = append(xs, float64(s.At)+0.5), append(ys, of(s))
		}
	}
	n := float64(len(xs))
	if n < 3 {
		if n == 2 {
			slope = ys[1] - ys[0]
		}
		return slope, slope > 0
	}
	var sumX, sumY float64
	for i := range xs {
		sumX, sumY = sumX+xs[i], sumY+ys[i]
	}
	var xx, xy, rest float64
	for i := range xs {
		xx += (xs[i] - sumX/n) * (xs[i] - sumX/n)
		xy += (xs[i] - sumX/n) * (ys[i] - sumY/n)
	}
	slope = xy / xx
	for i := range xs {
		d := ys[i] - sumY/n - slope*(xs[i]-sumX/n)
		rest += d * d
	}
	return slope, slope > 3*math.Sqrt(rest/(n-2)/xx)
}

// searcher searches the capacity of one mode.
type searcher struct {
	mode    tandem.Mode
	slo     *SLO
	length  time.Duration
	measure func(ctx context.Context, rate float64, length time.Duration) (Stage, error)
	stages  []Stage
}

// find doubles the rate until it fails, halves the interval between the best
// and the worst until it is close enough, and confirms the best in a longer
// stage. It runs at most 64 stages: the rate is doubled at most 18 times, the
// interval of a factor of two halved 4 times in up to 3 stages, and 4 more at
// the end; a stage that was void is run again once.
func (s *searcher) find(ctx context.Context, first float64) (Capacity, error) {
	c := Capacity{Mode: s.mode}
	if s.slo != nil {
		c.SLO = s.slo.String()
	}
	if err := s.bracket(ctx, first, &c); err != nil || c.Passed == 0 {
		return c, err
	}
	for c.Failed > 0 && c.Failed/c.Passed-1 > closeEnough {
		passed, why, err := s.try(ctx, math.Sqrt(c.Passed*c.Failed), &c)
		if err != nil {
			return c, err
		}
		rate := s.stages[len(s.stages)-1].Rate
		if passed {
			c.Passed = rate
		} else {
			c.Failed, c.Bound = rate, why
		}
	}
	for range confirmTries {
		stage, err := s.stage(ctx, Confirm, c.Passed, confirmTimes*s.length)
		if err != nil {
			return c, err
		}
		if c.Confirmed = stage.Passed; c.Confirmed {
			return c, nil
		}
		c.Failed, c.Bound = c.Passed, why(stage)+" (in the longer stage)"
		c.Passed *= stepDown
	}
	return c, nil
}

// bracket finds a rate that passes and one that fails, or that the generator
// cannot go beyond.
func (s *searcher) bracket(ctx context.Context, rate float64, c *Capacity) error {
	for rate >= lowestRate && rate <= MaxRate {
		stage, err := s.stage(ctx, Bracket, rate, s.length)
		if err != nil {
			return err
		}
		switch {
		case stage.Passed:
			c.Passed = rate
			if c.Failed > 0 {
				return nil
			}
			rate *= 2
		case len(stage.Void) > 0 && c.Passed > 0:
			c.Bound = "the generator's limit, so it is at least this: " + why(stage)
			return nil
		default:
			c.Failed, c.Bound = rate, why(stage)
			if c.Passed > 0 {
				return nil
			}
			rate /= 2
		}
	}
	if c.Failed == 0 {
		c.Bound = fmt.Sprintf("the highest rate that is tried, %d/s", MaxRate)
	}
	return nil
}

// try tries a rate between what passed and what failed; near the edge, two of
// three stages decide.
func (s *searcher) try(ctx context.Context, rate float64, c *Capacity) (passed bool, reason string, err error) {
	votes := 0
	phase := Bisect
	for range 3 {
		stage, err := s.stage(ctx, phase, rate, s.length)
		if err != nil {
			return false, "", err
		}
		if stage.Passed {
			votes++
		} else {
			votes--
			reason = why(stage)
		}
		if c.Failed/c.Passed-1 > nearEdge || votes == 2 || votes == -2 {
			break
		}
		phase = Repeat
	}
	return votes > 0, reason, nil
}

// stage runs one stage, and once more if it was void.
func (s *searcher) stage(ctx context.Context, phase Phase, rate float64, length time.Duration) (Stage, error) {
	for again := false; ; again = true {
		stage, err := s.measure(ctx, rate, length)
		if err != nil {
			return stage, err
		}
		stage.Phase = phase
		s.stages = append(s.stages, stage)
		if len(stage.Void) == 0 || again {
			return stage, nil
		}
	}
}

// why is what a stage broke.
func why(s Stage) string {
	return strings.Join(append(s.Void[:len(s.Void):len(s.Void)], s.Broke...), "; ")
}
