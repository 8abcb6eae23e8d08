package report

import (
	"fmt"
	"time"

	"tandem/internal/loadtest"
)

// wideTerminal is how many columns the small table of Live needs.
const wideTerminal = 90

// Live is how far a run is. For a terminal so wide it is some lines, none of
// which reaches its last column, so that none goes on in the next line; without
// a terminal, of width 0, it is one line. Since is the Progress before, for the
// rate.
func Live(p, since loadtest.Progress, width int) []string {
	sent := p.Sync.Sent + p.Async.Sent
	perSecond := "- /s"
	if passed := p.Elapsed - since.Elapsed; passed > 0 {
		perSecond = rate(float64(sent-since.Sync.Sent-since.Async.Sent) / passed.Seconds())
	}
	head := fmt.Sprintf("%5.1f s  %d of %d sent  %s  in flight %d  pending %d", p.Elapsed.Seconds(), sent, p.Planned, perSecond, p.InFlight, p.Backlog)
	if p.Rate > 0 {
		head = fmt.Sprintf("at %s  ", rate(p.Rate)) + head
	}
	latency := func(a loadtest.ArmProgress, q float64) string {
		if d, ok := a.Response.Percentile(q); ok {
			return duration(d)
		}
		return "-"
	}
	both := fmt.Sprintf("  p50 %s | %s  p99 %s | %s",
		latency(p.Sync, 0.5), latency(p.Async, 0.5), latency(p.Sync, 0.99), latency(p.Async, 0.99))
	lines := []string{head, both}
	switch {
	case width <= 0:
		return []string{head + both}
	case width >= wideTerminal:
		arm := func(name string, a loadtest.ArmProgress) string {
			return fmt.Sprintf("  %-6s %8d completed %6d failed   response p50 %9s  p99 %9s", name, a.Completed, a.Failed, latency(a, 0.5), latency(a, 0.99))
		}
		lines = []string{head, arm("sync", p.Sync), arm("async", p.Async)}
	}
	for i := range lines {
		lines[i] = shorten(lines[i], width-1)
	}
	return lines
}

// reportingApart is how far apart the lines are where nothing can be redrawn.
const reportingApart = 2 * time.Second

// Plain reports whether a Progress is worth a line of its own, after the one
// before.
func Plain(p, since loadtest.Progress) bool {
	return p.Done || p.Elapsed-since.Elapsed >= reportingApart
}
