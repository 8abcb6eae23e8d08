package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"tandem"
	"tandem/internal/loadtest"
)

// chart is one chart of the page, and the table of its figures beside it.
type chart struct {
	Title, Note string
	Plot        plot
	Summary     grid
	Full        grid // every point; empty: the summary has them all
}

// plot is what is drawn: series over common xs. A nil value is a gap.
type plot struct {
	X      axis         `json:"x"`
	Y      axis         `json:"y"`
	Xs     []float64    `json:"xs"`
	Ticks  []tick       `json:"ticks,omitempty"` // of the x axis, if not chosen by the chart
	Series []series     `json:"series"`
	Ranges [][2]float64 `json:"ranges,omitempty"` // a bar for each x, as an interval
	Level  *float64     `json:"level,omitempty"`  // a line across
}

type axis struct {
	Label string `json:"label"`
	Unit  string `json:"unit"` // s, /s or empty
	Log   bool   `json:"log,omitempty"`
}

type tick struct {
	At    float64 `json:"at"`
	Label string  `json:"label"`
}

// series is a line, or dots. Arm gives its colour, and Style tells those of one
// arm apart.
type series struct {
	Label string     `json:"label"`
	Arm   string     `json:"arm"` // sync, async or other
	Style int        `json:"style"`
	Dots  bool       `json:"dots,omitempty"`
	Ys    []*float64 `json:"ys"`
}

// grid is a table.
type grid struct {
	Head []string
	Rows [][]string
}

// named is a run and what it is called on the page.
type named struct {
	prefix string // in front of its series; empty if it is the only one
	run    *loadtest.Result
	file   int
}

// charts draws all runs over one another.
func charts(runs []named) []chart {
	all := []chart{
		percentiles(runs, "Response", "From the planned time of a request until its answer: the result of a sync one, the 202 of an async one.",
			func(a loadtest.Arm) loadtest.Latency { return a.Response }),
		percentiles(runs, "Completion", "From the planned time of a request until its outcome was here: the answer of a sync one, the verified callback of an async one.",
			func(a loadtest.Arm) loadtest.Latency { return a.Completion }),
	}
	width := bucketWidth(runs)
	note := fmt.Sprintf("Each point is %d s.", width)
	timeline := func(title, unit, note string, of []measure) {
		if c := overTime(runs, width, title, unit, note, of); len(c.Plot.Series) > 0 {
			all = append(all, c)
		}
	}
	timeline("Accepted and completed", "/s", note+" What is accepted and not completed is a backlog, not throughput.", []measure{
		{"accepted", func(_ *bucket, c loadtest.Counts, span float64) *float64 { return perSpan(c.Accepted, span) }, 1},
		{"completed", func(_ *bucket, c loadtest.Counts, span float64) *float64 { return perSpan(c.Completed, span) }, 0},
	})
	timeline("Response over time", "s", note, []measure{
		{"p50", func(_ *bucket, c loadtest.Counts, _ float64) *float64 { return seconds(c.Response.Percentile(0.5)) }, 0},
		{"p95", func(_ *bucket, c loadtest.Counts, _ float64) *float64 { return seconds(c.Response.Percentile(0.95)) }, 1},
	})
	timeline("Completion over time", "s", note, []measure{
		{"p50", func(_ *bucket, c loadtest.Counts, _ float64) *float64 { return seconds(c.Completion.Percentile(0.5)) }, 0},
		{"p95", func(_ *bucket, c loadtest.Counts, _ float64) *float64 { return seconds(c.Completion.Percentile(0.95)) }, 1},
	})
	timeline("In flight and backlog", "", note+" In flight: written and not answered. Backlog: accepted and not completed.", []measure{
		{"in flight", func(b *bucket, _ loadtest.Counts, span float64) *float64 { return ratio(b.inFlight, span) }, sharedStyle},
		{"backlog", func(b *bucket, _ loadtest.Counts, span float64) *float64 { return ratio(b.backlog, span) }, sharedStyle + 1},
	})
	timeline("Callback lag and generator lag", "s", note+" Callback lag: from the 202 to the first byte. Generator lag: from the planned time to the sending.", []measure{
		{"callback lag p50", func(b *bucket, _ loadtest.Counts, _ float64) *float64 { return seconds(b.callbackLag.Percentile(0.5)) }, sharedStyle},
		{"generator lag p95", func(b *bucket, _ loadtest.Counts, _ float64) *float64 { return seconds(b.lag.Percentile(0.95)) }, sharedStyle + 1},
	})
	return all
}

