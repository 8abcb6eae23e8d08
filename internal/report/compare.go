package report

import (
	"fmt"
	"strings"
	"time"

	"tandem/internal/loadtest"
)

func compareText(b *strings.Builder, f *loadtest.File, c *loadtest.Comparison) {
	void(b, &c.Run)
	fmt.Fprintf(b, "%s\n\n", compareTitle(c))
	settingsTable(b, settings(f, &c.Run))
	fmt.Fprintf(b, "\n%-16s%12s%12s%9s%20s  %s\n", "", armName(c, 0), armName(c, 1), "ratio", "95 % interval", "verdict")
	for _, m := range c.Metrics {
		if m.Verdict == loadtest.Unmeasured {
			fmt.Fprintf(b, "%-16s%12s%12s%9s%20s  %s\n", m.Name, "-", "-", "-", "-", clean(m.Reason))
			continue
		}
		fmt.Fprintf(b, "%-16s%12s%12s%9.3f%20s  %s\n", m.Name, metricValue(m, m.A), metricValue(m, m.B), m.Ratio,
			fmt.Sprintf("%.3f to %.3f", m.Low, m.High), m.Verdict)
	}
	b.WriteString("\n")
	for _, s := range compareWords(c) {
		fmt.Fprintf(b, "%s\n", wrap("- ", s))
	}
	fmt.Fprintf(b, "\nAll blocks together\n")
	table(b, &c.Run)
	account(b, &c.Run)
}

func compareTitle(c *loadtest.Comparison) string {
	if c.AA {
		return fmt.Sprintf("Sync against sync (A/A), %d pairs of blocks in random order", c.Pairs)
	}
	return fmt.Sprintf("Sync against async, %d pairs of blocks in random order", c.Pairs)
}

func armName(c *loadtest.Comparison, arm int) string {
	if c.AA {
		return "sync " + string("AB"[arm])
	}
	return [2]string{"sync", "async"}[arm]
}

func metricValue(m loadtest.Metric, v float64) string {
	if m.Unit == "/s" {
		return rate(v)
	}
	return duration(time.Duration(v * float64(time.Second)))
}

// compareWords are the verdicts in sentences.
func compareWords(c *loadtest.Comparison) []string {
	by := map[loadtest.Verdict][]string{}
	for _, m := range c.Metrics {
		by[m.Verdict] = append(by[m.Verdict], m.Name)
	}
	list := func(v loadtest.Verdict) string { return strings.Join(by[v], ", ") }
	var all []string
	say := func(v loadtest.Verdict, format string) {
		if len(by[v]) > 0 {
			all = append(all, fmt.Sprintf(format, list(v)))
		}
	}
	if c.AA {
		if len(by[loadtest.Faster])+len(by[loadtest.Slower]) == 0 {
			return []string{"Sync against sync: no difference found, as it must be."}
		}
		say(loadtest.Faster, "B was found faster in %s, though both are sync: this set-up sees differences where there are none.")
		say(loadtest.Slower, "B was found slower in %s, though both are sync: this set-up sees differences where there are none.")
		return all
	}
	say(loadtest.Faster, "Async is better in %s.")
	say(loadtest.Slower, "Async is worse in %s.")
	say(loadtest.Equivalent, "The two are equivalent, within 5 %%, in %s.")
	say(loadtest.Inconclusive, "Inconclusive: %s. More requests in more pairs would tell.")
	say(loadtest.Unmeasured, "Not measured: %s.")
	return all
}
