package loadtest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"tandem"
)

const (
	resolution    = 1.05 // between the rate that passed and the one that failed
	nearEdge      = 1.15 // so close to the edge, two of three stages decide
	stepDown      = 0.95 // after a confirmation that failed
	maxStepsDown  = 3
	confirmTimes  = 3 // as long as other stages
	maxHalvings   = 10
	maxStages     = 64
	shortestStage = 5 * time.Second // leaves three seconds to see a backlog grow in, see fit
)

// measureFunc runs one mode at a rate, in the open model, and returns what it
// measured. It need not judge it.
type measureFunc func(ctx context.Context, mode tandem.Mode, rate float64, length time.Duration) (*Result, error)

// searchCapacity finds the highest rate that a mode sustains, meeting an
// objective if there is one:
//
//  1. From the first rate it doubles while stages pass; if the first fails, it
//     halves until one passes, at most ten times.
//  2. It halves the interval between the best and the worst until they are
//     within 5 %. Near the edge two of three stages decide, also about an upper
//     end that a single stage failed at.
//  3. It confirms the best rate by a stage three times as long. If that fails it
//     steps down by 5 %, at most three times.
//
// A stage that a late generator disturbed is repeated once. Where the generator
// ends the way up, capacity is only known to be at least what passed. The
// search takes at most 64 stages, and returns those that it took also with an
// error.
func searchCapacity(ctx context.Context, mode tandem.Mode, slo *SLO, first float64, length time.Duration,
	measure measureFunc) (Capacity, []Stage, error) {

	s := &search{mode: mode, slo: slo, length: length, measure: measure, failures: map[float64]*failure{}}
	if err := s.plan(first); err != nil {
		return s.capacity(), nil, err
	}
	err := s.find(ctx, first)
	if err == nil {
		err = s.confirm(ctx)
	}
	if err != nil {
		s.limit = strings.TrimSuffix(err.Error(), ".")
	}
	if errors.Is(err, errTooMany) {
		err = nil
	}
	return s.capacity(), s.stages, err
}

var errTooMany = fmt.Errorf("%d stages did not find the edge", maxStages)

// search is the state of one.
type search struct {
	mode    tandem.Mode
	slo     *SLO
	length  time.Duration
	measure measureFunc

	lowest, highest float64 // rates that may be tried
	stages          []Stage
	passes          []float64            // rates that passed
	failures        map[float64]*failure // rates that failed
	passed          float64              // the best; 0: none
	limit           string               // what ended the search otherwise than by a rate that failed
	confirmed       bool
}

// failure is a rate that failed.
type failure struct {
	times int
	broke []string
}

// plan checks what was asked for and says between which rates to search. Stages
// must have the samples that the objective needs.
func (s *search) plan(first float64) error {
	if s.slo != nil && !s.slo.Applies(s.mode) {
		return fmt.Errorf("objective %s says nothing of %s requests", s.slo, s.mode)
	}
	if s.length < shortestStage {
		return fmt.Errorf("a stage of %v is too short to see whether a backlog grows; take longer ones, such as --stage %v", s.length, shortestStage)
	}
	seconds := s.length.Seconds()
	s.highest = min(MaxRate, MaxRequests/(confirmTimes*seconds))
	if !(first > 0 && first <= s.highest) {
		return fmt.Errorf("the first rate must be above 0 and at most %.6g per second, is %v", s.highest, first)
	}
	fewest := samplesOfStage(s.slo)
	if s.lowest = max(first/math.Pow(2, maxHalvings), fewest/seconds); first < s.lowest {
		return fmt.Errorf("a stage of %v at %.4g/s has too few requests to tell%s: take longer ones, such as --stage %v, or begin at %.4g/s",
			s.length, first, s.objective(" "), wholeSeconds(fewest/first), math.Ceil(s.lowest))
	}
	return nil
}

// StageFor is how long a stage at a rate must be to tell whether an objective is
// met: at least five seconds, which show whether a backlog grows. It is at most
// an hour, also where that is not enough.
func StageFor(slo SLO, rate float64) time.Duration {
	return max(shortestStage, wholeSeconds(min(samplesOfStage(&slo)/rate, time.Hour.Seconds())))
}

// samplesOfStage is how many requests a stage must have.
func samplesOfStage(slo *SLO) float64 {
	if slo == nil {
		return 10
	}
	return max(10, slo.fewest())
}

// wholeSeconds rounds up.
func wholeSeconds(seconds float64) time.Duration {
	return time.Duration(math.Ceil(seconds)) * time.Second
}

func (s *search) objective(before string) string {
	if s.slo == nil {
		return ""
	}
	return before + s.slo.String()
}

// find brings the best rate and the worst within the resolution, or sets limit,
// or ends at the lowest rate.
func (s *search) find(ctx context.Context, first float64) error {
	for rate := first; ; {
		for s.failed() == 0 && s.limit == "" {
			if err := s.decide(ctx, Bracket, rate, 1); err != nil {
				return err
			}
			if s.passed >= s.highest {
				s.limit = fmt.Sprintf("the generator's limit: no more than %.6g/s is ever sent", s.highest)
			}
			rate = min(2*rate, s.highest)
		}
		for rate = first; s.passed == 0; {
			if rate = min(rate/2, s.highest); rate < s.lowest {
				return nil
			}
			if err := s.decide(ctx, Bracket, rate, 1); err != nil {
				return err
			}
		}
		if again, err := s.narrow(ctx); !again {
			return err
		}
		rate = min(2*s.passed, s.highest)
	}
}