// quantiles are where the percentile curves are drawn, and curveTicks those
// that are written under them.
var (
	quantiles  = []float64{0.1, 0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999}
	curveTicks = []float64{0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999}
)

// nines is the place of a quantile on an axis that gives each nine its room.
func nines(q float64) float64 { return -math.Log10(1 - q) }

func percentiles(runs []named, title, note string, of func(loadtest.Arm) loadtest.Latency) chart {
	c := chart{Title: title + " percentiles", Note: note + " Drawn as far as the samples tell.", Plot: plot{
		X: axis{Label: "percentile"}, Y: axis{Label: title, Unit: "s", Log: true},
	}}
	c.Summary.Head = []string{"", "n", "p50", "p90", "p95", "p99", "p99.9", "longest"}
	last := 0
	add := func(label, arm string, style int, l loadtest.Latency) {
		if l.N() == 0 {
			return
		}
		s := series{Label: label, Arm: arm, Style: style}
		for i, q := range quantiles {
			y := seconds(l.Percentile(q))
			if s.Ys = append(s.Ys, y); y != nil {
				last = max(last, i)
			}
		}
		c.Plot.Series = append(c.Plot.Series, s)
		row := []string{label, fmt.Sprint(l.N())}
		for _, q := range []float64{0.5, 0.9, 0.95, 0.99, 0.999} {
			row = append(row, figure(l, percentile(q)))
		}
		c.Summary.Rows = append(c.Summary.Rows, append(row, figure(l, loadtest.Latency.Max)))
	}
	for _, n := range runs {
		for i, a := range arms(n.run) {
			name := n.prefix + armNames(n.run)[i]
			add(name, colour(n.run, i), 2*n.file, of(a))
			if title == "Response" && n.run.Spec.Open() {
				add(name+", from the sending", colour(n.run, i), 2*n.file+1, a.Uncorrected)
			}
		}
	}
	for _, q := range quantiles[:last+1] {
		c.Plot.Xs = append(c.Plot.Xs, nines(q))
		if slices.Contains(curveTicks, q) {
			c.Plot.Ticks = append(c.Plot.Ticks, tick{nines(q), fmt.Sprintf("p%v", math.Round(1e4*q)/1e2)})
		}
	}
	for i := range c.Plot.Series {
		c.Plot.Series[i].Ys = c.Plot.Series[i].Ys[:last+1]
	}
	c.Summary.dropEmpty()
	return c
}

// dropEmpty leaves out the columns in which every cell says tooSmall.
func (g *grid) dropEmpty() {
	for column := len(g.Head) - 1; column >= 0; column-- {
		if len(g.Rows) == 0 || slices.ContainsFunc(g.Rows, func(row []string) bool { return row[column] != tooSmall }) {
			continue
		}
		g.Head = slices.Delete(g.Head, column, column+1)
		for i := range g.Rows {
			g.Rows[i] = slices.Delete(g.Rows[i], column, column+1)
		}
	}
}

// colour is that of the i-th arm of a run.
func colour(r *loadtest.Result, i int) string {
	if r.Spec.AA {
		return [2]string{"sync", "other"}[i]
	}
	return string(arms(r)[i].Mode)
}

// measure is a figure over time. Those of sharedStyle and above are of the whole
// run, the others of each arm.
type measure struct {
	name  string
	of    func(b *bucket, c loadtest.Counts, span float64) *float64
	style int
}

const sharedStyle = 100

// bucket is some seconds of a series, joined.
type bucket struct {
	span              float64
	inFlight, backlog float64 // times their seconds
	arms              [2]loadtest.Counts
	lag, callbackLag  loadtest.Latency
}

