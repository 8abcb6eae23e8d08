package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"tandem/internal/loadtest"
)

// tooSmall stands where a percentile would have too few samples behind it.
const tooSmall = "n too small"

// notMeasured stands where a figure could not be had.
const notMeasured = "not measured"

// Text writes the comparison for a terminal of eighty columns or more.
func Text(w io.Writer, r *loadtest.Result) error {
	var b strings.Builder
	head(&b, r)
	table(&b, r)
	account(&b, r)
	fmt.Fprintf(&b, "\nWhat the numbers say\n")
	for _, i := range Insights(r) {
		fmt.Fprintf(&b, "%s\n", wrap("- ", i.Text))
		fmt.Fprintf(&b, "%s\n", wrap("  ", "("+i.Because+")"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func head(b *strings.Builder, r *loadtest.Result) {
	storage := "durable"
	if !r.Service.Durable {
		storage = "not durable"
	}
	cpu := r.Environment.CPU
	if cpu == "" {
		cpu = "processor unknown"
	}
	fmt.Fprintf(b, "Sync and async, the same work\n\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "work\t%s, complexity %d\n", r.Spec.Workload, r.Spec.Complexity)
	fmt.Fprintf(t, "load\t%d requests, half of them each way, in bursts of %d at once (closed model)\n", r.Spec.Requests, r.Spec.Concurrency)
	fmt.Fprintf(t, "service\tTandem %s, backend %s, %s\n", r.Service.Version, r.Service.Backend, storage)
	fmt.Fprintf(t, "machine\t%s/%s, %d CPUs (%s), shared by load and service\n", r.Environment.OS, r.Environment.Arch, r.Environment.CPUs, cpu)
	t.Flush() // writes to memory
}

func table(b *strings.Builder, r *loadtest.Result) {
	row := func(name string, of func(loadtest.Arm) string) {
		fmt.Fprintf(b, "  %-45s%14s%14s\n", name, of(r.Sync), of(r.Async))
	}
	latencies := func(of func(loadtest.Arm) loadtest.Latency) {
		figure := func(name string, pick func(loadtest.Latency) (time.Duration, bool)) {
			row(name, func(a loadtest.Arm) string {
				d, ok := pick(of(a))
				switch {
				case ok:
					return duration(d)
				case of(a).N() == 0:
					return notMeasured
				default:
					return tooSmall
				}
			})
		}
		percentile := func(q float64) func(loadtest.Latency) (time.Duration, bool) {
			return func(l loadtest.Latency) (time.Duration, bool) { return l.Percentile(q) }
		}
		figure("median", percentile(0.5))
		figure("p95", percentile(0.95))
		figure("p99", percentile(0.99))
		figure("mean", loadtest.Latency.Mean)
		figure("standard deviation", loadtest.Latency.Deviation)
		figure("longest", loadtest.Latency.Max)
	}
	section := func(title string) { fmt.Fprintf(b, "%s\n", title) }

	fmt.Fprintf(b, "\n%61s%14s\n", "sync", "async")
	section("Response: the result | the 202")
	latencies(func(a loadtest.Arm) loadtest.Latency { return a.Response })
	section("Completion: the result | the verified callback")
	latencies(func(a loadtest.Arm) loadtest.Latency { return a.Completion })
	section("Throughput")
	row("completed per second", func(a loadtest.Arm) string {
		if perSecond, ok := a.Throughput(); ok {
			return rate(perSecond)
		}
		return notMeasured
	})
	section("The service")
	row("processor time per request", func(a loadtest.Arm) string {
		if d, ok := cpuPerRequest(a); ok {
			return duration(d)
		}
		if a.Usage != nil {
			return "too little"
		}
		return notMeasured
	})
	row("largest resident memory", func(a loadtest.Arm) string {
		if a.Usage == nil {
			return notMeasured
		}
		return fmt.Sprintf("%.0f MB", float64(a.Usage.PeakBytes)/1e6)
	})
	section("Account")
	for _, count := range []struct {
		name string
		of   func(loadtest.Ledger) int
	}{
		{"planned", func(l loadtest.Ledger) int { return l.Planned }},
		{"sent", func(l loadtest.Ledger) int { return l.Sent }},
		{"accepted", func(l loadtest.Ledger) int { return l.Accepted }},
		{"rejected", func(l loadtest.Ledger) int { return l.Rejected }},
		{"errored", func(l loadtest.Ledger) int { return l.Errored }},
		{"timed out", func(l loadtest.Ledger) int { return l.TimedOut }},
		{"completed", func(l loadtest.Ledger) int { return l.Completed }},
		{"failed", func(l loadtest.Ledger) int { return l.Failed }},
		{"missing", func(l loadtest.Ledger) int { return l.Missing }},
	} {
		row(count.name, func(a loadtest.Arm) string { return fmt.Sprint(count.of(a.Ledger)) })
	}
}

func account(b *strings.Builder, r *loadtest.Result) {
	c := r.Callbacks
	fmt.Fprintf(b, "\nCallbacks: %d received and verified of %d accepted.\n",
		r.Async.Ledger.Completed+r.Async.Ledger.Failed, r.Async.Ledger.Accepted)
	if c.Duplicates+c.Refused+c.Unknown+c.OfUnacknowledged > 0 {
		fmt.Fprintf(b, "Besides: %d repeated, %d refused, %d unknown, %d of posts that got no answer.\n",
			c.Duplicates, c.Refused, c.Unknown, c.OfUnacknowledged)
	}
	for _, arm := range []loadtest.Arm{r.Sync, r.Async} {
		if len(arm.Errors) > 0 {
			fmt.Fprintf(b, "Errors, %s: %s.\n", arm.Mode, errorList(arm))
		}
	}
}

// errorList lists the categories in their order, each with its count.
func errorList(a loadtest.Arm) string {
	var all []string
	for _, category := range slices.Sorted(maps.Keys(a.Errors)) {
		all = append(all, fmt.Sprintf("%s %d", category, a.Errors[category]))
	}
	return strings.Join(all, ", ")
}

// duration writes three digits and a unit.
func duration(d time.Duration) string {
	switch v := d.Abs(); {
	case v >= time.Second:
		return digits(d.Seconds()) + " s"
	case v >= time.Millisecond:
		return digits(d.Seconds()*1e3) + " ms"
	default:
		return digits(d.Seconds()*1e6) + " us"
	}
}

func rate(perSecond float64) string { return digits(perSecond) + " /s" }

// digits writes a number with three digits, and whole ones beyond.
func digits(v float64) string {
	switch {
	case v >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// wrap breaks a text into lines of at most eighty columns behind a bullet.
func wrap(bullet, text string) string {
	const width = 80
	var b strings.Builder
	column := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
			b.WriteString(bullet)
			column = len(bullet)
		case column+1+utf8.RuneCountInString(word) > width:
			b.WriteString("\n" + strings.Repeat(" ", len(bullet)))
			column = len(bullet)
		default:
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += utf8.RuneCountInString(word)
	}
	return b.String()
}

// capital makes the first letter a capital one.
func capital(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}
