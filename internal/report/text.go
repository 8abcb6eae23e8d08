package report

import (
	"errors"
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

// Text writes a measurement for a terminal of eighty columns or more.
func Text(w io.Writer, f *loadtest.File) error {
	var b strings.Builder
	switch {
	case f.Load != nil:
		loadText(&b, f, f.Load)
	case f.Compare != nil:
		compareText(&b, f, f.Compare)
	case f.Search != nil:
		searchText(&b, f, f.Search)
	default:
		return errors.New("an empty measurement")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func loadText(b *strings.Builder, f *loadtest.File, r *loadtest.Result) {
	void(b, r)
	head(b, f, r)
	table(b, r)
	account(b, r)
	title := "What the numbers say"
	if len(r.Void) > 0 {
		title = "What the numbers would say, were they not VOID"
	}
	fmt.Fprintf(b, "\n%s\n", title)
	for _, i := range Insights(f.Environment, r) {
		fmt.Fprintf(b, "%s\n", wrap("- ", i.Text))
		fmt.Fprintf(b, "%s\n", wrap("  ", "("+i.Because+")"))
	}
}

// void says, before all else, that the figures do not count.
func void(b *strings.Builder, r *loadtest.Result) {
	if len(r.Void) == 0 {
		return
	}
	fmt.Fprintf(b, "VOID: the figures below do not count\n")
	for _, reason := range r.Void {
		fmt.Fprintf(b, "%s\n", wrap("- ", clean(reason)))
	}
	fmt.Fprintln(b)
}

// setting is one thing that a measurement was made with.
type setting struct{ name, value string }

// settings are what a run was made with, and where.
func settings(f *loadtest.File, r *loadtest.Result) []setting {
	s := serviceSettings(f, r.Service)
	return append([]setting{
		{"work", fmt.Sprintf("%s, complexity %d", clean(r.Spec.Workload), r.Spec.Complexity)},
		{"load", loadModel(r.Spec)},
	}, s...)
}

func serviceSettings(f *loadtest.File, service loadtest.Service) []setting {
	what := clean(service.Name)
	if service.Version != "" {
		what += " " + clean(service.Version)
	}
	if service.Backend != "" {
		what += ", backend " + clean(service.Backend)
	}
	if service.Durable != nil {
		what += map[bool]string{true: ", durable", false: ", not durable"}[*service.Durable]
	}
	outcomes := "by callback, signatures verified"
	switch {
	case service.Completion == string(loadtest.Poll):
		outcomes = "by polling"
	case !service.Verified:
		outcomes = "by callback, UNVERIFIED: they are not signed"
	}
	e := f.Environment
	machine := fmt.Sprintf("%s/%s, %d CPUs", e.OS, e.Arch, e.CPUs)
	if e.CPU != "" {
		machine += " (" + clean(e.CPU) + ")"
	}
	if service.Local {
		machine += ", shared by load and service"
	}
	return []setting{{"service", what}, {"outcomes", outcomes}, {"machine", machine}}
}

// loadModel says what was sent, and how.
func loadModel(s loadtest.Spec) string {
	ratio := fmt.Sprintf("%.0f %% of it sync", 100*s.SyncRatio)
	if !s.Open() {
		return fmt.Sprintf("closed model: %d requests, %s; each of %d callers holds one until it is completed", s.Requests, ratio, s.Concurrency)
	}
	per := digits(s.Rate)
	if s.RateTo != 0 {
		per += " to " + digits(s.RateTo)
	}
	return fmt.Sprintf("open model: %s requests/s over %s, %s arrivals, seed %d, %s", per, s.Duration, s.Arrivals, s.Seed, ratio)
}

func head(b *strings.Builder, f *loadtest.File, r *loadtest.Result) {
	fmt.Fprintf(b, "Sync and async, the same work\n\n")
	settingsTable(b, settings(f, r))
}

func settingsTable(b *strings.Builder, all []setting) {
	for _, s := range all {
		fmt.Fprintf(b, "%s\n", wrap(fmt.Sprintf("%-10s", s.name), s.value))
	}
}

// arms are those that something was planned for.
func arms(r *loadtest.Result) []loadtest.Arm {
	return slices.DeleteFunc([]loadtest.Arm{r.Sync, r.Async}, func(a loadtest.Arm) bool { return a.Ledger.Planned == 0 })
}

// line is a figure of each arm; one with no cells is a heading.
type line struct {
	name  string
	cells []string
}

// figures are all that is known of the arms of a run, as lines of a table.
func figures(r *loadtest.Result) []line {
	all := arms(r)
	var lines []line
	section := func(name string) { lines = append(lines, line{name: name}) }
	row := func(name string, of func(loadtest.Arm) string) {
		l := line{name: name}
		for _, a := range all {
			l.cells = append(l.cells, of(a))
		}
		lines = append(lines, l)
	}
	latency := func(name string, of func(loadtest.Arm) loadtest.Latency, pick func(loadtest.Latency) (time.Duration, bool)) {
		row(name, func(a loadtest.Arm) string { return figure(of(a), pick) })
	}
	response := func(a loadtest.Arm) loadtest.Latency { return a.Response }
	uncorrected := func(a loadtest.Arm) loadtest.Latency { return a.Uncorrected }
	completion := func(a loadtest.Arm) loadtest.Latency { return a.Completion }
	distribution := func(of func(loadtest.Arm) loadtest.Latency) {
		latency("median", of, percentile(0.5))
		latency("p95", of, percentile(0.95))
		latency("p99", of, percentile(0.99))
		latency("mean", of, loadtest.Latency.Mean)
		latency("standard deviation", of, loadtest.Latency.Deviation)
		latency("longest", of, loadtest.Latency.Max)
	}
	section("Response: the result | the 202, from the planned time")
	distribution(response)
	if r.Spec.Open() {
		latency("median, from the sending", uncorrected, percentile(0.5))
		latency("p99, from the sending", uncorrected, percentile(0.99))
	}
	section("Completion: the result | the verified outcome")
	distribution(completion)
	section("Throughput")
	row("accepted per second", func(a loadtest.Arm) string { return perSecond(a.Accepted()) })
	row("completed per second", func(a loadtest.Arm) string { return perSecond(a.Throughput()) })
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
	for _, count := range ledgerRows {
		row(count.name, func(a loadtest.Arm) string { return fmt.Sprint(count.of(a.Ledger)) })
	}
	return lines
}

var ledgerRows = []struct {
	name string
	of   func(loadtest.Ledger) int
}{
	{"planned", func(l loadtest.Ledger) int { return l.Planned }},
	{"sent", func(l loadtest.Ledger) int { return l.Sent }},
	{"unsent", func(l loadtest.Ledger) int { return l.Unsent }},
	{"accepted", func(l loadtest.Ledger) int { return l.Accepted }},
	{"rejected", func(l loadtest.Ledger) int { return l.Rejected }},
	{"errored", func(l loadtest.Ledger) int { return l.Errored }},
	{"timed out", func(l loadtest.Ledger) int { return l.TimedOut }},
	{"completed", func(l loadtest.Ledger) int { return l.Completed }},
	{"failed", func(l loadtest.Ledger) int { return l.Failed }},
	{"missing", func(l loadtest.Ledger) int { return l.Missing }},
}

func percentile(q float64) func(loadtest.Latency) (time.Duration, bool) {
	return func(l loadtest.Latency) (time.Duration, bool) { return l.Percentile(q) }
}

// figure is one figure of a distribution, or why there is none.
func figure(l loadtest.Latency, pick func(loadtest.Latency) (time.Duration, bool)) string {
	d, ok := pick(l)
	switch {
	case ok:
		return duration(d)
	case l.N() == 0:
		return notMeasured
	default:
		return tooSmall
	}
}

func perSecond(v float64, ok bool) string {
	if !ok {
		return notMeasured
	}
	return rate(v)
}

func table(b *strings.Builder, r *loadtest.Result) {
	b.WriteString("\n")
	heading := ""
	for _, a := range armNames(r) {
		heading += fmt.Sprintf("%14s", a)
	}
	fmt.Fprintf(b, "%-47s%s\n", "", heading)
	for _, l := range figures(r) {
		if l.cells == nil {
			fmt.Fprintf(b, "%s\n", l.name)
			continue
		}
		fmt.Fprintf(b, "  %-45s", l.name)
		for _, cell := range l.cells {
			fmt.Fprintf(b, "%14s", cell)
		}
		b.WriteString("\n")
	}
}

// armNames are the column heads; those of a void run say so.
func armNames(r *loadtest.Result) []string {
	var names []string
	for i, a := range arms(r) {
		name := string(a.Mode)
		if r.Spec.AA {
			name += " " + string("AB"[i])
		}
		if len(r.Void) > 0 {
			name += " VOID"
		}
		names = append(names, name)
	}
	return names
}

func account(b *strings.Builder, r *loadtest.Result) {
	b.WriteString("\n")
	for _, s := range accountLines(r) {
		fmt.Fprintf(b, "%s\n", wrap("", s))
	}
}

// accountLines are what is to be said beside the table, in sentences.
func accountLines(r *loadtest.Result) []string {
	var all []string
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	c, l := r.Callbacks, r.Async.Ledger
	switch {
	case r.Spec.AA || l.Accepted == 0:
	case r.Service.Completion == string(loadtest.Poll):
		say("Outcomes: %d polled of %d accepted.", l.Completed+l.Failed, l.Accepted)
	default:
		verified := "received and verified"
		if !r.Service.Verified {
			verified = "received, UNVERIFIED,"
		}
		say("Callbacks: %d %s of %d accepted.", l.Completed+l.Failed, verified, l.Accepted)
		say("Callback lag, from the 202 to the first byte: median %s, p95 %s, p99 %s (n %d).", figure(c.Lag, percentile(0.5)),
			figure(c.Lag, percentile(0.95)), figure(c.Lag, percentile(0.99)), c.Lag.N())
	}
	if !r.Spec.Open() && l.Accepted > 0 && !r.Spec.AA {
		say("In a closed model accepted and completed go together: a caller sends again when its request is completed.")
	}
	if c.Duplicates+c.Refused()+c.Unknown+c.OfUnacknowledged > 0 {
		say("Besides: %d repeated, %d forged, %d late, %d malformed, %d unknown, %d of posts that got no answer.",
			c.Duplicates, c.Forged, c.Late, c.Malformed, c.Unknown, c.OfUnacknowledged)
	}
	for _, arm := range arms(r) {
		if len(arm.Errors) > 0 {
			say("Errors, %s: %s.", arm.Mode, errorList(arm))
		}
	}
	g := r.Generator
	if r.Spec.Open() {
		say("Generator lag, from the planned time to the sending: median %s, p99 %s, longest %s.", figure(g.Lag, percentile(0.5)),
			figure(g.Lag, percentile(0.99)), figure(g.Lag, loadtest.Latency.Max))
	}
	if g.Ceiling > 0 {
		say("Calibration: the generator can do %s against a server that does nothing; the machine's noise floor is %s in the median, %s in p99.",
			rate(g.Ceiling), figure(g.NoiseFloor, percentile(0.5)), figure(g.NoiseFloor, percentile(0.99)))
	}
	if r.Service.Local && r.Service.Usage != nil && g.Usage != nil {
		say("Processor: the service used %s of a core, the generator %s. They share the machine, so the figures are lower bounds of what the service can do.",
			cores(r.Service.Usage), cores(g.Usage))
	}
	for _, o := range r.SLOs {
		measured := ""
		if o.Measured != "" {
			measured = ", measured " + clean(o.Measured)
		}
		say("Objective %s: %s%s (n %d).", clean(o.SLO), o.Outcome, measured, o.N)
	}
	for _, warning := range r.Warnings {
		say("Warning: %s.", clean(warning))
	}
	return all
}

func cores(u *loadtest.Usage) string {
	if u.Over <= 0 {
		return notMeasured
	}
	return fmt.Sprintf("%.0f %%", 100*u.CPU.Seconds()/u.Over.Seconds())
}

// TextAll writes several measurements: what they have in common side by side,
// or, if it is but one, the whole of it.
func TextAll(w io.Writer, names []string, files []*loadtest.File) error {
	if len(files) == 1 {
		return Text(w, files[0])
	}
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "file\tarm\tresponse p50\tp99\tcompletion p50\tp99\taccepted\tcompleted\tmissing\t\n")
	for i, f := range files {
		for _, r := range runs(f) {
			for k, a := range arms(r) {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t\n", clean(names[i]), armNames(r)[k],
					figure(a.Response, percentile(0.5)), figure(a.Response, percentile(0.99)),
					figure(a.Completion, percentile(0.5)), figure(a.Completion, percentile(0.99)),
					perSecond(a.Accepted()), perSecond(a.Throughput()), a.Ledger.Missing)
			}
		}
	}
	t.Flush() // writes to memory
	for i, f := range files {
		if f.Search != nil {
			fmt.Fprintf(&b, "\n%s\n", clean(names[i]))
			capacities(&b, f.Search)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// runs are the runs of a measurement; a search keeps none.
func runs(f *loadtest.File) []*loadtest.Result {
	switch {
	case f.Load != nil:
		return []*loadtest.Result{f.Load}
	case f.Compare != nil:
		return []*loadtest.Result{&f.Compare.Run}
	default:
		return nil
	}
}

// clean is a text from a file without what could move a terminal's cursor.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// errorList lists the categories in their order, each with its count.
func errorList(a loadtest.Arm) string {
	var all []string
	for _, category := range slices.Sorted(maps.Keys(a.Errors)) {
		all = append(all, fmt.Sprintf("%s %d", clean(category), a.Errors[category]))
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
