package loadtest

import (
	"errors"
	"fmt"
	"time"

	"tandem"
)

// Spec says what a run sends. With a Rate it is an open model: requests are due
// at times that are fixed beforehand, whatever the service does. Without, it is
// a closed model: Concurrency callers each hold one request until it is
// completed, and then take the next.
type Spec struct {
	Workload   string  `json:"workload"`
	Complexity int     `json:"complexity"`
	SyncRatio  float64 `json:"sync_ratio"` // the part of all requests that is sync, 0 to 1
	Seed       uint64  `json:"seed"`

	// The closed model. A run ends after Requests. In an open model Concurrency
	// is how many requests may be outstanding at most; 0: as many as fall due.
	Requests    int `json:"requests,omitempty"`
	Concurrency int `json:"concurrency,omitempty"`
	// Of a comparison: so many pairs of blocks, one of each arm, in random
	// order; of an A/A test both arms are sync. 0: it is no comparison.
	Pairs int  `json:"pairs,omitempty"`
	AA    bool `json:"aa,omitempty"`

	// The open model: from Rate to RateTo per second over Duration.
	Rate     float64       `json:"rate,omitempty"`
	RateTo   float64       `json:"rate_to,omitempty"` // 0: the rate stays
	Duration time.Duration `json:"duration_ns,omitempty"`
	Arrivals Arrivals      `json:"arrivals,omitempty"`
}

// Arrivals is how the planned times of an open model are spread.
type Arrivals string

const (
	Poisson  Arrivals = "poisson"  // as many callers that know nothing of one another
	Constant Arrivals = "constant" // evenly
)

// Open reports whether the Spec is of an open model.
func (s Spec) Open() bool { return s.Rate > 0 }

// The bounds of a Spec.
const (
	MaxRequests    = 20_000_000
	MaxConcurrency = 10_000
	MaxRate        = 100_000
	FewestPairs    = 10 // that an interval of a comparison needs
)

// Check returns all that is wrong with the Spec, joined. Each fault begins with
// the name of its field in JSON.
func (s Spec) Check() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	within := func(field string, value, low, high int) {
		if value < low || value > high {
			fault("%s must be from %d to %d, is %d", field, low, high, value)
		}
	}
	within("complexity", s.Complexity, 1, tandem.MaxComplexity)
	if s.Workload == "" {
		fault("workload must be named")
	}
	if !(s.SyncRatio >= 0 && s.SyncRatio <= 1) {
		fault("sync_ratio must be from 0 to 1, is %v", s.SyncRatio)
	}
	if !s.Open() {
		within("requests", s.Requests, 1, MaxRequests)
		within("concurrency", s.Concurrency, 1, MaxConcurrency)
		if s.Pairs != 0 && (s.Pairs < FewestPairs || s.Pairs > s.Requests/2) {
			fault("pairs must be from %d to half of --requests, is %d", FewestPairs, s.Pairs)
		}
		return errors.Join(faults...)
	}
	for _, rate := range []struct {
		field string
		value float64
	}{{"rate", s.Rate}, {"rate_to", s.RateTo}} {
		if !(rate.value >= 0 && rate.value <= MaxRate) {
			fault("%s must be above 0 and at most %d per second, is %v", rate.field, MaxRate, rate.value)
		}
	}
	within("concurrency", s.Concurrency, 0, MaxConcurrency)
	if s.Duration <= 0 {
		fault("duration must be positive, is %v", s.Duration)
	} else if n := s.curve().total(); n < 1 || n > MaxRequests {
		fault("duration and rate make %.3g requests; there must be 1 to %d", n, MaxRequests)
	}
	if s.Arrivals != Poisson && s.Arrivals != Constant {
		fault("arrivals must be %s or %s, is %q", Poisson, Constant, s.Arrivals)
	}
	return errors.Join(faults...)
}
