package report

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"tandem/internal/loadtest"
)

// fact is one thing about a measurement, and its name.
type fact struct{ Name, Text string }

// facts says what was run, against what, from where.
func facts(f *loadtest.File) []fact {
	var spec loadtest.Spec
	var service loadtest.Service
	var started time.Time
	var took time.Duration
	switch {
	case result(f) != nil:
		r := result(f)
		spec, service, started, took = r.Spec, r.Service, r.Started, r.Duration
	case f.Search != nil:
		spec, service, started, took = f.Search.Spec, f.Search.Service, f.Search.Started, f.Search.Duration
	}
	all := []fact{
		{"work", fmt.Sprintf("%s, complexity %d", named(spec.Workload), spec.Complexity)},
		{"load", load(f, spec)},
		{"service", described(service)},
		{"outcomes", outcomes(service)},
		{"machine", machine(f.Environment, service)},
	}
	if !started.IsZero() {
		all = append(all, fact{"time", fmt.Sprintf("%s, took %s", started.UTC().Format("2006-01-02 15:04:05 UTC"), duration(took))})
	}
	return all
}

func named(s string) string {
	if s == "" {
		return "not named"
	}
	return s
}

// load says which model the load was of.
func load(f *loadtest.File, s loadtest.Spec) string {
	mix := fmt.Sprintf("%s sync", share(s.SyncRatio))
	if f.Compare != nil {
		mix = fmt.Sprintf("%d pairs of blocks in random order", f.Compare.Pairs)
	}
	if !s.Open() {
		callers := fmt.Sprintf("%d callers, each holds", s.Concurrency)
		if s.Concurrency == 1 {
			callers = "1 caller, holds"
		}
		return fmt.Sprintf("closed: %s one request until it is completed; %s, %s, seed %d",
			callers, counted(s.Requests, "request"), mix, s.Seed)
	}
	ramp := digits(s.Rate) + " /s"
	if s.RateTo != 0 && s.RateTo != s.Rate {
		ramp = fmt.Sprintf("from %s to %s /s", digits(s.Rate), digits(s.RateTo))
	}
	if f.Search != nil {
		return fmt.Sprintf("open: stages of %s from %s on, %s arrivals, seed %d", span(s.Duration), ramp, named(string(s.Arrivals)), s.Seed)
	}
	return fmt.Sprintf("open: %s for %s, %s arrivals, %s, seed %d", ramp, span(s.Duration), named(string(s.Arrivals)), mix, s.Seed)
}

func described(s loadtest.Service) string {
	words := []string{strings.TrimSpace(named(s.Name)+" "+s.Version) + " at " + named(s.URL)}
	if s.Backend != "" {
		words = append(words, "backend "+s.Backend)
	}
	switch {
	case s.Durable == nil:
		words = append(words, "does not say whether a 202 is durable")
	case *s.Durable:
		words = append(words, "durable")
	default:
		words = append(words, "not durable")
	}
	return strings.Join(words, ", ")
}

func outcomes(s loadtest.Service) string {
	switch {
	case s.Completion == "poll":
		return "learned by polling: completion is late by up to the time between two polls"
	case s.Verified:
		return "learned by signed callbacks; only those that verified count"
	default:
		return "learned by callbacks that were not verified"
	}
}

func machine(e loadtest.Environment, s loadtest.Service) string {
	words := []string{strings.Trim(e.OS+"/"+e.Arch, "/")}
	if e.CPUs > 0 {
		words = append(words, counted(e.CPUs, "CPU"))
	}
	for _, known := range []string{e.CPU, e.Kernel, e.Go} {
		if known != "" {
			words = append(words, known)
		}
	}
	where := "the service is elsewhere"
	if s.Local {
		where = "shared by load and service"
	}
	return strings.TrimPrefix(strings.Join(append(words, where), ", "), ", ")
}

// generator is the table of what the load generators say of themselves: one
// column for each file that holds a run.
func generator(files []*loadtest.File) table {
	t := sheet{all: runsOf(files)}
	for i, s := range t.all {
		t.all[i].label = cmp.Or(strings.TrimSpace(s.label), "run")
	}
	t.section("")
	for _, p := range []struct {
		name string
		q    float64
	}{{"median", 0.5}, {"p95", 0.95}, {"p99", 0.99}} {
		t.row("lag behind the plan, "+p.name, func(s side) string { return percentile(s.run.Generator.Lag, p.q) })
	}
	t.row("lag behind the plan, longest", func(s side) string {
		return statistic(s.run.Generator.Lag, loadtest.Latency.Max, duration)
	})
	t.row("ceiling, without work", func(s side) string { return perSecond(s.run.Generator.Ceiling, s.run.Generator.Ceiling > 0) })
	t.row("noise floor, p99", func(s side) string { return percentile(s.run.Generator.NoiseFloor, 0.99) })
	t.row("not sent: saturated", func(s side) string { return fmt.Sprint(s.run.Generator.Saturated) })
	t.row("generator's share of all CPUs", func(s side) string { return part(processorShare(s.run.Generator.Usage, s.cpus)) })
	t.row("service's share of all CPUs", func(s side) string { return part(targetShare(sides(files[s.file]))) })
	t.row("generator's largest memory", func(s side) string { return memory(s.run.Generator.Usage) })
	t.row("service's largest memory", func(s side) string { return memory(s.run.Service.Usage) })
	return table{Title: "Load generator and service", Columns: columns(t.all), Groups: t.groups}
}
