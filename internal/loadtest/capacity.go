package loadtest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"tandem"
)

// FindCapacity searches the rate that each pattern sustains, at all and under
// an objective. An error means that it could not be begun. A search that ctx
// ends early, or a stage whose figures contradict each other, is a Search, too:
// Void says why it has no more.
func FindCapacity(ctx context.Context, spec Spec, slo SLO, opts Options) (*Search, error) {
	questions, err := questionsOf(slo, spec)
	if err != nil {
		return nil, fmt.Errorf("cannot search: %w", err)
	}
	l, err := openLab(ctx, spec, opts)
	if err != nil {
		return nil, err
	}
	defer l.close()
	started := time.Now()
	found := &Search{SLO: slo.String(), Spec: spec, Service: l.service, Started: started.UTC().Round(0)}
	found.answer(ctx, questions, l.measure(spec))
	found.Duration = time.Since(started)
	return found, nil
}

// question is what one search answers.
type question struct {
	mode tandem.Mode
	slo  *SLO // nil: what the mode sustains at all
}

// questionsOf are those about both modes, as far as the objective is about them.
func questionsOf(slo SLO, spec Spec) ([]question, error) {
	var all []question
	for _, mode := range tandem.Modes {
		for _, objective := range []*SLO{nil, &slo} {
			if objective != nil && !objective.Applies(mode) {
				continue
			}
			if err := (&search{mode: mode, slo: objective, length: spec.Duration}).plan(spec.Rate); err != nil {
				return nil, err
			}
			all = append(all, question{mode, objective})
		}
	}
	return all, nil
}

// answer searches for each question in turn. What is found is kept, also of one
// that ends with an error, which ends them all.
func (found *Search) answer(ctx context.Context, questions []question, measure measureFunc) {
	for _, q := range questions {
		capacity, stages, err := searchCapacity(ctx, q.mode, q.slo, found.Spec.Rate, found.Spec.Duration, measure)
		found.Capacities = append(found.Capacities, capacity)
		found.Stages = append(found.Stages, stages...)
		if err != nil {
			found.Void = append(found.Void, fmt.Sprintf("The search did not come to its end: %s.", strings.TrimSuffix(err.Error(), ".")))
			return
		}
	}
}

// interrupted is nil until ctx ends.
func interrupted(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("interrupted (%w)", context.Cause(ctx))
}

// measure returns what runs one stage of a mode.
func (l *lab) measure(spec Spec) measureFunc {
	return func(ctx context.Context, mode tandem.Mode, rate float64, length time.Duration) (*Result, error) {
		spec.Rate, spec.Duration, spec.SyncRatio = rate, length, 0
		if mode == tandem.Sync {
			spec.SyncRatio = 1
		}
		spec.Seed++ // every stage has arrivals of its own
		result, _, err := l.run(ctx, spec)
		if err == nil {
			err = interrupted(ctx)
		}
		return result, err
	}
}
