package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tandem/internal/loadtest"
)

// figures is the table of all that was measured of some arms.
func figures(all []side) table {
	t := sheet{all: all}
	t.latencies("Response: "+each(all, "the result", "the 202")+", from the planned time", func(a loadtest.Arm) loadtest.Latency { return a.Response })
	t.percentile("uncorrected median", 0.5, func(a loadtest.Arm) loadtest.Latency { return a.Uncorrected })
	t.percentile("uncorrected p99, from the sending", 0.99, func(a loadtest.Arm) loadtest.Latency { return a.Uncorrected })
	t.latencies(completionTitle(all), func(a loadtest.Arm) loadtest.Latency { return a.Completion })
	t.unsuccessful()
	t.throughput()
	t.callbacks()
	t.service()
	t.ledger()
	t.errors()
	return table{Columns: columns(all), Groups: t.groups, Notes: t.notes()}
}

func columns(all []side) []column {
	var heads []column
	for _, s := range all {
		heads = append(heads, column{Label: s.label, Class: s.class, Void: s.void(), File: s.file})
	}
	return heads
}

// each names something of both modes, as far as they are there.
func each(all []side, sync, async string) string {
	var names []string
	if slices.ContainsFunc(all, func(s side) bool { return !s.async() }) {
		names = append(names, sync)
	}
	if slices.ContainsFunc(all, side.async) {
		names = append(names, async)
	}
	return strings.Join(names, " | ")
}

func completionTitle(all []side) string {
	outcome := ""
	for _, s := range all {
		if !s.async() {
			continue
		}
		this := "the verified callback"
		switch {
		case polled(s.run):
			this = "the poll that found it worked"
		case !s.run.Service.Verified:
			this = "the callback, not verified"
		}
		if outcome != "" && outcome != this {
			this = "the outcome"
		}
		outcome = this
	}
	return "Completion: " + each(all, "the result", outcome)
}

// sheet is a table of sides in the making.
type sheet struct {
	all    []side
	groups []group
}

func (t *sheet) section(title string) { t.groups = append(t.groups, group{Title: title}) }

// row adds one to the last section.
func (t *sheet) row(name string, of func(side) string) {
	cells := make([]string, len(t.all))
	for i, s := range t.all {
		cells[i] = of(s)
	}
	last := &t.groups[len(t.groups)-1]
	last.Rows = append(last.Rows, row{Name: name, Cells: cells})
}

func (t *sheet) some(of func(side) bool) bool { return slices.ContainsFunc(t.all, of) }

func (t *sheet) latencies(title string, of func(loadtest.Arm) loadtest.Latency) {
	t.section(title)
	for _, p := range []struct {
		name string
		q    float64
	}{{"median", 0.5}, {"p95", 0.95}, {"p99", 0.99}, {"p99.9", 0.999}} {
		t.percentile(p.name, p.q, of)
	}
	t.row("mean", func(s side) string { return statistic(of(s.arm), loadtest.Latency.Mean, duration) })
	t.row("standard deviation", func(s side) string { return statistic(of(s.arm), loadtest.Latency.Deviation, duration) })
	t.row("variance", func(s side) string { return statistic(of(s.arm), loadtest.Latency.Deviation, square) })
	t.row("longest", func(s side) string { return statistic(of(s.arm), loadtest.Latency.Max, duration) })
}

func (t *sheet) percentile(name string, q float64, of func(loadtest.Arm) loadtest.Latency) {
	t.row(name, func(s side) string { return percentile(of(s.arm), q) })
}

func percentile(l loadtest.Latency, q float64) string {
	return statistic(l, func(l loadtest.Latency) (time.Duration, bool) { return l.Percentile(q) }, duration)
}

// statistic writes a figure of a distribution, or why there is none.
func statistic(l loadtest.Latency, of func(loadtest.Latency) (time.Duration, bool), write func(time.Duration) string) string {
	d, ok := of(l)
	switch {
	case ok:
		return write(d)
	case l.N() == 0:
		return notMeasured
	default:
		return tooSmall
	}
}

func (t *sheet) unsuccessful() {
	of := func(a loadtest.Arm) loadtest.Latency { return a.Unsuccessful }
	if !t.some(func(s side) bool { return of(s.arm).N() > 0 }) {
		return
	}
	t.section("Without success: until it was known")
	t.percentile("median", 0.5, of)
	t.percentile("p99", 0.99, of)
	t.row("longest", func(s side) string { return statistic(of(s.arm), loadtest.Latency.Max, duration) })
}

func (t *sheet) throughput() {
	t.section("Throughput")
	t.row("completed per second", func(s side) string { return perSecond(s.arm.Throughput()) })
	t.row("accepted per second", func(s side) string { return perSecond(s.arm.Accepted()) })
	t.row("counted over", func(s side) string {
		if s.arm.Window <= 0 {
			return notMeasured
		}
		return span(s.arm.Window)
	})
}