// mostBuckets bounds the points of a timeline.
const mostBuckets = 240

func bucketWidth(runs []named) int {
	longest := 0
	for _, n := range runs {
		if s := n.run.Series; len(s) > 0 {
			longest = max(longest, s[len(s)-1].At+1)
		}
	}
	return max(1, (longest+mostBuckets-1)/mostBuckets)
}

// buckets joins a run's seconds by width.
func buckets(r *loadtest.Result, width int) map[int]*bucket {
	all := map[int]*bucket{}
	for _, s := range r.Series {
		b := all[s.At/width]
		if b == nil {
			b = &bucket{}
			all[s.At/width] = b
		}
		b.span += s.Span
		b.inFlight += s.InFlight * s.Span
		b.backlog += s.Backlog * s.Span
		b.lag = loadtest.Merge(b.lag, s.Lag)
		b.callbackLag = loadtest.Merge(b.callbackLag, s.CallbackLag)
		for i, c := range []loadtest.Counts{s.Sync, s.Async} {
			to := &b.arms[i]
			to.Sent += c.Sent
			to.Accepted += c.Accepted
			to.Completed += c.Completed
			to.Response = loadtest.Merge(to.Response, c.Response)
			to.Completion = loadtest.Merge(to.Completion, c.Completion)
		}
	}
	return all
}

func overTime(runs []named, width int, title, unit, note string, of []measure) chart {
	c := chart{Title: title, Note: note, Plot: plot{X: axis{Label: "seconds"}, Y: axis{Label: title, Unit: unit}}}
	last := -1
	joined := make([]map[int]*bucket, len(runs))
	for i, n := range runs {
		joined[i] = buckets(n.run, width)
		for at := range joined[i] {
			last = max(last, at)
		}
	}
	c.Full.Head = []string{"second"}
	for at := range last + 1 {
		c.Plot.Xs = append(c.Plot.Xs, float64(at*width))
		c.Full.Rows = append(c.Full.Rows, []string{fmt.Sprint(at * width)})
	}
	c.Summary.Head = []string{"", "mean of points", "highest"}
	add := func(label, arm string, style int, value func(b *bucket) *float64, points map[int]*bucket) {
		s := series{Label: label, Arm: arm, Style: style}
		n, sum, highest := 0, 0.0, 0.0
		for at := range last + 1 {
			var y *float64
			if b := points[at]; b != nil {
				y = value(b)
			}
			s.Ys = append(s.Ys, y)
			if y != nil {
				n, sum, highest = n+1, sum+*y, max(highest, *y)
			}
		}
		if n == 0 {
			return
		}
		c.Plot.Series = append(c.Plot.Series, s)
		c.Summary.Rows = append(c.Summary.Rows, []string{label, inUnit(sum/float64(n), unit), inUnit(highest, unit)})
		c.Full.Head = append(c.Full.Head, label)
		for at, y := range s.Ys {
			cell := "-"
			if y != nil {
				cell = inUnit(*y, unit)
			}
			c.Full.Rows[at] = append(c.Full.Rows[at], cell)
		}
	}
	for i, n := range runs {
		for _, m := range of {
			if m.style >= sharedStyle {
				add(n.prefix+m.name, [2]string{"async", "other"}[m.style-sharedStyle], 2*n.file, func(b *bucket) *float64 {
					return m.of(b, loadtest.Counts{}, b.span)
				}, joined[i])
				continue
			}
			for k := range arms(n.run) {
				arm := k
				if n.run.Sync.Ledger.Planned == 0 {
					arm = 1
				}
				add(n.prefix+armNames(n.run)[k]+" "+m.name, colour(n.run, k), 2*n.file+m.style, func(b *bucket) *float64 {
					return m.of(b, b.arms[arm], b.span)
				}, joined[i])
			}
		}
	}
	return c
}

func inUnit(v float64, unit string) string {
	switch unit {
	case "s":
		return duration(time.Duration(v * float64(time.Second)))
	case "/s":
		return rate(v)
	default:
		return digits(v)
	}
}

