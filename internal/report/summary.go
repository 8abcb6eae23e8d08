package report

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"tandem/internal/loadtest"
)

// summary is the form of JSON. Figures are by name, such as
// async.completion.p99; durations are in seconds, rates per second, shares from
// 0 to 1. null is what was not measured.
type summary struct {
	Kind       string               `json:"kind"` // load, compare or search
	Void       []string             `json:"void"`
	Warnings   []string             `json:"warnings"`
	SLOs       []loadtest.Objective `json:"slos"`
	Figures    map[string]*float64  `json:"figures"`
	Metrics    []metricSummary      `json:"metrics,omitempty"`
	Capacities []loadtest.Capacity  `json:"capacities,omitempty"`
	Insights   []Insight            `json:"insights"`
	Machine    loadtest.Environment `json:"environment"`
}

type metricSummary struct {
	Name    string           `json:"name"`
	A       *float64         `json:"a"`
	B       *float64         `json:"b"`
	Ratio   *float64         `json:"ratio"`
	Low     *float64         `json:"low"`
	High    *float64         `json:"high"`
	Verdict loadtest.Verdict `json:"verdict"`
	Reason  string           `json:"reason,omitempty"`
}

// JSON writes a flat summary of a file's figures for scripts. The file itself
// holds all that was measured.
func JSON(w io.Writer, f *loadtest.File) error {
	s := summary{Kind: kind(f), Void: []string{}, Warnings: []string{}, SLOs: []loadtest.Objective{},
		Figures: map[string]*float64{}, Insights: append([]Insight{}, Insights(f)...), Machine: f.Environment}
	if r := result(f); r != nil {
		s.Void, s.Warnings = append(s.Void, r.Void...), append(s.Warnings, r.Warnings...)
		s.SLOs = append(s.SLOs, r.SLOs...)
		s.run(f, r)
	}
	if f.Compare != nil {
		for _, m := range f.Compare.Metrics {
			s.Metrics = append(s.Metrics, summaryOf(m))
		}
	}
	if f.Search != nil {
		s.Void = append(s.Void, voids(f)...)
		s.Capacities = f.Search.Capacities
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(s); err != nil {
		return fmt.Errorf("write summary: %w", err)
	}
	return nil
}

func kind(f *loadtest.File) string {
	switch {
	case f.Search != nil:
		return "search"
	case f.Compare != nil:
		return "compare"
	default:
		return "load"
	}
}

func (s *summary) run(f *loadtest.File, r *loadtest.Result) {
	all := sides(f)
	for i, side := range all {
		arm, name := side.arm, side.class
		if f.Compare != nil {
			name = []string{"a", "b"}[i%2]
		}
		s.latency(name+".response", arm.Response)
		s.latency(name+".response_uncorrected", arm.Uncorrected)
		s.latency(name+".completion", arm.Completion)
		s.set(name + ".accepted_per_s")(arm.Accepted())
		s.set(name + ".completed_per_s")(arm.Throughput())
		s.set(name + ".cpu_share")(processorShare(arm.Usage, side.cpus))
		cpu, ok := cpuPerRequest(arm)
		s.set(name+".cpu_per_request")(cpu.Seconds(), ok)
		if side.async() {
			accepted := arm.Ledger.Accepted
			s.set(name+".delivered")(float64(delivered(arm))/float64(max(accepted, 1)), accepted > 0)
		}
	}
	s.latency("callback.lag", r.Callbacks.Lag)
	s.latency("callback.verification", r.Callbacks.Verification)
	s.latency("generator.lag", r.Generator.Lag)
	s.latency("generator.noise_floor", r.Generator.NoiseFloor)
	s.set("generator.ceiling_per_s")(r.Generator.Ceiling, r.Generator.Ceiling > 0)
	s.set("generator.cpu_share")(processorShare(r.Generator.Usage, f.Environment.CPUs))
	s.set("service.cpu_share")(targetShare(all))
}

// set returns what sets a figure, or null if there is none.
func (s *summary) set(name string) func(v float64, ok bool) {
	return func(v float64, ok bool) { s.Figures[name] = known(v, ok) }
}

func (s *summary) latency(name string, l loadtest.Latency) {
	figure := func(statistic string, d time.Duration, ok bool) { s.set(name+"."+statistic)(d.Seconds(), ok) }
	for _, p := range []struct {
		name string
		q    float64
	}{{"p50", 0.5}, {"p95", 0.95}, {"p99", 0.99}, {"p99.9", 0.999}} {
		d, ok := l.Percentile(p.q)
		figure(p.name, d, ok)
	}
	mean, ok := l.Mean()
	figure("mean", mean, ok)
	deviation, ok := l.Deviation()
	figure("deviation", deviation, ok)
	longest, ok := l.Max()
	figure("max", longest, ok)
	s.set(name+".n")(float64(l.N()), true)
}

// known is a figure, or nil if there is none.
func known(v float64, ok bool) *float64 {
	if !ok || !finite(v) {
		return nil
	}
	return &v
}

func summaryOf(m loadtest.Metric) metricSummary {
	ok := m.Verdict != loadtest.Unmeasured
	return metricSummary{m.Name, known(m.A, ok), known(m.B, ok), known(m.Ratio, ok), known(m.Low, ok), known(m.High, ok), m.Verdict, m.Reason}
}