// narrow bisects. again is true if the upper end turned out to pass, and none
// above it is known to fail.
func (s *search) narrow(ctx context.Context) (again bool, err error) {
	for s.limit == "" {
		low, high := s.passed, s.failed()
		switch {
		case high == 0:
			return true, nil
		case high > low*resolution:
			needed := 1
			if high <= low*nearEdge*nearEdge {
				needed = 2
			}
			err = s.decide(ctx, Bisect, math.Sqrt(low*high), needed)
		case s.failures[high].times < 2:
			err = s.decide(ctx, Repeat, high, 2)
		default:
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

// decide runs stages at a rate until as many as needed agree, those counted
// that failed there before.
func (s *search) decide(ctx context.Context, phase Phase, rate float64, needed int) error {
	fail := s.failures[rate]
	if fail == nil {
		fail = &failure{}
	}
	for passes := 0; ; phase = Repeat {
		result, err := s.try(ctx, phase, rate, s.length)
		if err != nil {
			return err
		}
		switch result {
		case sustained:
			if passes++; passes == needed {
				delete(s.failures, rate)
				s.passes = append(s.passes, rate)
				s.passed = max(s.passed, rate)
				return nil
			}
		case overloaded:
			fail.times, fail.broke = fail.times+1, s.stages[len(s.stages)-1].Broke
			if fail.times >= needed {
				s.failures[rate], s.limit = fail, "" // what lies above no longer matters
				return nil
			}
		default:
			s.limit = s.outOfReach(rate)
			return nil
		}
	}
}

// try runs one stage, or two if the generator disturbed the first.
func (s *search) try(ctx context.Context, phase Phase, rate float64, length time.Duration) (standing, error) {
	for range 2 {
		if len(s.stages) == maxStages {
			return beyondReach, errTooMany
		}
		if err := interrupted(ctx); err != nil {
			return beyondReach, err
		}
		r, err := s.measure(ctx, s.mode, rate, length)
		if err != nil {
			return beyondReach, fmt.Errorf("stage of %.4g/s: %w", rate, err)
		}
		if reach := maxCeiling * r.Generator.Ceiling / r.Spec.messages(); reach > 0 {
			s.highest = min(s.highest, reach)
		}
		stage, result := r.stage(Stage{Mode: s.mode, SLO: s.objective(""), Phase: phase, Rate: rate, For: length}, s.slo)
		s.stages = append(s.stages, stage)
		switch result {
		case disturbed:
			continue
		case unaccounted:
			return result, fmt.Errorf("stage of %.4g/s: %s", rate, strings.Join(stage.Void, " "))
		}
		return result, nil
	}
	return beyondReach, nil
}

func (s *search) outOfReach(rate float64) string {
	why := strings.Join(s.stages[len(s.stages)-1].Void, " ")
	return fmt.Sprintf("the generator's limit, at %.4g/s: %s", rate, strings.TrimSuffix(why, "."))
}

// confirm runs longer stages at the best rate, and below it.
func (s *search) confirm(ctx context.Context) error {
	rate := s.passed
	for range maxStepsDown + 1 {
		if rate == 0 {
			return nil
		}
		result, err := s.try(ctx, Confirm, rate, confirmTimes*s.length)
		if err != nil {
			return err
		}
		switch result {
		case sustained:
			s.passed, s.confirmed = rate, true
			return nil
		case overloaded:
			s.failures[rate] = &failure{1, s.stages[len(s.stages)-1].Broke}
			s.passed = s.bestBelow(rate)
		default:
			s.limit = s.outOfReach(rate)
			return nil
		}
		rate *= stepDown
	}
	return nil
}

func (s *search) bestBelow(rate float64) (best float64) {
	for _, passed := range s.passes {
		if passed < rate {
			best = max(best, passed)
		}
	}
	return best
}

// failed is the lowest rate that failed, above the best one that passed; 0 if
// none did.
func (s *search) failed() (lowest float64) {
	for rate := range s.failures {
		if rate > s.passed && (lowest == 0 || rate < lowest) {
			lowest = rate
		}
	}
	return lowest
}

func (s *search) capacity() Capacity {
	c := Capacity{Mode: s.mode, SLO: s.objective(""), Passed: s.passed, Failed: s.failed(), Confirmed: s.confirmed}
	var bounds []string
	if c.Failed > 0 {
		bounds = append(bounds, strings.Join(s.failures[c.Failed].broke, "; "))
	}
	if s.limit != "" {
		bounds = append(bounds, s.limit)
	}
	if s.limit != "" && c.Failed == 0 && c.Passed > 0 {
		bounds = append(bounds, fmt.Sprintf("capacity is at least %.4g/s", c.Passed))
	}
	if c.Passed == 0 && c.Failed > 0 {
		bounds = append(bounds, fmt.Sprintf("no rate down to %.4g/s passed", s.stages[len(s.stages)-1].Rate))
	}
	c.Bound = strings.Join(bounds, "; ")
	return c
}
