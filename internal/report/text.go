package report

import (
	"fmt"
	"io"
	"strings"

	"tandem/internal/loadtest"
)

// Text writes the report of a file for a terminal of 96 columns or more; its
// prose fits eighty.
func Text(w io.Writer, f *loadtest.File) error {
	var b strings.Builder
	heading(&b, f)
	b.WriteString("\n")
	for _, fact := range facts(f) {
		b.WriteString(wrap(pad(fact.Name, 10, false), fact.Text) + "\n")
	}
	switch {
	case f.Search != nil:
		searchText(&b, f.Search)
	default:
		if f.Compare != nil {
			compareText(&b, f)
			b.WriteString("\nAll blocks together\n")
		}
		if r := result(f); r != nil {
			runText(&b, f, r)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// TextAll writes several files laid over one another: for each arm of each file
// a column. Of one file it writes Text. There must be as many names as files.
func TextAll(w io.Writer, names []string, files []*loadtest.File) error {
	if len(names) != len(files) {
		return fmt.Errorf("%d names for %d files", len(names), len(files))
	}
	if len(files) == 1 {
		return Text(w, files[0])
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d measurements side by side\n\n", len(files))
	for i, f := range files {
		bullet := pad(fmt.Sprint(i+1), 4, false)
		b.WriteString(wrap(bullet, names[i]+": "+titleOf(f)) + "\n")
		for _, reason := range voids(f) {
			b.WriteString(wrap("    VOID: ", reason) + "\n")
		}
		for _, fact := range facts(f)[:3] {
			b.WriteString(wrap("    "+pad(fact.Name, 9, false), fact.Text) + "\n")
		}
		if r := result(f); r != nil {
			for _, o := range r.SLOs {
				b.WriteString(wrap("    "+pad("slo", 9, false), o.SLO+": "+string(o.Outcome)) + "\n")
			}
		}
	}
	if len(files) > 4 {
		overview(files).text(&b)
	}
	if all := sidesOf(files); len(all) > 0 {
		figures(all).text(&b)
		generator(files).text(&b)
	}
	for i, f := range files {
		if f.Compare != nil {
			fmt.Fprintf(&b, "\n%d\n", i+1)
			compareText(&b, f)
		}
		if f.Search != nil {
			t := capacities(f.Search)
			t.Title = fmt.Sprintf("%d %s", i+1, t.Title)
			t.text(&b)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// titleOf says what a file holds.
func titleOf(f *loadtest.File) string {
	switch {
	case f.Search != nil:
		return "Capacity: the rate that each pattern sustains"
	case f.Compare != nil && f.Compare.AA:
		return "A/A test: sync against sync"
	case f.Compare != nil:
		return "A/B comparison: sync (A) and async (B), the same work"
	}
	if all := sides(f); len(all) == 1 {
		return capital(all[0].label) + " alone"
	}
	return "Sync and async, the same work"
}

// voids are the reasons why the figures of a file do not count, or why a search
// has not answered all that it was asked.
func voids(f *loadtest.File) []string {
	if f.Search != nil {
		return voidsOfSearch(f.Search)
	}
	if r := result(f); r != nil {
		return r.Void
	}
	return nil
}

// banner says what the reasons of voids make of a file.
func banner(f *loadtest.File) string {
	if f.Search != nil {
		return "not all was measured"
	}
	return "these figures do not count"
}

func heading(b *strings.Builder, f *loadtest.File) {
	void := voids(f)
	if len(void) == 0 {
		b.WriteString(titleOf(f) + "\n")
		return
	}
	b.WriteString("VOID: " + strings.ToUpper(banner(f)) + "\n")
	list(b, void)
	b.WriteString("\nVOID " + titleOf(f) + "\n")
}

func list(b *strings.Builder, items []string) {
	for _, item := range items {
		b.WriteString(wrap("- ", item) + "\n")
	}
}

// runText is all of a run: its figures, what was asked of them, and what they
// say.
func runText(b *strings.Builder, f *loadtest.File, r *loadtest.Result) {
	all := sides(f)
	figures(all).text(b)
	generator([]*loadtest.File{f}).text(b)
	if took := callbackAccount(r, all); took != "" {
		b.WriteString("\n" + wrap("", took) + "\n")
	}
	if len(r.SLOs) > 0 {
		objectives(r).text(b)
	}
	if text := littlesLaw(r); text != "" {
		b.WriteString("\n" + wrap("", text) + "\n")
	}
	if len(r.Warnings) > 0 {
		b.WriteString("\nWarnings\n")
		list(b, r.Warnings)
	}
	if len(r.Void) > 0 {
		b.WriteString("\n" + wrap("", nothingFollows) + "\n")
		return
	}
	for n, i := range Insights(f) {
		if n == 0 {
			b.WriteString("\nWhat the numbers say\n")
		}
		b.WriteString(wrap("- ", i.Text) + "\n")
		b.WriteString(wrap("  ", "("+i.Because+")") + "\n")
	}
}

const nothingFollows = "VOID: nothing is concluded from figures that do not count."

// callbackAccount says what reached the receiver; nothing if there was none.
func callbackAccount(r *loadtest.Result, all []side) string {
	account := accountOfCallbacks(r, all)
	if account == nil {
		return ""
	}
	var counts []string
	for _, c := range account {
		counts = append(counts, c.Text+" "+c.Name)
	}
	return "Callbacks: " + strings.Join(counts, ", ") + "."
}

// accountOfCallbacks counts what reached the receiver. What did not happen is
// left out beside what was received.
func accountOfCallbacks(r *loadtest.Result, all []side) []fact {
	async := false
	for _, s := range all {
		async = async || s.async()
	}
	if !async || polled(r) {
		return nil
	}
	c := r.Callbacks
	believed := "verified"
	if !r.Service.Verified {
		believed = "first ones, not verified"
	}
	account := []fact{{"received", fmt.Sprint(c.Received)}, {believed, fmt.Sprint(c.Verified)}}
	for _, count := range []struct {
		name string
		n    int
	}{
		{"repeated (allowed: delivery is at least once)", c.Duplicates},
		{"forged: no signature, or a wrong one", c.Forged},
		{"late: signed too long ago, as replays are", c.Late},
		{"malformed", c.Malformed},
		{"of no request of this run", c.Unknown},
		{"of posts that got no answer", c.OfUnacknowledged},
		{"here before the answer that accepted their request", c.Early},
	} {
		if count.n > 0 {
			account = append(account, fact{count.name, fmt.Sprint(count.n)})
		}
	}
	return account
}

func objectives(r *loadtest.Result) table {
	t := table{Title: "Objectives", Void: len(r.Void) > 0, Columns: []column{{Label: "measured"}, {Label: "samples"}, {Label: "outcome"}}}
	var rows []row
	for _, o := range r.SLOs {
		measured := o.Measured
		if measured == "" {
			measured = notMeasured
		}
		class := map[loadtest.Outcome]string{loadtest.Met: "passed", loadtest.Missed: "failed"}[o.Outcome]
		rows = append(rows, row{o.SLO, []string{shorten(measured, 24), fmt.Sprint(o.N), shorten(string(o.Outcome), 14)}, class})
	}
	t.Groups = []group{{Rows: rows}}
	return t
}

// littlesLaw says whether the figures of a run agree with one another. Where
// they do not, the warnings say so.
func littlesLaw(r *loadtest.Result) string {
	if len(r.LittleLaw) == 0 {
		return ""
	}
	holds := 0
	for _, w := range r.LittleLaw {
		if w.Holds {
			holds++
		}
	}
	return fmt.Sprintf("Little's law (in flight = rate x time) holds in %d of %s.", holds, counted(len(r.LittleLaw), "window"))
}

// overview is one line for each arm of many files, with the figures that say
// the most.
func overview(files []*loadtest.File) table {
	t := table{Title: "Overview"}
	for _, name := range []string{"resp. p50", "resp. p99", "compl. p50", "compl. p99", "completed"} {
		t.Columns = append(t.Columns, column{Label: name})
	}
	var rows []row
	for _, s := range sidesOf(files) {
		name := column{Label: s.label, Void: s.void()}.Head()
		rows = append(rows, row{name, []string{
			percentile(s.arm.Response, 0.5), percentile(s.arm.Response, 0.99),
			percentile(s.arm.Completion, 0.5), percentile(s.arm.Completion, 0.99), perSecond(s.arm.Throughput()),
		}, s.class})
	}
	t.Groups = []group{{Rows: rows}}
	return t
}
