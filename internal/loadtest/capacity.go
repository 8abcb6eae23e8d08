package loadtest

import (
	"context"
	"fmt"
	"time"

	"tandem"
)

// FindCapacity searches the rate that each pattern sustains, at all and under
// an objective. An error means that it could not be begun, or was interrupted.
func FindCapacity(ctx context.Context, spec Spec, slo SLO, opts Options) (*Search, error) {
	type question struct {
		mode tandem.Mode
		slo  *SLO
	}
	var questions []question
	for _, mode := range tandem.Modes {
		for _, objective := range []*SLO{nil, &slo} {
			if objective != nil && !objective.Applies(mode) {
				continue
			}
			if err := (&search{mode: mode, slo: objective, length: spec.Duration}).plan(spec.Rate); err != nil {
				return nil, fmt.Errorf("cannot search: %w", err)
			}
			questions = append(questions, question{mode, objective})
		}
	}
	l, err := openLab(ctx, spec, opts)
	if err != nil {
		return nil, err
	}
	defer l.close()
	started := time.Now()
	found := &Search{SLO: slo.String(), Spec: spec, Service: l.service, Started: started.UTC().Round(0)}
	measure := l.measure(spec)
	for _, q := range questions {
		capacity, stages, err := searchCapacity(ctx, q.mode, q.slo, spec.Rate, spec.Duration, measure)
		if err != nil {
			return nil, err
		}
		found.Capacities = append(found.Capacities, capacity)
		found.Stages = append(found.Stages, stages...)
	}
	found.Duration = time.Since(started)
	return found, nil
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
			err = context.Cause(ctx)
		}
		return result, err
	}
}
