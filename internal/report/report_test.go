package report

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"tandem"
	"tandem/internal/loadtest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// latency is a distribution of n latencies from low to high, evenly spread.
func latency(t *testing.T, n int, low, high time.Duration) (l loadtest.Latency) {
	t.Helper()
	h := hdrhistogram.New(1, time.Hour.Microseconds(), 3)
	for i := range n {
		d := low + (high-low)*time.Duration(i)/time.Duration(max(n-1, 1))
		if err := h.RecordValue(d.Microseconds()); err != nil {
			t.Fatal(err)
		}
	}
	encoded, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{"n": n, "hdr": string(encoded)})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &l); err != nil {
		t.Fatal(err)
	}
	return l
}

// cpuBoundRun is a run as `tandem demo` has it: n requests each way.
func cpuBoundRun(t *testing.T, n int) *loadtest.Result {
	all := loadtest.Ledger{Planned: n, Sent: n, Accepted: n, Completed: n}
	return &loadtest.Result{
		Version:     1,
		Spec:        loadtest.Spec{Requests: 2 * n, Concurrency: 15, Workload: "compute", Complexity: 2},
		Environment: loadtest.Environment{OS: "linux", Arch: "amd64", CPU: "Test CPU", CPUs: 2, Go: "go1.26"},
		Service:     loadtest.Service{URL: "http://127.0.0.1:8000", Version: "1.2.3", Backend: "embedded", Durable: true},
		Sync: loadtest.Arm{
			Mode: tandem.Sync, Ledger: all, Busy: time.Duration(n) * 10 * time.Millisecond,
			Response:   latency(t, n, 10*time.Millisecond, 150*time.Millisecond),
			Completion: latency(t, n, 10*time.Millisecond, 150*time.Millisecond),
			Usage:      &loadtest.Usage{CPU: time.Duration(n) * 16 * time.Millisecond, PeakBytes: 40e6, Bursts: 7},
		},
		Async: loadtest.Arm{
			Mode: tandem.Async, Ledger: all, Busy: time.Duration(n) * 11 * time.Millisecond,
			Response:   latency(t, n, time.Millisecond, 3*time.Millisecond),
			Completion: latency(t, n, 12*time.Millisecond, 152*time.Millisecond),
			Usage:      &loadtest.Usage{CPU: time.Duration(n) * 18 * time.Millisecond, PeakBytes: 42e6, Bursts: 7},
		},
		Callbacks: loadtest.Callbacks{Received: n, Verified: n},
	}
}

// troubledRun is one in which little went well, measured from afar.
func troubledRun(t *testing.T) *loadtest.Result {
	r := cpuBoundRun(t, 700)
	r.Environment.CPU = ""
	r.Service.Durable = false
	r.Sync.Usage, r.Async.Usage = nil, nil
	r.Sync.Ledger = loadtest.Ledger{Planned: 700, Sent: 12, Unsent: 688, Rejected: 10, Errored: 1, TimedOut: 1}
	r.Sync.Errors = map[string]int{loadtest.CategoryServer: 10, loadtest.CategoryConnect: 1, loadtest.CategoryTimeout: 1}
	r.Sync.Response, r.Sync.Completion = latency(t, 0, 0, 0), latency(t, 0, 0, 0)
	r.Async.Ledger = loadtest.Ledger{Planned: 700, Sent: 700, Accepted: 700, Completed: 690, Failed: 3, Missing: 7}
	r.Async.Errors = map[string]int{loadtest.CategoryMissing: 7, loadtest.CategoryWork: 3, loadtest.CategoryBadSignature: 2}
	r.Async.Completion = latency(t, 690, 900*time.Microsecond, 2*time.Second)
	r.Callbacks = loadtest.Callbacks{Received: 700, Verified: 693, Duplicates: 4, Refused: 2, Unknown: 1, OfUnacknowledged: 1}
	return r
}

func TestTextIsGolden(t *testing.T) {
	for name, r := range map[string]*loadtest.Result{
		"few_requests":  cpuBoundRun(t, 100),
		"many_requests": cpuBoundRun(t, 1000),
		"troubled":      troubledRun(t),
	} {
		t.Run(name, func(t *testing.T) {
			var got strings.Builder
			if err := Text(&got, r); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s\n(go test ./internal/report -update writes it anew)", got.String(), want)
			}
			for i, line := range strings.Split(got.String(), "\n") {
				if len([]rune(line)) > 100 {
					t.Errorf("line %d is over 100 columns: %s", i+1, line)
				}
			}
		})
	}
}