func seconds(d time.Duration, ok bool) *float64 {
	if !ok {
		return nil
	}
	v := d.Seconds()
	return &v
}

func perSpan(n int, span float64) *float64 { return ratio(float64(n), span) }

// ratio is a part of a span; of one too short to say anything there is none.
func ratio(sum, span float64) *float64 {
	if span < 0.5 {
		return nil
	}
	v := sum / span
	return &v
}

// ratios draws the intervals of a comparison.
func ratios(c *loadtest.Comparison) chart {
	one := 1.0
	drawn := chart{Title: "Ratios and their 95 % intervals", Plot: plot{
		X: axis{Label: "figure"}, Y: axis{Label: armName(c, 1) + " / " + armName(c, 0), Log: true}, Level: &one,
	}}
	drawn.Note = "Above 1 the figure of " + armName(c, 1) + " is the larger one: a longer latency, or a higher throughput."
	drawn.Summary.Head = []string{"", armName(c, 0), armName(c, 1), "ratio", "95 % interval", "verdict"}
	dots := series{Label: "ratio", Arm: "async", Dots: true}
	for _, m := range c.Metrics {
		if m.Verdict == loadtest.Unmeasured {
			drawn.Summary.Rows = append(drawn.Summary.Rows, []string{m.Name, "-", "-", "-", "-", string(m.Verdict) + ": " + m.Reason})
			continue
		}
		at := float64(len(drawn.Plot.Xs))
		drawn.Plot.Xs = append(drawn.Plot.Xs, at)
		drawn.Plot.Ticks = append(drawn.Plot.Ticks, tick{at, m.Name})
		drawn.Plot.Ranges = append(drawn.Plot.Ranges, [2]float64{m.Low, m.High})
		dots.Ys = append(dots.Ys, &m.Ratio)
		drawn.Summary.Rows = append(drawn.Summary.Rows, []string{m.Name, metricValue(m, m.A), metricValue(m, m.B), fmt.Sprintf("%.3f", m.Ratio),
			fmt.Sprintf("%.3f to %.3f", m.Low, m.High), string(m.Verdict)})
	}
	if len(dots.Ys) > 0 {
		drawn.Plot.Series = []series{dots}
	}
	return drawn
}

// stages draws what a search tried.
func stages(s *loadtest.Search) chart {
	drawn := chart{Title: "Rates that were tried", Note: "Each dot is a stage: its rate, and how long completion took.", Plot: plot{
		X: axis{Label: "requests per second", Log: true}, Y: axis{Label: "completion p99", Unit: "s", Log: true},
	}}
	drawn.Summary.Head = []string{"rate", "mode", "objective", "phase", "completed", "completion p99", "growth", ""}
	tried := slices.Clone(s.Stages)
	slices.SortStableFunc(tried, func(a, b loadtest.Stage) int { return cmp.Compare(a.Rate, b.Rate) })
	for _, mode := range []tandem.Mode{tandem.Sync, tandem.Async} {
		for style, outcome := range []string{"passed", "failed"} {
			dots := series{Label: string(mode) + " " + outcome, Arm: string(mode), Style: style, Dots: true}
			n := 0
			for _, stage := range tried {
				var y *float64
				if stage.Mode == mode && stage.Passed == (outcome == "passed") {
					if y = seconds(stage.Completion.Percentile(0.99)); y != nil {
						n++
					}
				}
				dots.Ys = append(dots.Ys, y)
			}
			if n > 0 {
				drawn.Plot.Series = append(drawn.Plot.Series, dots)
			}
		}
	}
	for _, stage := range tried {
		drawn.Plot.Xs = append(drawn.Plot.Xs, stage.Rate)
		drawn.Summary.Rows = append(drawn.Summary.Rows, []string{rate(stage.Rate), string(stage.Mode), orNone(stage.SLO), string(stage.Phase),
			rate(stage.Completed), figure(stage.Completion, percentile(0.99)), fmt.Sprintf("%+.3g/s", stage.Growth), stageOutcome(stage)})
	}
	return drawn
}
