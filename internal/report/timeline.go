package report

import (
	"fmt"
	"slices"

	"tandem/internal/loadtest"
)

// leastSpan is how many seconds a point must be of, to be one of a rate or a mean.
const leastSpan = 0.5

// mostBuckets bounds how many points a line over time has.
const mostBuckets = 200

// widths of buckets of seconds, of which the least that fits is taken.
var widths = []int{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400}

// fewestSeconds is how many a chart over time has: fewer are no line.
const fewestSeconds = 3

// timelines are the charts over time. Seconds are put together in buckets, all
// files in the same ones; latencies in buckets that are long enough for their
// percentiles.
func timelines(files []*loadtest.File, all []side) []chart {
	length := 0
	for _, f := range files {
		if r := result(f); r != nil {
			for _, s := range r.Series {
				length = max(length, s.At+1)
			}
		}
	}
	if length < fewestSeconds || length > widths[len(widths)-1]*mostBuckets {
		return nil // too short to draw, or a time that no run lasts
	}
	width := widths[0]
	for _, w := range widths {
		if width = w; (length+w-1)/w <= mostBuckets {
			break
		}
	}
	t := timeline{files: files, all: all, length: length, width: width}
	return []chart{
		t.rates(),
		t.latency("Response latency over time", func(c loadtest.Counts) loadtest.Latency { return c.Response }),
		t.latency("Completion latency over time", func(c loadtest.Counts) loadtest.Latency { return c.Completion }),
		t.outstanding(),
		t.lags(),
	}
}

type timeline struct {
	files         []*loadtest.File
	all           []side
	length, width int // seconds
}

// buckets are the seconds of a run, put together by width. A bucket in which
// nothing happened is empty.
func (t timeline) buckets(r *loadtest.Result, width int) [][]loadtest.Second {
	buckets := make([][]loadtest.Second, (t.length+width-1)/width)
	for _, s := range r.Series {
		if s.At >= 0 && s.At < t.length {
			buckets[s.At/width] = append(buckets[s.At/width], s)
		}
	}
	return buckets
}

func (t timeline) chart(title, unit string, width int) chart {
	c := chart{Title: title, Void: allVoid(t.all), Plot: plot{Kind: "time", Unit: unit},
		Note: fmt.Sprintf("Each point is of %s of the run.", counted(width, "second"))}
	for at := 0; at < t.length; at += width {
		c.Plot.X = append(c.Plot.X, float64(at))
	}
	return c
}

// line adds one, with its column in the table.
func (c *chart) line(label string, s side, thin bool, y []*float64) {
	head := column{Label: label, Class: s.class, Void: s.void(), File: s.file}
	c.Plot.Series = append(c.Plot.Series, plotLine{Label: head.Head(), Arm: s.class, File: s.file, Thin: thin, Y: y})
	c.Table.Columns = append(c.Table.Columns, head)
}

// tabulate makes the table of what was drawn.
func (c chart) tabulate(width int) chart {
	c.Table.Title = c.Title
	rows := make([]row, len(c.Plot.X))
	for i, at := range c.Plot.X {
		rows[i].Name = fmt.Sprintf("%.0f s", at)
		if width > 1 {
			rows[i].Name = fmt.Sprintf("%.0f to %.0f s", at, at+float64(width))
		}
		for _, s := range c.Plot.Series {
			cell := without
			if y := s.Y[i]; y != nil && c.Plot.Unit == "s" {
				cell = seconds(*y)
			} else if y != nil {
				cell = digits(*y)
			}
			rows[i].Cells = append(rows[i].Cells, cell)
		}
	}
	c.Table.Groups = []group{{Rows: rows}}
	return c
}

// rates is what was accepted and completed per second. The last bucket may be
// cut off: it is divided by the time that it has, and left out if that is less
// than leastSpan.
func (t timeline) rates() chart {
	c := t.chart("Accepted and completed per second", "/s", t.width)
	c.Note += " Thin: accepted. Thick: completed, which is what counts."
	if slices.ContainsFunc(t.all, func(s side) bool { return !s.run.Spec.Open() && took(s.run.Sync) && took(s.run.Async) }) {
		c.Note += " In a closed run the two take turns, and the turns of the other are in each one's seconds: so this is less than the throughput."
	}
	for _, s := range t.all {
		var accepted, completed []*float64
		last := 0
		for _, second := range s.run.Series {
			last = max(last, second.At+1)
		}
		for i, bucket := range t.buckets(s.run, t.width) {
			length := float64(min(t.width, last-i*t.width))
			a, b := 0, 0
			for _, second := range bucket {
				counts := t.counts(s, second)
				a, b = a+counts.Accepted, b+counts.Completed
				length -= 1 - second.Span
			}
			accepted = append(accepted, known(float64(a)/length, length >= leastSpan))
			completed = append(completed, known(float64(b)/length, length >= leastSpan))
		}
		c.line(s.label+" accepted", s, true, accepted)
		c.line(s.label+" completed", s, false, completed)
	}
	return c.tabulate(t.width)
}

