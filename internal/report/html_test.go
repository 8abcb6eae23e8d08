package report

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tandem/internal/loadtest"
)

// inlined is what the page carries of uPlot and its own parts: it is in their
// files, and would hide the rest of a golden file.
var inlined = regexp.MustCompile(`(?s)<style>.*?</style>|<script>.*?</script>|<meta http-equiv[^>]*>`)

func TestHTMLIsGolden(t *testing.T) {
	for name, files := range map[string][]*loadtest.File{
		"void":    {load(stalledRun(t))},
		"compare": {comparison(t)},
		"search":  {found(t)},
		"several": {load(cpuBoundRun(t, 1000)), load(polledRun(t)), found(t)},
	} {
		t.Run(name, func(t *testing.T) {
			names := []string{"a.json", "b.json", "c.json"}[:len(files)]
			var page strings.Builder
			if err := HTML(&page, names, files); err != nil {
				t.Fatal(err)
			}
			got := inlined.ReplaceAllString(page.String(), "")
			path := filepath.Join("testdata", name+".golden.html")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("the page is not as in %s (go test ./internal/report -update writes it anew)", path)
			}
			for _, nonsense := range []string{"NaN", "Inf", "%!", "ZgotmplZ", "<nil>"} {
				if strings.Contains(got, nonsense) {
					t.Errorf("the page says %s", nonsense)
				}
			}
		})
	}
}

func TestThePageLoadsNothing(t *testing.T) {
	var page strings.Builder
	if err := HTML(&page, []string{"a"}, []*loadtest.File{load(cpuBoundRun(t, 100))}); err != nil {
		t.Fatal(err)
	}
	for _, load := range []string{"src=", "href=", "url(", "@import", "fetch(", "XMLHttpRequest"} {
		if strings.Contains(page.String(), load) {
			t.Errorf("the page holds %s", load)
		}
	}
	policy := regexp.MustCompile(`default-src &#39;none&#39;; style-src &#39;sha256-[^ ]+&#39;; script-src &#39;sha256-[^ ]+&#39;;`)
	if !policy.MatchString(page.String()) {
		t.Error("the page's policy does not forbid all but its own script and style")
	}
}

func TestHostileTextStaysText(t *testing.T) {
	const hostile = `</script><script>alert(1)</script><img src=x onerror=alert(1)>` + "\x1b[2J"
	r := stalledRun(t)
	r.Service.Name, r.Service.URL, r.Spec.Workload = hostile, hostile, hostile
	r.Void, r.Warnings = []string{hostile}, []string{hostile}
	r.SLOs[0].SLO = hostile
	r.Sync.Errors = map[string]int{hostile: 1}
	r.Callbacks.MissingIDs = []string{hostile}
	var page, text strings.Builder
	if err := HTML(&page, []string{hostile, "b"}, []*loadtest.File{load(r), load(r)}); err != nil {
		t.Fatal(err)
	}
	if got := inlined.ReplaceAllString(page.String(), ""); strings.Contains(got, "<img") || strings.Count(got, "<script") != 1 {
		t.Error("the page runs what a result file says")
	}
	if err := Text(&text, load(r)); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text.String(), "\x1b") {
		t.Error("the text moves the terminal's cursor")
	}
}

func TestReportsOfAlmostNothing(t *testing.T) {
	for name, f := range map[string]*loadtest.File{
		"a load":       {Load: &loadtest.Result{}},
		"a comparison": {Compare: &loadtest.Comparison{}},
		"a search":     {Search: &loadtest.Search{}},
	} {
		var b strings.Builder
		if err := Text(&b, f); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := HTML(&b, []string{"x"}, []*loadtest.File{f}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := JSON(&b, []string{"x"}, []*loadtest.File{f}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Text(&strings.Builder{}, &loadtest.File{}); err == nil {
		t.Error("a file of nothing has a report")
	}
}

func TestJSONHasNullWhereNothingWasMeasured(t *testing.T) {
	var b strings.Builder
	if err := JSON(&b, []string{"x"}, []*loadtest.File{load(cpuBoundRun(t, 100))}); err != nil {
		t.Fatal(err)
	}
	var read []struct {
		Sync struct {
			Response map[string]*float64 `json:"response_s"`
		} `json:"sync"`
	}
	if err := json.Unmarshal([]byte(b.String()), &read); err != nil {
		t.Fatal(err)
	}
	response := read[0].Sync.Response
	if response["p50"] == nil || *response["p50"] < 0.07 || *response["p50"] > 0.09 {
		t.Errorf("the median is %v, want 0.08 s", response["p50"])
	}
	if _, there := response["p99"]; !there || response["p99"] != nil {
		t.Error("p99 of 100 latencies is not null")
	}
}

func TestSeveralFilesStandSideBySide(t *testing.T) {
	var b strings.Builder
	files := []*loadtest.File{load(cpuBoundRun(t, 1000)), load(polledRun(t)), found(t)}
	if err := TextAll(&b, []string{"a.json", "b.json", "c.json"}, files); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a.json   sync", "a.json  async", "b.json  async", "sustains 330 /s"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestLiveFitsItsTerminal(t *testing.T) {
	p := loadtest.Progress{Elapsed: 2_000_000_000, Planned: 100, Sync: loadtest.ArmProgress{Sent: 40}, Async: loadtest.ArmProgress{Sent: 20}}
	if lines := Live(p, loadtest.Progress{}, 80); len(lines) != 1 || len(lines[0]) > 80 || !strings.Contains(lines[0], "60 of 100 sent  30.0 /s") {
		t.Errorf("narrow: %q", lines)
	}
	if lines := Live(p, p, 120); len(lines) != 3 || !strings.Contains(lines[0], "- /s") {
		t.Errorf("wide: %q", lines)
	}
}
