package tandem

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// docs/states.md tells people what the table tells the code.
func TestStatesAreAsDocumented(t *testing.T) {
	text, err := os.ReadFile("docs/states.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "| from | to |\n|---|---|\n")
	if !found {
		t.Fatal("docs/states.md has no table of moves")
	}
	documented := map[Status]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 4 {
			break
		}
		documented[Status(strings.TrimSpace(cells[1]))] = strings.TrimSpace(cells[2])
	}
	for _, status := range Statuses {
		var moves []string
		for _, to := range status.Moves() {
			moves = append(moves, string(to))
		}
		want := strings.Join(moves, ", ")
		if want == "" {
			want = "-"
		}
		if got, ok := documented[status]; !ok || got != want {
			t.Errorf("docs/states.md moves %s to %q, the code to %q", status, got, want)
		}
		delete(documented, status)
	}
	for status := range documented {
		t.Errorf("docs/states.md has the status %q, the code has not", status)
	}
}

func TestEveryStatusCanBeReachedAndHasMoves(t *testing.T) {
	reached := map[Status]bool{Pending: true, Processing: true} // where requests begin
	for from, to := range moves {
		if !slices.Contains(Statuses, from) {
			t.Errorf("%s moves and is no status", from)
		}
		for _, status := range to {
			reached[status] = true
		}
	}
	for _, status := range Statuses {
		if !reached[status] {
			t.Errorf("nothing moves to %s", status)
		}
		if _, ok := moves[status]; !ok {
			t.Errorf("%s is not in the table", status)
		}
	}
}

func TestWorkedSucceededSettled(t *testing.T) {
	for _, row := range []struct {
		status                   Status
		callback                 CallbackState
		worked, success, settled bool
	}{
		{Pending, CallbackNone, false, false, false},
		{Processing, CallbackPending, false, false, false},
		{Completed, CallbackNone, true, true, true},
		{Completed, CallbackPending, true, true, false},
		{Failed, CallbackNone, true, false, true},
		{Failed, CallbackPending, true, false, false},
		{Failed, CallbackDelivered, true, false, true},
		{CallbackSent, CallbackDelivered, true, true, true},
		{CallbackFailed, CallbackGivenUp, true, true, true},
	} {
		req := Request{Status: row.status, Callback: Callback{State: row.callback}}
		if got := [3]bool{row.status.Worked(), row.status.Succeeded(), req.Settled()}; got != [3]bool{row.worked, row.success, row.settled} {
			t.Errorf("%s with callback %s: worked, succeeded, settled are %v", row.status, row.callback, got)
		}
	}
}

func TestIDsSortByTimeAndDoNotRepeat(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000)
	seen := map[string]bool{}
	last := ""
	for range 1000 {
		id := NewID(at)
		if !ValidID(id) || seen[id] || id <= last {
			t.Fatalf("id %s after %s: valid %v, repeated %v", id, last, ValidID(id), seen[id])
		}
		if id[4+12] != '7' || !strings.ContainsRune("89ab", rune(id[4+16])) {
			t.Fatalf("id %s is not a UUID of version 7", id)
		}
		if got, want := id[4:16], fmt.Sprintf("%012x", at.UnixMilli()); got != want {
			t.Fatalf("id %s begins with %s, want the time %s", id, got, want)
		}
		seen[id], last = true, id
		at = at.Add(time.Millisecond)
	}
}

func TestValidID(t *testing.T) {
	good := "req_" + strings.Repeat("0a", 16)
	for id, want := range map[string]bool{
		good:               true,
		"":                 false,
		"req_":             false,
		good[:35]:          false,
		good + "0":         false,
		"REQ_" + good[4:]:  false,
		good[4:]:           false,
		good[:35] + "A":    false,
		good[:35] + "g":    false,
		good[:35] + "/":    false,
		good[:35] + ":":    false,
		good[:35] + "\x60": false,
		good[:34] + "é":    false,
	} {
		if ValidID(id) != want {
			t.Errorf("ValidID(%q) is %v", id, !want)
		}
	}
}

func TestTimesThatAreNotYetKnownTakeNoTime(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000)
	for _, row := range []struct {
		name              string
		req               Request
		queue, processing time.Duration
	}{
		{"not begun", Request{CreatedAt: at}, 0, 0},
		{"begun", Request{CreatedAt: at, StartedAt: at.Add(2 * time.Second)}, 2 * time.Second, 0},
		{"worked", Request{CreatedAt: at, StartedAt: at.Add(2 * time.Second), WorkedAt: at.Add(5 * time.Second)}, 2 * time.Second, 3 * time.Second},
		{"failed without a start", Request{CreatedAt: at, WorkedAt: at.Add(time.Second)}, 0, 0},
		{"a clock that was set back", Request{CreatedAt: at, StartedAt: at.Add(-time.Second), WorkedAt: at.Add(-2 * time.Second)}, 0, 0},
	} {
		if q, p := row.req.QueueTime(), row.req.ProcessingTime(); q != row.queue || p != row.processing {
			t.Errorf("%s: queue time %v and processing time %v, want %v and %v", row.name, q, p, row.queue, row.processing)
		}
	}
}

func TestErrorsKeepTheirCode(t *testing.T) {
	cause := errors.New("the disk")
	err := fmt.Errorf("accept: %w", &Error{Code: CodeUnavailable, Message: "storage cannot be written", Err: cause})
	for _, row := range []struct {
		err  error
		want Code
	}{
		{nil, ""},
		{cause, CodeInternal},
		{err, CodeUnavailable},
		{Invalid("data", "must be %d", 1), CodeInvalid},
		{fmt.Errorf("wrapped: %w", Invalid("data", "x")), CodeInvalid},
	} {
		if got := CodeOf(row.err); got != row.want {
			t.Errorf("CodeOf(%v) = %q, want %q", row.err, got, row.want)
		}
	}
	if !errors.Is(err, cause) {
		t.Error("the cause is not in the chain")
	}
	if e := Invalid("data", "must be %d", 1); e.Field != "data" || e.Message != "must be 1" {
		t.Errorf("Invalid returned %+v", e)
	}
}
