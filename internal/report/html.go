package report

import (
	"crypto/sha256"
	_ "embed" // the parts of the page
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"math"
	"strconv"

	"tandem/internal/loadtest"
)

var (
	//go:embed assets/page.gohtml
	pageSource string
	//go:embed assets/page.css
	pageCSS string
	//go:embed assets/page.js
	pageJS string
	//go:embed assets/uplot/uPlot.min.css
	uplotCSS string
	//go:embed assets/uplot/uPlot.iife.min.js
	uplotJS string
	//go:embed assets/uplot/LICENSE
	uplotLicense string
)

var pageTemplate = template.Must(template.New("page").Parse(pageSource))

// policy lets the page run its own scripts and styles and nothing else: it
// cannot reach any address.
var policy = fmt.Sprintf("default-src 'none'; script-src %s %s; style-src %s %s; base-uri 'none'; form-action 'none'",
	hashOf(uplotJS), hashOf(pageJS), hashOf(uplotCSS), hashOf(pageCSS))

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// HTML writes one page that needs nothing else, of one or several files laid
// over one another. There must be as many names as files.
func HTML(w io.Writer, names []string, files []*loadtest.File) error {
	if len(names) != len(files) || len(files) == 0 {
		return fmt.Errorf("%d names for %d files", len(names), len(files))
	}
	if err := pageTemplate.Execute(w, newPage(names, files)); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return nil
}

// page is what the template shows.
type page struct {
	Policy            string
	UplotCSS, PageCSS template.CSS
	UplotJS, PageJS   template.JS
	License           string
	Title             string
	Several, Void     bool
	Files             []pageFile
	Tiles             []tile
	Charts            []chart
	Overview, Figures table
	Generator         table
	Plots             []plot
}

// pageFile is what is said of one file.
type pageFile struct {
	Number              int
	Name, Title, Tandem string
	Void                []string
	Banner              string // what Void makes of it
	Counts              bool   // its findings count, whatever is in Void
	Facts               []fact
	Findings            []string // of a comparison or a search
	Insights            []Insight
	Warnings            []string
	Objectives          table
	Capacities          table
	Callbacks           []fact
	Little              string
	StagesBroken        []string
}

// tile is a figure that says the most, of each arm.
type tile struct {
	Name    string
	Figures []tileFigure
}

type tileFigure struct{ Label, Class, Text string }

func newPage(names []string, files []*loadtest.File) page {
	p := page{
		Policy:   policy,
		UplotCSS: template.CSS(uplotCSS), PageCSS: template.CSS(pageCSS),
		UplotJS: template.JS(uplotJS), PageJS: template.JS(pageJS),
		License: uplotLicense,
		Title:   titleOf(files[0]), Several: len(files) > 1,
		Charts: charts(files),
	}
	if p.Several {
		p.Title = fmt.Sprintf("%d measurements side by side", len(files))
	}
	for i, f := range files {
		p.Files = append(p.Files, newPageFile(i+1, names[i], f))
		p.Void = p.Void || len(voids(f)) > 0
	}
	if all := sidesOf(files); len(all) > 0 {
		p.Figures = figures(all)
		p.Figures.Title = "All figures"
		p.Generator = generator(files)
		if p.Several {
			p.Overview = overview(files)
		} else {
			p.Tiles = tiles(all)
		}
	}
	for i := range p.Charts {
		p.Plots = append(p.Plots, p.Charts[i].Plot.rounded())
	}
	return p
}

func newPageFile(number int, name string, f *loadtest.File) pageFile {
	p := pageFile{Number: number, Name: name, Title: titleOf(f), Tandem: f.Tandem, Void: voids(f), Banner: banner(f),
		Counts: len(voids(f)) == 0 || f.Search != nil, Facts: facts(f), Insights: Insights(f)}
	if f.Compare != nil {
		p.Findings = compared(f)
	}
	if f.Search != nil {
		p.Findings = searched(f.Search)
		p.Capacities = capacities(f.Search)
		p.StagesBroken = broken(f.Search)
	}
	if r := result(f); r != nil {
		p.Warnings = r.Warnings
		if len(r.SLOs) > 0 {
			p.Objectives = objectives(r)
		}
		p.Callbacks = accountOfCallbacks(r, sides(f))
		p.Little = littlesLaw(r)
	}
	return p
}

func tiles(all []side) []tile {
	var made []tile
	for _, t := range []struct {
		name string
		of   func(side) string
	}{
		{"Response, median", func(s side) string { return percentile(s.arm.Response, 0.5) }},
		{"Response, p99", func(s side) string { return percentile(s.arm.Response, 0.99) }},
		{"Completion, p99", func(s side) string { return percentile(s.arm.Completion, 0.99) }},
		{"Completed per second", func(s side) string { return perSecond(s.arm.Throughput()) }},
	} {
		one := tile{Name: t.name}
		for _, s := range all {
			one.Figures = append(one.Figures, tileFigure{s.label, s.class, t.of(s)})
		}
		made = append(made, one)
	}
	return made
}

// rounded has four digits of each figure, which is more than is seen, so that
// the page stays small.
func (p plot) rounded() plot {
	series := make([]plotLine, len(p.Series))
	for i, s := range p.Series {
		y := make([]*float64, len(s.Y))
		for j, v := range s.Y {
			if v != nil && !math.IsNaN(*v) {
				short, _ := strconv.ParseFloat(strconv.FormatFloat(*v, 'g', 4, 64), 64) // it is a number
				y[j] = &short
			}
		}
		s.Y = y
		series[i] = s
	}
	p.Series = series
	return p
}

// There reports whether a table has anything to show.
func (t table) There() bool {
	for _, g := range t.Groups {
		if len(g.Rows) > 0 {
			return true
		}
	}
	return false
}

// Beside reports whether a chart's table is narrow enough to stand next to it.
func (c chart) Beside() bool { return c.Open && len(c.Table.Columns) <= 2 }

// Wide is how many columns a row of the table has.
func (t table) Wide() int { return len(t.Columns) + 1 }
