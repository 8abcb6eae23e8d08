package report

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"tandem/internal/loadtest"
)

func searchText(b *strings.Builder, f *loadtest.File, s *loadtest.Search) {
	fmt.Fprintf(b, "How much each pattern sustains\n\n")
	settingsTable(b, append([]setting{
		{"work", fmt.Sprintf("%s, complexity %d", clean(s.Spec.Workload), s.Spec.Complexity)},
		{"objective", clean(s.SLO)},
		{"stages", fmt.Sprintf("%d, of %s each; the last of each search three times as long; %s arrivals", len(s.Stages), s.Spec.Duration, s.Spec.Arrivals)},
	}, serviceSettings(f, s.Service)...))
	b.WriteString("\n")
	capacities(b, s)
	fmt.Fprintf(b, "\n%s\n", wrap("", "A rate is sustained if its requests are completed, what waits does not grow, and is worked off soon after. How fast requests are accepted is never capacity."))
	fmt.Fprintf(b, "\nStages\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "mode\tobjective\tphase\trate\tcompleted\tcompletion p99\tgrowth\t\n")
	for _, stage := range s.Stages {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%+.3g/s\t%s\n", stage.Mode, orNone(stage.SLO), stage.Phase, rate(stage.Rate), rate(stage.Completed),
			figure(stage.Completion, percentile(0.99)), stage.Growth, stageOutcome(stage))
	}
	t.Flush() // writes to memory
}

func orNone(slo string) string {
	if slo == "" {
		return "none"
	}
	return clean(slo)
}

func stageOutcome(s loadtest.Stage) string {
	switch {
	case s.Passed:
		return "passed"
	case len(s.Void) > 0:
		return "VOID"
	default:
		return "failed"
	}
}

// capacities says what was found of each pattern.
func capacities(b *strings.Builder, s *loadtest.Search) {
	for _, c := range s.Capacities {
		fmt.Fprintf(b, "%s\n", wrap(fmt.Sprintf("%-7s", c.Mode), capacityWords(c)))
	}
}

func capacityWords(c loadtest.Capacity) string {
	what := "at all: "
	if c.SLO != "" {
		what = "under " + clean(c.SLO) + ": "
	}
	if c.Passed == 0 {
		return what + "no rate passed; the lowest tried, " + rate(c.Failed) + ", broke: " + clean(c.Bound)
	}
	words := what + "sustains " + rate(c.Passed)
	if !c.Confirmed {
		words += ", NOT confirmed by a longer stage"
	}
	if c.Failed == 0 {
		return words + ", and perhaps more: the search ended at " + clean(c.Bound)
	}
	return words + "; " + rate(c.Failed) + " broke: " + clean(c.Bound)
}
