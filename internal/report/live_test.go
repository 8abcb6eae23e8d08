package report

import (
	"strings"
	"testing"
	"time"

	"tandem/internal/loadtest"
)

// TestLiveShowsBothPatterns looks at what a person sees while a run goes on, on
// a wide terminal, on a narrow one and without one.
func TestLiveShowsBothPatterns(t *testing.T) {
	p := loadtest.Progress{
		Elapsed: 4 * time.Second, Planned: 3000, InFlight: 7, Backlog: 5,
		Sync:  loadtest.ArmProgress{Sent: 1000, Completed: 990, Failed: 3, Response: latency(t, 990, 40*ms, 40*ms)},
		Async: loadtest.ArmProgress{Sent: 1000, Completed: 900, Response: latency(t, 20, 2*ms, 2*ms)},
	}
	since := loadtest.Progress{Elapsed: 2 * time.Second, Sync: loadtest.ArmProgress{Sent: 400}, Async: loadtest.ArmProgress{Sent: 600}}
	const head = "  4.0 s  2000 of 3000 sent  500 /s  in flight 7  pending 5"
	for _, row := range []struct {
		name  string
		width int
		want  []string
	}{
		{"without a terminal", 0, []string{head + "  p50 40.0 ms | 2.00 ms  p99 40.0 ms | -"}},
		{"on a narrow one", 89, []string{head, "  p50 40.0 ms | 2.00 ms  p99 40.0 ms | -"}},
		{"on a very narrow one", 30, []string{"  4.0 s  2000 of 3000 sent  …", "  p50 40.0 ms | 2.00 ms  p99…"}},
		{"on a wide one", 90, []string{
			head,
			"  sync        990 completed      3 failed   response p50   40.0 ms  p99   40.0 ms",
			"  async       900 completed      0 failed   response p50   2.00 ms  p99         -",
		}},
	} {
		if got, want := strings.Join(Live(p, since, row.width), "\n"), strings.Join(row.want, "\n"); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", row.name, got, want)
		}
	}
}
