package report

import (
	"fmt"
	"strings"

	"tandem"
	"tandem/internal/loadtest"
)

const notCapacity = "A rate counts as sustained only if what it started was also completed, soon and without a growing backlog. How fast requests are accepted alone is never capacity."

func searchText(b *strings.Builder, s *loadtest.Search) {
	capacities(s).text(b)
	b.WriteString("\n")
	list(b, searched(s))
	stages(s).text(b)
	if why := broken(s); len(why) > 0 {
		b.WriteString("\nWhy stages did not pass\n")
		list(b, why)
	}
}

// capacities is the table of what each pattern sustains.
func capacities(s *loadtest.Search) table {
	t := table{Title: "Capacity", Columns: []column{{Label: "sustained"}, {Label: "failed at"}, {Label: "confirmed"}}, Notes: []string{notCapacity}}
	var rows []row
	for _, c := range s.Capacities {
		passed, failed, confirmed := "none", "none did", "no"
		switch {
		case c.Passed > 0:
			passed = rate(c.Passed)
		case c.Failed <= 0: // no rate could be measured
			passed, failed, confirmed = "VOID", "VOID", "VOID"
		}
		if c.Failed > 0 {
			failed = rate(c.Failed)
		}
		if c.Confirmed {
			confirmed = "yes"
		}
		rows = append(rows, row{Name: sought(c.Mode, c.SLO), Cells: []string{passed, failed, confirmed}})
	}
	t.Groups = []group{{Rows: rows}}
	return t
}

// voidsOfSearch are the reasons why a search ended too soon, and what it could
// measure at no rate.
func voidsOfSearch(s *loadtest.Search) []string {
	reasons := append([]string{}, s.Void...)
	for i, c := range s.Capacities {
		if ended := i == len(s.Capacities)-1 && len(s.Void) > 0; c.Passed <= 0 && c.Failed <= 0 && !ended {
			reasons = append(reasons, found(c))
		}
	}
	return reasons
}

// sought names what was searched for.
func sought(mode tandem.Mode, slo string) string {
	if slo == "" {
		return fmt.Sprintf("%s, without an objective", mode)
	}
	if strings.HasPrefix(slo, string(mode)+".") {
		return slo
	}
	return fmt.Sprintf("%s, %s", mode, slo)
}

// searched says in plain words what a search found.
func searched(s *loadtest.Search) []string {
	var all []string
	for _, c := range s.Capacities {
		all = append(all, found(c))
	}
	if len(all) == 0 {
		all = append(all, "No capacity was found.")
	}
	return all
}

func found(c loadtest.Capacity) string {
	what := capital(string(c.Mode))
	under := "without an objective"
	if c.SLO != "" {
		under = "under " + c.SLO
	}
	bound := strings.TrimSuffix(strings.TrimSpace(c.Bound), ".")
	if bound == "" {
		bound = "the file does not say why"
	}
	confirmed := "confirmed by a longer stage"
	if !c.Confirmed {
		confirmed = "not confirmed by a longer stage"
	}
	switch {
	case c.Passed <= 0 && c.Failed <= 0:
		return fmt.Sprintf("%s could not be measured at any rate, %s: %s.", what, under, bound)
	case c.Passed <= 0:
		return fmt.Sprintf("%s sustained no rate that was tried, %s: %s.", what, under, bound)
	case c.Failed <= 0:
		return fmt.Sprintf("%s sustains at least %s %s (%s). No rate failed; the search ended at: %s.", what, rate(c.Passed), under, confirmed, bound)
	default:
		return fmt.Sprintf("%s sustains %s %s (%s); %s failed: %s.", what, rate(c.Passed), under, confirmed, rate(c.Failed), bound)
	}
}

// stages is the table of all that was tried, those of one search together.
func stages(s *loadtest.Search) table {
	t := table{Title: "Stages"}
	for _, name := range []string{"rate", "accepted", "completed", "resp. p99", "compl. p99", "growth", "drain", "result"} {
		t.Columns = append(t.Columns, column{Label: name})
	}
	title := ""
	for i, stage := range s.Stages {
		if now := sought(stage.Mode, stage.SLO); i == 0 || now != title {
			title = now
			t.Groups = append(t.Groups, group{Title: title})
		}
		became := becameOf(stage)
		last := &t.Groups[len(t.Groups)-1]
		last.Rows = append(last.Rows, row{
			Name: fmt.Sprintf("%d %s %s", i+1, shorten(string(stage.Phase), 8), span(stage.For)),
			Cells: []string{
				digits(stage.Rate), orNone(stage.Accepted), orNone(stage.Completed),
				brief(percentile(stage.Response, 0.99)), brief(percentile(stage.Completion, 0.99)),
				digits(stage.Growth), brief(duration(stage.Drain)), became,
			},
			Class: became,
		})
	}
	if len(s.Stages) > 0 {
		t.Notes = []string{"rate, accepted, completed and growth of the backlog are per second; few: too few samples to tell"}
	}
	return t
}

// becameOf is what became of a stage.
func becameOf(s loadtest.Stage) string {
	switch {
	case s.Passed:
		return "passed"
	case len(s.Void) > 0:
		return "void"
	default:
		return "failed"
	}
}

// brief fits a figure into a narrow column.
func brief(figure string) string {
	switch figure {
	case tooSmall:
		return "few"
	case notMeasured:
		return "none"
	}
	return figure
}

// orNone writes a rate. A rate of zero is one that nothing was counted of.
func orNone(perSecond float64) string {
	if perSecond == 0 {
		return "none"
	}
	return digits(perSecond)
}

// broken lists why stages failed or could not be measured.
func broken(s *loadtest.Search) []string {
	var all []string
	for i, stage := range s.Stages {
		if why := append(append([]string{}, stage.Broke...), stage.Void...); !stage.Passed && len(why) > 0 {
			all = append(all, fmt.Sprintf("%d (%s): %s", i+1, rate(stage.Rate), strings.Join(why, "; ")))
		}
	}
	return all
}
