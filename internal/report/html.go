package report

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"

	"tandem/internal/loadtest"
)

// The page's parts. It is one file and loads nothing: uPlot, the charts, is in
// it with its licence.
var (
	//go:embed assets/page.html
	pageHTML string
	//go:embed assets/page.css
	pageCSS string
	//go:embed assets/page.js
	pageJS string
	//go:embed assets/uplot/uPlot.iife.min.js
	uplotJS string
	//go:embed assets/uplot/uPlot.min.css
	uplotCSS string
	//go:embed assets/uplot/LICENSE
	uplotLicence string
)

var page = template.Must(template.New("page").Parse(pageHTML))

// pageData is what the page is made from.
type pageData struct {
	Title    string
	Policy   string
	CSS      template.CSS
	JS       template.JS
	Sections []section
	Charts   []chart
	Plots    []plot
}

// section is one measurement's part of the page.
type section struct {
	Name     string
	Kind     string
	Void     []string
	Settings []setting
	Words    []string // of a comparison or a search
	Figures  figureTable
	Account  []string
	Insights []Insight
	Missing  []string
	Version  string
	Started  string
}

// figureTable is the table of the arms' figures.
type figureTable struct {
	Heads []string
	Lines []line
}

// Cells are the figures of a line; a heading has none.
func (l line) Cells() []string { return l.cells }

// Name is what the line is of.
func (l line) Name() string { return l.name }

// Name and Value are what the page shows of a setting.
func (s setting) Name() string  { return s.name }
func (s setting) Value() string { return s.value }

// HTML writes measurements, laid over one another, as one page that needs no
// network.
func HTML(w io.Writer, names []string, files []*loadtest.File) error {
	css, js := uplotCSS+pageCSS, "/* uPlot\n"+uplotLicence+"*/\n"+uplotJS+pageJS
	data := pageData{
		Title: "Tandem: sync and async, the same work",
		Policy: fmt.Sprintf("default-src 'none'; style-src '%s'; script-src '%s'; base-uri 'none'; form-action 'none'",
			hash(css), hash(js)),
		CSS: template.CSS(css),
		JS:  template.JS(js),
	}
	var all []named
	for i, f := range files {
		data.Sections = append(data.Sections, newSection(names[i], f))
		for _, r := range runs(f) {
			n := named{run: r, file: i}
			if len(files) > 1 {
				n.prefix = clean(names[i]) + ": "
			}
			all = append(all, n)
		}
		switch {
		case f.Compare != nil:
			data.Charts = append(data.Charts, ratios(f.Compare))
		case f.Search != nil:
			data.Charts = append(data.Charts, stages(f.Search))
		}
	}
	if len(all) > 0 {
		data.Charts = append(data.Charts, charts(all)...)
	}
	for _, c := range data.Charts {
		data.Plots = append(data.Plots, c.Plot)
	}
	return page.Execute(w, data)
}

// hash allows an inline script or style in a Content-Security-Policy.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

func newSection(name string, f *loadtest.File) section {
	s := section{Name: name, Version: f.Tandem}
	switch {
	case f.Load != nil:
		s.Kind = "Load"
		s.Insights = Insights(f.Environment, f.Load)
		s.fill(f, f.Load)
	case f.Compare != nil:
		s.Kind, s.Words = compareTitle(f.Compare), compareWords(f.Compare)
		s.fill(f, &f.Compare.Run)
	case f.Search != nil:
		s.Kind = "How much each pattern sustains, objective " + f.Search.SLO
		s.Settings = serviceSettings(f, f.Search.Service)
		s.Started = f.Search.Started.Format("2006-01-02 15:04:05 MST")
		for _, c := range f.Search.Capacities {
			s.Words = append(s.Words, capital(string(c.Mode))+" "+capacityWords(c)+".")
		}
		s.Words = append(s.Words, "A rate is sustained if its requests are completed, what waits does not grow, and is worked off soon after. How fast requests are accepted is never capacity.")
	}
	if f.Environment.Kernel != "" {
		s.Settings = append(s.Settings, setting{"kernel", f.Environment.Kernel})
	}
	s.Settings = append(s.Settings, setting{"built with", f.Environment.Go})
	return s
}

func (s *section) fill(f *loadtest.File, r *loadtest.Result) {
	s.Void, s.Settings = r.Void, settings(f, r)
	s.Settings = append(s.Settings, setting{"address", r.Service.URL})
	s.Figures = figureTable{armNames(r), figures(r)}
	s.Account, s.Missing = accountLines(r), r.Callbacks.MissingIDs
	s.Started = r.Started.Format("2006-01-02 15:04:05 MST")
}
