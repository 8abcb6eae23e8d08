package loadtest

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// files are one of each kind, as they are written.
func files(t *testing.T) map[string][]byte {
	f := newFaulty(t)
	opts := f.options()
	slo, err := ParseSLO("async.accept.p50<1s")
	if err != nil {
		t.Fatal(err)
	}
	opts.SLOs = []SLO{slo}
	load, err := Run(t.Context(), spec(40), opts)
	if err != nil {
		t.Fatal(err)
	}
	pairs := spec(40)
	pairs.Pairs = 10
	compare, err := Compare(t.Context(), pairs, opts)
	if err != nil {
		t.Fatal(err)
	}
	open := open200(time.Second)
	open.Duration = 100 * time.Millisecond
	l, err := openLab(t.Context(), open, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	r, err := l.measure(open)(t.Context(), "async", 100, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	stage, _ := r.stage(Stage{Mode: "async", SLO: slo.String(), Phase: Bracket, Rate: 100, For: 100 * time.Millisecond}, &slo)
	search := &Search{SLO: slo.String(), Spec: open, Service: l.service, Stages: []Stage{stage}, Capacities: []Capacity{{Mode: "async", Passed: 100}}}

	written := map[string][]byte{}
	for name, file := range map[string]*File{"load": {Load: load}, "compare": {Compare: compare}, "search": {Search: search}} {
		file.Version, file.Tandem, file.Environment = FileVersion, "test", ReadEnvironment()
		var b bytes.Buffer
		if err := WriteFile(&b, file); err != nil {
			t.Fatal(err)
		}
		written[name] = b.Bytes()
	}
	return written
}

// TestResultFilesAreAsTheSchemaSays also finds fields that the schema does not
// know.
func TestResultFilesAreAsTheSchemaSays(t *testing.T) {
	schema, err := jsonschema.NewCompiler().Compile("result.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files(t) {
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(document); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		document.(map[string]any)[name].(map[string]any)["added"] = 1
		if err := schema.Validate(document); err == nil {
			t.Errorf("%s: a field that is not in the schema goes unseen", name)
		}
		read, err := ReadFile(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var again bytes.Buffer
		if err := WriteFile(&again, read); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text, again.Bytes()) {
			t.Errorf("%s was read, and is written in another way", name)
		}
	}
}

func TestWhatIsNoResultFileIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		``:                                    "not a result file",
		`{}`:                                  "version 0",
		`{"version":2}`:                       "version 2; this program reads version 1",
		`{"version":1}`:                       "one of load, compare and search",
		`{"version":1,"load":7`:               "not a result file",
		`{"version":1,"load":{},"search":{}}`: "one of load, compare and search",
		`{"version":1,"load":{"sync":{"response":{"n":5,"hdr":"bad"}},"x":"y"}}`: "histogram",
	} {
		if _, err := ReadFile(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestTheEnvironmentIsDescribed(t *testing.T) {
	e := ReadEnvironment()
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if e.OS == "" || e.Arch == "" || e.CPUs < 1 || !strings.HasPrefix(e.Go, "go") {
		t.Errorf("the environment is %s", text)
	}
	if _, err := os.Stat("/proc/cpuinfo"); err == nil && (e.CPU == "" || e.Kernel == "") {
		t.Errorf("the environment is %s, want the processor and the kernel", text)
	}
}
