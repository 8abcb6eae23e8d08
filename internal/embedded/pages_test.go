package embedded

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem"
	"tandem/internal/engine"
)

// A page goes by indexes that know what is asked for, whatever the history is.
func TestPagesGoByIndex(t *testing.T) {
	b, err := Open(t.Context(), filepath.Join(t.TempDir(), "requests.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	const byStanding, byOwner = "requests_by_standing (mode=? AND status=? AND seq<?)", "requests_by_owner (owner=? AND mode=? AND status=? AND seq<?)"
	type row struct {
		name  string
		query engine.Query
		want  []string
	}
	rows := []row{
		{"everything", engine.Query{Caller: tandem.Anyone}, []string{"INTEGER PRIMARY KEY (rowid<?)"}},
		{"all of an owner", engine.Query{Caller: tandem.Caller{Name: "ann"}}, []string{byOwner}},
	}
	for _, caller := range []tandem.Caller{tandem.Anyone, {Name: "ann"}} {
		index := byStanding
		if !caller.Admin {
			index = byOwner
		}
		rows = append(rows,
			row{"a mode", engine.Query{Caller: caller, Mode: tandem.Async}, []string{index}},
			row{"a status", engine.Query{Caller: caller, Status: tandem.Failed}, []string{index}},
			row{"both", engine.Query{Caller: caller, Mode: tandem.Sync, Status: tandem.Failed}, []string{index}},
			row{"callbacks that are owed", engine.Query{Caller: caller, Callback: tandem.CallbackPending}, []string{index, "requests_owed"}},
			row{"callbacks that were delivered", engine.Query{Caller: caller, Callback: tandem.CallbackDelivered}, []string{index, "requests_told_of_failure (seq<?)"}},
			row{"callbacks that were given up", engine.Query{Caller: caller, Callback: tandem.CallbackGivenUp}, []string{"requests_given_up (seq<?)"}},
			row{"callbacks to a host, worked lately", engine.Query{Caller: caller, Callback: tandem.CallbackGivenUp, Host: "a:443", From: time.UnixMicro(5)}, []string{"requests_given_up (seq<?)"}},
		)
	}
	for _, row := range rows {
		text, args := selectSeqs(row.query, 1000)
		plan, err := b.read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+text, args...)
		if err != nil {
			t.Fatalf("%s: %v", row.name, err)
		}
		for plan.Next() {
			var id, parent, unused int
			var line string
			if err := plan.Scan(&id, &parent, &unused, &line); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(line, "requests") {
				continue
			}
			known := false
			for _, index := range row.want {
				known = known || strings.Contains(line, index)
			}
			if !known {
				t.Errorf("%s, of %q: the plan has %s, want only %s", row.name, row.query.Caller.Name, line, fmt.Sprint(row.want))
			}
		}
		if err := plan.Err(); err != nil {
			t.Fatal(err)
		}
		plan.Close()
	}
}