// callbacks is about delivery. Sync has none.
func (t *sheet) callbacks() {
	if !t.some(side.async) {
		return
	}
	async := func(of func(side) string) func(side) string {
		return func(s side) string {
			if !s.async() {
				return without
			}
			return of(s)
		}
	}
	lag := func(of func(loadtest.Callbacks) loadtest.Latency) func(side) loadtest.Latency {
		return func(s side) loadtest.Latency { return of(s.run.Callbacks) }
	}
	latency := func(name string, q float64, of func(side) loadtest.Latency) {
		t.row(name, async(func(s side) string {
			if polled(s.run) {
				return without
			}
			return percentile(of(s), q)
		}))
	}
	t.section("Delivery: of the accepted, whose outcome came")
	t.row("outcomes", async(func(s side) string { return fmt.Sprint(delivered(s.arm)) }))
	t.row("of the accepted", async(func(s side) string { return percent(delivered(s.arm), s.arm.Ledger.Accepted) }))
	if !t.some(func(s side) bool { return s.async() && !polled(s.run) }) {
		return
	}
	for _, p := range []struct {
		name string
		q    float64
	}{{"callback lag, median", 0.5}, {"callback lag, p95", 0.95}, {"callback lag, p99", 0.99}} {
		latency(p.name, p.q, lag(func(c loadtest.Callbacks) loadtest.Latency { return c.Lag }))
	}
	latency("verification, p99", 0.99, lag(func(c loadtest.Callbacks) loadtest.Latency { return c.Verification }))
}

// service is what a local one used for each mode. Nothing can be known of a remote
// one, nor of the parts of two modes that run at once.
func (t *sheet) service() {
	if !t.some(func(s side) bool { return s.run.Service.Local && !s.run.Spec.Open() || s.arm.Usage != nil }) {
		return
	}
	t.section("The service's process")
	t.row("processor time per request", func(s side) string {
		if d, ok := cpuPerRequest(s.arm); ok {
			return duration(d)
		}
		if s.arm.Usage != nil {
			return "too little"
		}
		return notMeasured
	})
	t.row("share of all CPUs", func(s side) string { return part(processorShare(s.arm.Usage, s.cpus)) })
	t.row("largest resident memory", func(s side) string { return memory(s.arm.Usage) })
}

func memory(u *loadtest.Usage) string {
	if u == nil || u.PeakBytes <= 0 {
		return notMeasured
	}
	return digits(float64(u.PeakBytes)/1e6) + " MB"
}

func (t *sheet) ledger() {
	t.section("Account")
	for _, count := range []struct {
		name string
		of   func(loadtest.Ledger) int
	}{
		{"planned", func(l loadtest.Ledger) int { return l.Planned }},
		{"sent", func(l loadtest.Ledger) int { return l.Sent }},
		{"unsent", func(l loadtest.Ledger) int { return l.Unsent }},
		{"accepted", func(l loadtest.Ledger) int { return l.Accepted }},
		{"rejected", func(l loadtest.Ledger) int { return l.Rejected }},
		{"errored", func(l loadtest.Ledger) int { return l.Errored }},
		{"timed out", func(l loadtest.Ledger) int { return l.TimedOut }},
		{"completed", func(l loadtest.Ledger) int { return l.Completed }},
		{"failed", func(l loadtest.Ledger) int { return l.Failed }},
		{"missing", func(l loadtest.Ledger) int { return l.Missing }},
	} {
		t.row(count.name, func(s side) string { return fmt.Sprint(count.of(s.arm.Ledger)) })
	}
}

func (t *sheet) errors() {
	categories := map[string]bool{}
	for _, s := range t.all {
		for category := range s.arm.Errors {
			categories[category] = true
		}
	}
	if len(categories) == 0 {
		return
	}
	t.section("Errors, by category")
	for _, category := range slices.Sorted(maps.Keys(categories)) {
		t.row(category, func(s side) string { return fmt.Sprint(s.arm.Errors[category]) })
	}
}

func (t *sheet) notes() []string {
	var notes []string
	if t.some(func(s side) bool { return !s.run.Spec.Open() && took(s.arm) }) {
		notes = append(notes, "In a closed run accepted and completed per second go together by construction: a caller sends its next request only when the last one is completed.")
	}
	var local []string
	for _, s := range t.all {
		if number := fmt.Sprint(s.file + 1); s.run.Service.Local && !slices.Contains(local, number) {
			local = append(local, number)
		}
	}
	if len(local) > 0 {
		of := ""
		if t.all[len(t.all)-1].file > 0 {
			of = " of " + strings.Join(local, ", ")
		}
		notes = append(notes, "The figures"+of+" are lower bounds of what the service can do: the load generator ran on its machine and shared its CPUs.")
	}
	return notes
}
