package tandem

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

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

func TestIDsAtTheEdgesOfTime(t *testing.T) {
	for _, row := range []struct {
		name string
		at   time.Time
		want string // how it begins
	}{
		{"the first moment", time.UnixMilli(0), "req_0000000000007"},
		{"a millisecond", time.UnixMilli(1), "req_0000000000017"},
		{"just before the next millisecond", time.Unix(0, 1_999_999), "req_0000000000017"},
		{"the last moment of 48 bits", time.UnixMilli(1<<48 - 1), "req_ffffffffffff7"},
		{"another zone", time.UnixMilli(255).In(time.FixedZone("", 3600)), "req_0000000000ff7"},
	} {
		if id := NewID(row.at); !strings.HasPrefix(id, row.want) || !ValidID(id) {
			t.Errorf("%s: the id is %s, want %s...", row.name, id, row.want)
		}
	}
	at := time.UnixMilli(1_700_000_000_000)
	seen := make(map[string]bool)
	for range 10_000 {
		seen[NewID(at)] = true
	}
	if len(seen) != 10_000 {
		t.Errorf("%d of 10,000 ids of one millisecond are different", len(seen))
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
		{"begun at a time that was asked for", Request{CreatedAt: at, NotBefore: at.Add(time.Hour), StartedAt: at.Add(time.Hour + time.Second)}, time.Second, 0},
		{"that time was over", Request{CreatedAt: at, NotBefore: at.Add(-time.Hour), StartedAt: at.Add(2 * time.Second)}, 2 * time.Second, 0},
		{"worked", Request{CreatedAt: at, StartedAt: at.Add(2 * time.Second), WorkedAt: at.Add(5 * time.Second)}, 2 * time.Second, 3 * time.Second},
		{"failed without a start", Request{CreatedAt: at, WorkedAt: at.Add(time.Second)}, 0, 0},
		{"a clock that was set back", Request{CreatedAt: at, StartedAt: at.Add(-time.Second), WorkedAt: at.Add(-2 * time.Second)}, 0, 0},
	} {
		if q, p := row.req.QueueTime(), row.req.ProcessingTime(); q != row.queue || p != row.processing {
			t.Errorf("%s: queue time %v and processing time %v, want %v and %v", row.name, q, p, row.queue, row.processing)
		}
	}
}
