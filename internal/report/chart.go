package report

import (
	"fmt"
	"math"
	"slices"

	"tandem/internal/loadtest"
)

// chart is a picture of figures: what the page's script draws, and beside it the
// same figures as a table.
type chart struct {
	ID, Title string
	Note      string
	Void      bool
	Table     table
	Open      bool // the table is short enough to stand there unfolded
	Plot      plot
}

// plot is a chart as the page's script gets it. A figure that is null was not
// measured.
type plot struct {
	ID     string     `json:"id"`
	Kind   string     `json:"kind"` // percentile, time, ratio or stage
	Unit   string     `json:"unit"` // s, /s or empty: a count
	Log    bool       `json:"log"`  // the figures' scale is logarithmic
	X      []float64  `json:"x"`
	Names  []string   `json:"names,omitempty"` // of X, if it is not a figure
	Series []plotLine `json:"series"`
}

type plotLine struct {
	Label string     `json:"label"`
	Arm   string     `json:"arm"` // sync, async or empty: decides the colour
	File  int        `json:"file"`
	Thin  bool       `json:"thin,omitempty"`
	Mark  string     `json:"mark,omitempty"` // points instead of a line: passed, failed or void
	Y     []*float64 `json:"y"`
}

func (p plot) empty() bool {
	for _, s := range p.Series {
		for _, y := range s.Y {
			if y != nil {
				return false
			}
		}
	}
	return true
}

// charts are those of all files, without the ones that nothing was measured
// for.
func charts(files []*loadtest.File) []chart {
	all := sidesOf(files)
	var made []chart
	add := func(some ...chart) {
		for _, c := range some {
			if !c.Plot.empty() {
				made = append(made, c)
			}
		}
	}
	for i, f := range files {
		if f.Compare != nil {
			add(ratios(f.Compare, i, numbered(files, i)))
		}
	}
	add(percentiles("Response latency by percentile", all, func(a loadtest.Arm) loadtest.Latency { return a.Response }))
	add(percentiles("Completion latency by percentile", all, func(a loadtest.Arm) loadtest.Latency { return a.Completion }))
	add(timelines(files, all)...)
	for i, f := range files {
		if f.Search != nil {
			add(stageLatency(f.Search, i, numbered(files, i)), stageGrowth(f.Search, i, numbered(files, i)))
		}
	}
	for i := range made {
		made[i].ID = fmt.Sprintf("chart%d", i+1)
		made[i].Plot.ID = made[i].ID
	}
	return made
}

// numbered is what is written before the title of something of one file, if
// there are several.
func numbered(files []*loadtest.File, i int) string {
	if len(files) == 1 {
		return ""
	}
	return fmt.Sprintf("%d ", i+1)
}

// allVoid reports whether nothing of a chart counts. Where only some of it does
// not, its lines say so.
func allVoid(all []side) bool {
	return len(all) > 0 && !slices.ContainsFunc(all, func(s side) bool { return !s.void() })
}

// percentiles is the curve of a latency: at x stands the percentile q with
// 10^x = 1/(1-q), so that each further nine takes as much room. It is drawn as
// far as there are samples to tell.
func percentiles(title string, all []side, of func(loadtest.Arm) loadtest.Latency) chart {
	c := chart{Title: title, Open: true, Void: allVoid(all),
		Note: "From the planned time of a request. Each curve ends where there are too few samples to tell."}
	c.Plot = plot{Kind: "percentile", Unit: "s", Log: true}
	const steps, nines = 20, 5
	for step := 1; step <= steps*nines; step++ {
		c.Plot.X = append(c.Plot.X, float64(step)/steps)
	}
	for _, s := range all {
		line := plotLine{Label: column{Label: s.label, Void: s.void()}.Head(), Arm: s.class, File: s.file}
		for _, x := range c.Plot.X {
			d, ok := of(s.arm).Percentile(1 - math.Pow(10, -x))
			line.Y = append(line.Y, known(d.Seconds(), ok))
		}
		c.Plot.Series = append(c.Plot.Series, line)
	}
	c.Table = table{Title: title, Columns: columns(all), Groups: []group{{}}}
	for _, p := range []struct {
		name string
		q    float64
	}{{"p50", 0.5}, {"p75", 0.75}, {"p90", 0.9}, {"p95", 0.95}, {"p99", 0.99}, {"p99.9", 0.999}, {"p99.99", 0.9999}} {
		r := row{Name: p.name}
		for _, s := range all {
			r.Cells = append(r.Cells, percentile(of(s.arm), p.q))
		}
		c.Table.Groups[0].Rows = append(c.Table.Groups[0].Rows, r)
	}
	return c
}

// ratios is the picture of a comparison: each metric's ratio and interval.
func ratios(c *loadtest.Comparison, file int, number string) chart {
	b := armB(c)
	made := chart{Title: number + "Ratio of B over A, with its 95 % interval", Open: true, Void: len(c.Run.Void) > 0,
		Note: "1 means no difference; the band is 5 % around it. Below 1 a latency is better, above 1 a throughput.", Table: metrics(c)}
	made.Plot = plot{Kind: "ratio", Log: true}
	lines := []plotLine{{Label: "ratio"}, {Label: "low"}, {Label: "high"}}
	for i := range lines {
		lines[i].Arm, lines[i].File = "async", file
	}
	lines[0].Label = b + ", ratio"
	for i, m := range c.Metrics {
		made.Plot.X = append(made.Plot.X, float64(i))
		made.Plot.Names = append(made.Plot.Names, m.Name)
		ok := m.Verdict != loadtest.Unmeasured && m.Ratio > 0 && m.Low > 0 && m.High > 0
		for j, v := range []float64{m.Ratio, m.Low, m.High} {
			lines[j].Y = append(lines[j].Y, known(v, ok))
		}
	}
	made.Plot.Series = lines
	return made
}