func TestInsightsFollowTheNumbers(t *testing.T) {
	ms := time.Millisecond
	for _, row := range []struct {
		name string
		edit func(*loadtest.Result)
		want string // in an insight
	}{
		{"async answers sooner", func(r *loadtest.Result) {}, "Async answered 40 times sooner"},
		{"async answers later", func(r *loadtest.Result) { r.Async.Response = latency(t, 100, 80*ms, 320*ms) }, "Sync is the better choice"},
		{"async answers alike", func(r *loadtest.Result) { r.Async.Response = r.Sync.Response }, "Async answered no sooner"},
		{"CPU-bound work completes alike", func(r *loadtest.Result) {}, "The work is CPU-bound: async completed no sooner and no later"},
		{"CPU-bound work completes later", func(r *loadtest.Result) { r.Async.Completion = latency(t, 100, 20*ms, 220*ms) },
			"The work is CPU-bound: async completed no sooner, but 50 % later"},
		{"waiting work is told from CPU-bound work", func(r *loadtest.Result) { r.Sync.Usage.CPU, r.Async.Usage.CPU = 300*ms, 300*ms }, "The work is not CPU-bound: async"},
		{"half of all cores is CPU-bound", func(r *loadtest.Result) {
			r.Sync.Usage.CPU, r.Async.Usage.CPU = r.Sync.Busy, r.Async.Busy
		}, "The work is CPU-bound: async"},
		{"without usage nothing is said of the CPU", func(r *loadtest.Result) { r.Sync.Usage = nil }, "Async completed no sooner and no later."},
		{"async completes sooner", func(r *loadtest.Result) { r.Async.Completion = latency(t, 100, 4*ms, 76*ms) }, "look for what differed"},
		{"async completes fewer per second", func(r *loadtest.Result) {}, "Async completed 9 % less per second"},
		{"async completes as many", func(r *loadtest.Result) { r.Async.Busy = r.Sync.Busy }, "Both completed as much per second"},
		{"async completes more", func(r *loadtest.Result) { r.Async.Busy = r.Sync.Busy / 2 }, "Async completed 100 % more per second"},
		{"async answers are steadier", func(r *loadtest.Result) {}, "The 202 is the steadier answer"},
		{"sync answers are steadier", func(r *loadtest.Result) { r.Sync.Response = latency(t, 100, 80*ms, 81*ms) }, "The sync answer was the steadier one"},
		{"async costs more CPU", func(r *loadtest.Result) {}, "An async request cost the service 2.00 ms more"},
		{"all callbacks came", func(r *loadtest.Result) {}, "every signature verified"},
		{"some callbacks did not", func(r *loadtest.Result) { r.Async.Ledger.Missing, r.Async.Ledger.Completed = 3, 97 }, "3 accepted requests were never called back"},
		{"not durable", func(r *loadtest.Result) { r.Service.Durable = false }, "would not have survived a restart"},
		{"refusals", func(r *loadtest.Result) {
			r.Sync.Ledger.Accepted, r.Sync.Ledger.Completed, r.Sync.Ledger.Rejected = 93, 93, 7
		}, "7 of 100 sync requests did not succeed"},
		{"nothing completed", func(r *loadtest.Result) { r.Sync.Ledger.Completed = 0 }, "No sync request was completed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := cpuBoundRun(t, 100)
			row.edit(r)
			var all []string
			for _, i := range Insights(r) {
				all = append(all, i.Text)
				if i.Because == "" {
					t.Errorf("%q has no figures behind it", i.Text)
				}
			}
			if text := strings.Join(all, "\n"); !strings.Contains(text, row.want) {
				t.Errorf("insights are\n%s\nwant %q among them", text, row.want)
			}
		})
	}
}

func TestInsightsSayNothingWithoutFigures(t *testing.T) {
	r := cpuBoundRun(t, 10) // too few for a median
	for _, i := range Insights(r) {
		if strings.Contains(i.Because, "median") {
			t.Errorf("drawn from a median of ten: %+v", i)
		}
	}
	r = cpuBoundRun(t, 100)
	r.Async.Usage.CPU = 190 * time.Millisecond
	for _, i := range Insights(r) {
		if strings.Contains(i.Because, "processor time of the service per") {
			t.Errorf("drawn from too little processor time: %+v", i)
		}
	}
}

func TestDurationsHaveThreeDigits(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"1.00 us": time.Microsecond,
		"999 us":  999 * time.Microsecond,
		"1.00 ms": time.Millisecond,
		"9.99 ms": 9990 * time.Microsecond,
		"10.0 ms": 9996 * time.Microsecond,
		"99.9 ms": 99940 * time.Microsecond,
		"100 ms":  99960 * time.Microsecond,
		"1.50 s":  1500 * time.Millisecond,
	} {
		if got := duration(d); got != want {
			t.Errorf("%v is written %q, want %q", d, got, want)
		}
	}
}
