package embedded

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem"
)

// What is too old is looked for in what is owed, in the order of the index and
// without sorting, whatever the history is.
func TestWhatIsTooOldIsFoundByIndex(t *testing.T) {
	b, err := Open(t.Context(), filepath.Join(t.TempDir(), "requests.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	rows, err := b.read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+owedBeforeQuery, 1, 1, "a:80", 1, 1, agePage)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var id, parent, unused int
		var line string
		if err := rows.Scan(&id, &parent, &unused, &line); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	const want = "SEARCH requests USING INDEX requests_owed ((callback_host,next_attempt_at)>(?,?))"
	if got := strings.Join(plan, "; "); got != want {
		t.Errorf("the plan is %s, want %s", got, want)
	}
}

func TestACallbackThatIsTakenBackIsHeldOnce(t *testing.T) {
	d := newDeliveries(nil, Options{Now: time.Now, MaxAttempts: 10})
	d.hold("queued")
	d.push(&tandem.Request{ID: "queued", Callback: tandem.Callback{URL: "http://example.com/hook", NextAt: time.Now()}})
	d.hold("attempted")
	all := []overdue{{host: theHost, id: "queued"}, {host: theHost, id: "attempted"}, {host: theHost, id: "on disk"}}
	taken := d.takeBack(all)
	if len(taken) != 2 || taken[0].id != "queued" || taken[1].id != "on disk" {
		t.Errorf("taken back are %+v, want those that nobody attempts", taken)
	}
	if again := d.takeBack(all); len(again) != 0 {
		t.Errorf("taken back twice: %+v", again)
	}
	if h := d.hosts[theHost]; len(h.debts) != 0 || d.loaded != 0 {
		t.Errorf("still queued: %+v, %d of them loaded", h.debts, d.loaded)
	}
	for _, o := range taken {
		d.settled(o.id)
	}
	if len(d.held) != 1 || d.held["attempted"] != 1 {
		t.Errorf("held are %v, want the one that is attempted", d.held)
	}
}