func (t timeline) counts(s side, second loadtest.Second) loadtest.Counts {
	if s.class == "sync" {
		return second.Sync
	}
	return second.Async
}

// latency is the median and a higher percentile of each arm.
func (t timeline) latency(title string, of func(loadtest.Counts) loadtest.Latency) chart {
	pick := func(s side) func(loadtest.Second) loadtest.Latency {
		return func(second loadtest.Second) loadtest.Latency { return of(t.counts(s, second)) }
	}
	high, width := t.tells(t.all, pick)
	c := t.chart(title, "s", width)
	c.Plot.Log = true
	c.Note += t.thickness(high)
	for _, s := range t.all {
		t.percentileLines(&c, s.label, s, high, width, pick(s))
	}
	return c.tabulate(width)
}

// percentileLines adds the median and, if high is not 0, that percentile.
func (t timeline) percentileLines(c *chart, label string, s side, high float64, width int, of func(loadtest.Second) loadtest.Latency) {
	var median, upper []*float64
	for _, bucket := range t.buckets(s.run, width) {
		var some []loadtest.Latency
		for _, second := range bucket {
			some = append(some, of(second))
		}
		l := loadtest.Merge(some...)
		d, ok := l.Percentile(0.5)
		median = append(median, known(d.Seconds(), ok))
		d, ok = l.Percentile(high)
		upper = append(upper, known(d.Seconds(), ok))
	}
	c.line(label+" p50", s, true, median)
	if high > 0 {
		c.line(fmt.Sprintf("%s p%.0f", label, 100*high), s, false, upper)
	}
}

func (t timeline) thickness(high float64) string {
	if high == 0 {
		return " The median only: there are too few samples for a higher percentile over time."
	}
	return fmt.Sprintf(" Thin: median. Thick: p%.0f. Where a line is missing, there were too few samples to tell.", 100*high)
}

// tells chooses the percentile to draw beside the median, and the least width
// at which most buckets of each side have the samples for it; at least a dozen
// buckets remain. Without any that fits, high is 0.
func (t timeline) tells(all []side, of func(side) func(loadtest.Second) loadtest.Latency) (high float64, width int) {
	for _, high := range []float64{0.99, 0.95} {
		for _, width := range widths {
			if width < t.width || width > t.width && t.length/width < 12 {
				continue
			}
			if t.told(all, of, high, width) {
				return high, width
			}
		}
	}
	return 0, t.width
}

func (t timeline) told(all []side, of func(side) func(loadtest.Second) loadtest.Latency, high float64, width int) bool {
	anything := false
	for _, s := range all {
		some, enough := 0, 0
		for _, bucket := range t.buckets(s.run, width) {
			n := 0
			for _, second := range bucket {
				n += of(s)(second).N()
			}
			if n > 0 {
				some++
			}
			if loadtest.Enough(n, high) {
				enough++
			}
		}
		if 2*enough < some {
			return false
		}
		anything = anything || enough > 0
	}
	return anything
}

// outstanding is what was in flight and what waited, both arms together.
func (t timeline) outstanding() chart {
	c := t.chart("In flight and backlog", "", t.width)
	c.Note += " In flight: written and not answered. Backlog: accepted and not completed."
	for _, s := range runsOf(t.files) {
		var inFlight, backlog []*float64
		for _, bucket := range t.buckets(s.run, t.width) {
			a, b, length := 0.0, 0.0, 0.0
			for _, second := range bucket {
				a, b, length = a+second.InFlight*second.Span, b+second.Backlog*second.Span, length+second.Span
			}
			inFlight = append(inFlight, known(a/length, length >= leastSpan))
			backlog = append(backlog, known(b/length, length >= leastSpan))
		}
		c.line(s.label+"in flight", s, true, inFlight)
		async := s
		async.class = "async"
		c.line(s.label+"backlog", async, false, backlog)
	}
	return c.tabulate(t.width)
}

// lags is how late the generator was and how late callbacks came.
func (t timeline) lags() chart {
	of := map[string]func(loadtest.Second) loadtest.Latency{
		"generator lag": func(s loadtest.Second) loadtest.Latency { return s.Lag },
		"callback lag":  func(s loadtest.Second) loadtest.Latency { return s.CallbackLag },
	}
	var runs []side
	for _, s := range runsOf(t.files) {
		for _, what := range []string{"generator lag", "callback lag"} {
			if what == "callback lag" && (polled(s.run) || !took(s.run.Async)) {
				continue
			}
			this := s
			this.label += what
			if what == "callback lag" {
				this.class = "async"
			}
			runs = append(runs, this)
		}
	}
	pick := func(s side) func(loadtest.Second) loadtest.Latency {
		if s.class == "async" {
			return of["callback lag"]
		}
		return of["generator lag"]
	}
	high, width := t.tells(runs, pick)
	c := t.chart("Callback lag and generator lag", "s", width)
	c.Plot.Log = true
	c.Note += t.thickness(high) + " Callback lag runs from the answer that accepted a request to its callback, generator lag from the planned time to the sending."
	for _, s := range runs {
		t.percentileLines(&c, s.label, s, high, width, pick(s))
	}
	return c.tabulate(width)
}
