package report

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"tandem"
	"tandem/internal/loadtest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// fixtures are the files that the golden reports are of.
func fixtures(t testing.TB) map[string]*loadtest.File {
	return map[string]*loadtest.File{
		"closed_few":  cpuBoundRun(t, 100),
		"closed":      cpuBoundRun(t, 1000),
		"open_stall":  stalledRun(t),
		"open_growth": overloadedRun(t),
		"void":        voidRun(t),
		"troubled":    troubledRun(t),
		"polled":      polledRun(t),
		"compare":     comparison(t),
		"aa":          aaTest(t),
		"search":      search(t),
	}
}

func TestTextIsGolden(t *testing.T) {
	for name, f := range fixtures(t) {
		t.Run(name, func(t *testing.T) {
			golden(t, name+".txt", writing(t, func(w io.Writer) error { return Text(w, f) }))
		})
	}
}

func TestTextOfSeveralFilesIsGolden(t *testing.T) {
	all := fixtures(t)
	for name, names := range map[string][]string{
		"several_two":  {"closed", "open_growth"},
		"several_many": {"closed", "void", "polled", "compare", "search", "open_growth"},
	} {
		t.Run(name, func(t *testing.T) {
			var files []*loadtest.File
			for _, n := range names {
				files = append(files, all[n])
			}
			golden(t, name+".txt", writing(t, func(w io.Writer) error { return TextAll(w, names, files) }))
		})
	}
}

func TestSummaryIsGolden(t *testing.T) {
	for name, f := range map[string]*loadtest.File{"closed_few": cpuBoundRun(t, 100), "compare": comparison(t), "search": search(t)} {
		t.Run(name, func(t *testing.T) {
			golden(t, name+".json", writing(t, func(w io.Writer) error { return JSON(w, f) }))
		})
	}
}

// writing is what a report writes, which must hold nothing that is no figure.
func writing(t *testing.T, report func(io.Writer) error) string {
	t.Helper()
	var b strings.Builder
	if err := report(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if no := regexp.MustCompile(`\bNaN\b|[-+ ]Inf\b|%!|<nil>`).FindString(text); no != "" {
		t.Errorf("the report holds %q", no)
	}
	return text
}

func narrow(t *testing.T, text string) {
	t.Helper()
	for i, line := range strings.Split(text, "\n") {
		if n := utf8.RuneCountInString(line); n > 100 {
			t.Errorf("line %d has %d columns: %s", i+1, n, line)
		}
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if strings.HasSuffix(name, ".txt") {
		narrow(t, got)
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			t.Fatalf("line %d differs; got:\n%s\nwant:\n%s\n(go test ./internal/report -update writes it anew)",
				i+1, strings.Join(g[min(i, len(g)):min(i+3, len(g))], "\n"), strings.Join(w[min(i, len(w)):min(i+3, len(w))], "\n"))
		}
	}
}

// TestASearchThatWasEndedSaysSoFirst and keeps what it found.
func TestASearchThatWasEndedSaysSoFirst(t *testing.T) {
	f := search(t)
	f.Search.Capacities = f.Search.Capacities[:2]
	f.Search.Capacities[1] = loadtest.Capacity{Mode: tandem.Async, Passed: 50, Bound: "it was interrupted; capacity is at least 50/s"}
	f.Search.Void = []string{"The search did not come to its end: it was interrupted."}
	text := writing(t, func(w io.Writer) error { return Text(w, f) })
	if !strings.HasPrefix(text, "VOID: NOT ALL WAS MEASURED\n- The search did not come to its end: it was interrupted.\n") {
		t.Errorf("the report begins with\n%.200s", text)
	}
	page := writing(t, func(w io.Writer) error { return HTML(w, []string{"a"}, []*loadtest.File{f}) })
	for _, want := range []string{"Sync sustains 125 /s", "Async sustains at least 50.0 /s", "it was interrupted"} {
		for where, report := range map[string]string{"text": text, "page": page} {
			if !strings.Contains(strings.Join(strings.Fields(report), " "), want) {
				t.Errorf("the %s does not say %q", where, want)
			}
		}
	}
	if summary := writing(t, func(w io.Writer) error { return JSON(w, f) }); !strings.Contains(summary, f.Search.Void[0]) {
		t.Errorf("the summary does not say that it is void: %s", summary)
	}
}

// TestACapacityThatCouldNotBeMeasuredIsVoid tells it from one that no rate met.
func TestACapacityThatCouldNotBeMeasuredIsVoid(t *testing.T) {
	f := search(t)
	f.Search.Capacities = []loadtest.Capacity{
		{Mode: tandem.Sync, Bound: "the generator's limit, at 32/s: it was late"},
		{Mode: tandem.Async, Failed: 20, Bound: "the backlog grew by 4/s"},
	}
	var b strings.Builder
	if err := Text(&b, f); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"sync, without an objective VOID VOID VOID", "Sync could not be measured at any rate, without an objective: the generator's limit",
		"async, without an objective none 20.0 /s no", "Async sustained no rate that was tried",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q:\n%s", want, b.String())
		}
	}
}
