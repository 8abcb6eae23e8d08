package report

import (
	"encoding/json"
	"io"
	"time"

	"tandem/internal/loadtest"
)

// summary is a measurement in a form for scripts: durations in seconds, and
// null where nothing was measured.
type summary struct {
	File    string               `json:"file"`
	Void    []string             `json:"void"`
	Sync    *armSummary          `json:"sync,omitempty"`
	Async   *armSummary          `json:"async,omitempty"`
	SLOs    []loadtest.Objective `json:"slos,omitempty"`
	Metrics []loadtest.Metric    `json:"metrics,omitempty"`
	Found   []loadtest.Capacity  `json:"capacities,omitempty"`
}

type armSummary struct {
	Ledger     loadtest.Ledger     `json:"ledger"`
	Response   map[string]*float64 `json:"response_s"`
	Completion map[string]*float64 `json:"completion_s"`
	Accepted   *float64            `json:"accepted_per_s"`
	Throughput *float64            `json:"completed_per_s"`
	Errors     map[string]int      `json:"errors"`
}

// JSON writes the figures of measurements as an array, for scripts.
func JSON(w io.Writer, names []string, files []*loadtest.File) error {
	all := []summary{}
	for i, f := range files {
		s := summary{File: names[i]}
		for _, r := range runs(f) {
			s.Void, s.SLOs = r.Void, r.SLOs
			for k, a := range arms(r) {
				one := summarise(a)
				if k == 0 && a.Mode == r.Sync.Mode && r.Sync.Ledger.Planned > 0 {
					s.Sync = one
				} else {
					s.Async = one
				}
			}
		}
		if f.Compare != nil {
			s.Metrics = f.Compare.Metrics
		}
		if f.Search != nil {
			s.Found = f.Search.Capacities
		}
		all = append(all, s)
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(all)
}

func summarise(a loadtest.Arm) *armSummary {
	measured := func(v float64, ok bool) *float64 {
		if !ok {
			return nil
		}
		return &v
	}
	latency := func(l loadtest.Latency) map[string]*float64 {
		seconds := func(d time.Duration, ok bool) *float64 { return measured(d.Seconds(), ok) }
		return map[string]*float64{
			"p50": seconds(l.Percentile(0.5)), "p95": seconds(l.Percentile(0.95)), "p99": seconds(l.Percentile(0.99)),
			"mean": seconds(l.Mean()), "max": seconds(l.Max()),
		}
	}
	return &armSummary{
		Ledger: a.Ledger, Response: latency(a.Response), Completion: latency(a.Completion),
		Accepted: measured(a.Accepted()), Throughput: measured(a.Throughput()), Errors: a.Errors,
	}
}
