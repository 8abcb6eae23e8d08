package embedded

import (
	"path/filepath"
	"strings"
	"testing"
)

// How much waits, and for how long, is asked again and again: it is not found by
// looking at all that waits.
func TestTheBacklogIsReadByIndex(t *testing.T) {
	b := openAt(t, filepath.Join(t.TempDir(), "requests.db"), Options{})
	plan := func(query string, args ...any) string {
		rows, err := b.read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		var lines []string
		for rows.Next() {
			var id, parent, unused int
			var line string
			if err := rows.Scan(&id, &parent, &unused, &line); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(line, "requests") || strings.Contains(line, "B-TREE") {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "\n")
	}
	const counted = "SEARCH requests USING COVERING INDEX requests_delayed (lane=? AND not_before>?)"
	const first, firstDue = "SEARCH requests USING INDEX requests_backlog (lane=?)", "SEARCH requests USING INDEX requests_due (<expr><?)"
	got := plan(backlogQuery, 5)
	for _, line := range strings.Split(got, "\n") {
		switch {
		case strings.Contains(line, "request_counters"), line == counted, line == first, line == firstDue:
		default:
			t.Errorf("the plan of the backlog has %q", line)
		}
	}
	if strings.Count(got, first) != 2 || !strings.Contains(got, counted) || !strings.Contains(got, firstDue) {
		t.Errorf("the plan of the backlog is\n%s", got)
	}
	page := plan(pendingQuery, "cpu", 7, 1024)
	if want := "SEARCH requests USING INDEX requests_backlog (lane=? AND seq>?)"; page != want {
		t.Errorf("the plan of a page is\n%s\nwant %s", page, want)
	}
}
