package report

import (
	"fmt"
	"strings"

	"tandem/internal/loadtest"
)

func compareText(b *strings.Builder, f *loadtest.File) {
	metrics(f.Compare).text(b)
	b.WriteString("\n")
	list(b, compared(f))
}

// metrics is the table of a comparison.
func metrics(c *loadtest.Comparison) table {
	void := len(c.Run.Void) > 0
	b := armB(c)
	t := table{Title: "B over A", Void: void, Columns: []column{
		{Label: armA, Class: "sync", Void: void}, {Label: b, Class: "async", Void: void},
		{Label: "ratio"}, {Label: "95 % interval"}, {Label: "B is"},
	}}
	var rows []row
	unmeasured := map[string][]string{} // metrics by the reason why they were not measured
	var reasons []string
	for _, m := range c.Metrics {
		if m.Verdict == loadtest.Unmeasured {
			rows = append(rows, row{Name: m.Name, Cells: []string{without, without, without, without, notMeasured}, Class: "void"})
			if unmeasured[m.Reason] == nil {
				reasons = append(reasons, m.Reason)
			}
			unmeasured[m.Reason] = append(unmeasured[m.Reason], m.Name)
			continue
		}
		rows = append(rows, row{Name: m.Name, Cells: []string{
			inUnit(m.A, m.Unit), inUnit(m.B, m.Unit), ratio(m.Ratio), interval(m), shorten(string(m.Verdict), 14),
		}})
	}
	for _, reason := range reasons {
		t.Notes = append(t.Notes, fmt.Sprintf("%s: not measured; %s.", strings.Join(unmeasured[reason], ", "), reason))
	}
	t.Groups = []group{{Rows: rows}}
	return t
}

// armA and armB are how the arms of a comparison are called.
const armA = "A: sync"

func armB(c *loadtest.Comparison) string {
	if c.AA {
		return "B: sync"
	}
	return "B: async"
}

func inUnit(v float64, unit string) string {
	if unit == "s" {
		return seconds(v)
	}
	return rate(v)
}

func ratio(v float64) string {
	if !finite(v) {
		return notMeasured
	}
	if v < 0.1 {
		return fmt.Sprintf("%.4f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func interval(m loadtest.Metric) string {
	if !finite(m.Low) || !finite(m.High) {
		return notMeasured
	}
	return ratio(m.Low) + " to " + ratio(m.High)
}

// compared says in plain words what the comparison in a file found.
func compared(f *loadtest.File) []string {
	c := f.Compare
	if len(c.Run.Void) > 0 {
		return []string{nothingFollows}
	}
	by := map[loadtest.Verdict][]string{}
	for _, m := range c.Metrics {
		by[m.Verdict] = append(by[m.Verdict], m.Name)
	}
	names := func(v loadtest.Verdict) string { return strings.Join(by[v], ", ") }
	var all []string
	say := func(v loadtest.Verdict, format string) {
		if len(by[v]) > 0 {
			all = append(all, fmt.Sprintf(format, names(v)))
		}
	}
	if c.AA {
		all = append(all, sameness(c, by))
	} else {
		say(loadtest.Faster, "Async is faster than sync by: %s.")
		say(loadtest.Slower, "Async is slower than sync by: %s.")
		say(loadtest.Equivalent, "There is no difference of more than 5 %% in: %s.")
	}
	say(loadtest.Inconclusive, "Inconclusive, the interval is too wide to tell; more pairs of blocks would narrow it: %s.")
	say(loadtest.Unmeasured, "Not measured: %s.")
	if len(c.Metrics) == 0 {
		all = append(all, "No metric was compared.")
	}
	if used, ok := targetShare(sides(f)); ok {
		all = append(all, fmt.Sprintf("%s: the service used %.0f %% of all CPUs.", kindOfWork(used), 100*used))
	}
	if !c.AA && soonerButNoMore(c) {
		all = append(all, "Async is accepted sooner and completes no more per second: choose async for responsiveness, not for throughput.")
	}
	return all
}

// sameness is what an A/A test is for.
func sameness(c *loadtest.Comparison, by map[loadtest.Verdict][]string) string {
	different := append(by[loadtest.Faster], by[loadtest.Slower]...)
	switch {
	case len(different) > 0:
		return fmt.Sprintf("sync against sync: a difference was found where there is none, in %s. What measures is disturbed; do not believe comparisons made this way.", strings.Join(different, ", "))
	case len(by[loadtest.Unmeasured]) == len(c.Metrics):
		return "sync against sync: nothing could be compared."
	default:
		return "sync against sync: no difference found."
	}
}

// soonerButNoMore reports whether acceptance is faster and throughput is not.
func soonerButNoMore(c *loadtest.Comparison) bool {
	sooner, noMore := false, false
	for _, m := range c.Metrics {
		switch {
		case strings.HasPrefix(m.Name, "acceptance."):
			sooner = sooner || m.Verdict == loadtest.Faster
		case m.Name == "throughput":
			noMore = m.Verdict == loadtest.Slower || m.Verdict == loadtest.Equivalent
		}
	}
	return sooner && noMore
}
