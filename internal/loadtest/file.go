package loadtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"tandem"
)

// File is what the lab keeps of a measurement: one of a load, a comparison or a
// search. Its form is result.schema.json.
type File struct {
	Version     int         `json:"version"` // of this form: FileVersion
	Tandem      string      `json:"tandem"`  // the program that wrote it
	Environment Environment `json:"environment"`

	Load    *Result     `json:"load,omitempty"`
	Compare *Comparison `json:"compare,omitempty"`
	Search  *Search     `json:"search,omitempty"`
}

// FileVersion is the version of File that this package writes and reads.
const FileVersion = 1

// Environment is the machine that the load came from.
type Environment struct {
	OS     string `json:"os"`
	Kernel string `json:"kernel,omitempty"` // where the system tells
	Arch   string `json:"arch"`
	CPU    string `json:"cpu,omitempty"` // its model, where the system tells
	Git    string `json:"git,omitempty"` // the commit that the program was built from; + if it was changed
	CPUs   int    `json:"cpus"`          // that this process may use
	Go     string `json:"go"`
}

// Comparison is an A/B test of two arms in randomised interleaved blocks.
type Comparison struct {
	AA      bool     `json:"aa"` // both arms are sync: no difference may be found
	Pairs   int      `json:"pairs"`
	Metrics []Metric `json:"metrics"`
	Blocks  []Block  `json:"blocks"` // in the order in which they ran
	Run     Result   `json:"run"`    // all of it; of an A/A test, the arm B is in Run.Async
}

// Metric is one figure of a Comparison: a duration in seconds, or a rate per
// second. A is sync, B async (or sync again). Ratio is B over A, and [Low,
// High] its 95 % confidence interval.
type Metric struct {
	Name string `json:"name"` // such as completion.p95
	Unit string `json:"unit"` // s or /s

	A       float64 `json:"a"`
	B       float64 `json:"b"`
	Ratio   float64 `json:"ratio"`
	Low     float64 `json:"low"`
	High    float64 `json:"high"`
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason,omitempty"` // why nothing was measured; A to High are then zero
}

// Verdict says what B is, compared with A.
type Verdict string

const (
	Faster       Verdict = "faster"
	Slower       Verdict = "slower"
	Equivalent   Verdict = "equivalent" // within 5 %
	Inconclusive Verdict = "inconclusive"
	Unmeasured   Verdict = "not measured"
)

// Block is one arm's turn.
type Block struct {
	Pair       int           `json:"pair"` // from 0
	Arm        string        `json:"arm"`  // a or b
	Started    time.Duration `json:"started_ns"`
	Duration   time.Duration `json:"duration_ns"`
	Completed  int           `json:"completed"`
	Response   Latency       `json:"response"`
	Completion Latency       `json:"completion"`
}

// Search is what was found of the capacity of each pattern.
type Search struct {
	SLO        string        `json:"slo"`
	Spec       Spec          `json:"spec"` // of a stage; its rate is the first one tried
	Service    Service       `json:"service"`
	Started    time.Time     `json:"started"`
	Duration   time.Duration `json:"duration_ns"`
	Capacities []Capacity    `json:"capacities"`
	Stages     []Stage       `json:"stages"`         // in the order in which they ran
	Void       []string      `json:"void,omitempty"` // why the last of Capacities was not searched to its end, nor anything beyond it
}

// Capacity is a rate that one pattern sustained, and the next one that it did
// not.
type Capacity struct {
	Mode tandem.Mode `json:"mode"`
	SLO  string      `json:"slo,omitempty"` // empty: the most it sustains at all

	Passed    float64 `json:"passed_per_s"` // confirmed by a longer stage; 0: none passed
	Failed    float64 `json:"failed_per_s"` // the lowest that failed; 0: none did, the search ended at Bound
	Bound     string  `json:"bound"`        // what Failed broke, or what ended the search
	Confirmed bool    `json:"confirmed"`
}

// Stage is one rate that was tried.
type Stage struct {
	Mode  tandem.Mode   `json:"mode"`
	SLO   string        `json:"slo,omitempty"`
	Phase Phase         `json:"phase"`
	Rate  float64       `json:"per_s"`
	For   time.Duration `json:"for_ns"`

	Passed     bool     `json:"passed"`
	Broke      []string `json:"broke"` // why it did not pass
	Void       []string `json:"void"`  // why it could not be measured
	Accepted   float64  `json:"accepted_per_s"`
	Completed  float64  `json:"completed_per_s"`
	Response   Latency  `json:"response"`
	Completion Latency  `json:"completion"`
	// Growth is how much the backlog (accepted, not completed) grew per second
	// over the stage; Drain is how long the last of it took after the last
	// request was due.
	Growth float64       `json:"growth_per_s"`
	Drain  time.Duration `json:"drain_ns"`
}

// Phase is what a stage of a search was for.
type Phase string

const (
	Bracket Phase = "bracket" // doubling, until one fails
	Bisect  Phase = "bisect"  // halving the interval between the best and the worst
	Repeat  Phase = "repeat"  // once more, near the edge
	Confirm Phase = "confirm" // longer, at the rate found
)

// WriteFile writes a File as JSON.
func WriteFile(w io.Writer, f *File) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", " ")
	return encoder.Encode(f)
}

// ReadFile reads what WriteFile wrote.
func ReadFile(r io.Reader) (*File, error) {
	var f File
	if err := json.NewDecoder(r).Decode(&f); err != nil {
		return nil, fmt.Errorf("not a result file: %w", err)
	}
	if f.Version != FileVersion {
		return nil, fmt.Errorf("a result file of version %d; this program reads version %d", f.Version, FileVersion)
	}
	kinds := 0
	for _, there := range []bool{f.Load != nil, f.Compare != nil, f.Search != nil} {
		if there {
			kinds++
		}
	}
	if kinds != 1 {
		return nil, errors.New("not a result file: it must hold one of load, compare and search")
	}
	return &f, nil
}
