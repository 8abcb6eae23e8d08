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

var environment = loadtest.Environment{OS: "linux", Kernel: "Linux 6.1", Arch: "amd64", CPU: "Test CPU", CPUs: 2, Go: "go1.26"}

// load is a file of a run.
func load(r *loadtest.Result) *loadtest.File {
	return &loadtest.File{Version: loadtest.FileVersion, Tandem: "1.2.3", Environment: environment, Load: r}
}

// cpuBoundRun is a run as `tandem demo` has it: n requests each way.
func cpuBoundRun(t *testing.T, n int) *loadtest.Result {
	durable := true
	all := loadtest.Ledger{Planned: n, Sent: n, Accepted: n, Completed: n}
	arm := func(mode tandem.Mode, each, cpu time.Duration, response, completion [2]time.Duration) loadtest.Arm {
		window := time.Duration(n) * each
		return loadtest.Arm{
			Mode: mode, Ledger: all, Window: window, WindowAccepted: n, WindowCompleted: n,
			Response: latency(t, n, response[0], response[1]), Uncorrected: latency(t, n, response[0], response[1]),
			Completion: latency(t, n, completion[0], completion[1]),
			Usage:      &loadtest.Usage{CPU: time.Duration(n) * cpu, PeakBytes: 40e6, Over: window},
		}
	}
	const ms = time.Millisecond
	r := &loadtest.Result{
		Spec:    loadtest.Spec{Requests: 2 * n, Concurrency: 15, SyncRatio: 0.5, Workload: "compute", Complexity: 2},
		Started: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC),
		Service: loadtest.Service{URL: "http://127.0.0.1:8000", Name: "Tandem", Version: "1.2.3", Backend: "embedded", Durable: &durable, Local: true, Completion: "callback", Verified: true,
			Usage: &loadtest.Usage{CPU: 18 * time.Second, Over: 10 * time.Second}},
		Sync:      arm(tandem.Sync, 10*ms, 16*ms, [2]time.Duration{10 * ms, 150 * ms}, [2]time.Duration{10 * ms, 150 * ms}),
		Async:     arm(tandem.Async, 11*ms, 18*ms, [2]time.Duration{ms, 3 * ms}, [2]time.Duration{12 * ms, 152 * ms}),
		Callbacks: loadtest.Callbacks{Received: n, Verified: n, Lag: latency(t, n, 9*ms, 150*ms), Verification: latency(t, n, 10*time.Microsecond, 90*time.Microsecond)},
		Generator: loadtest.Generator{Lag: latency(t, 2*n, 20*time.Microsecond, 200*time.Microsecond), Ceiling: 61_000,
			NoiseFloor: latency(t, 2000, 25*time.Microsecond, 75*time.Microsecond), Usage: &loadtest.Usage{CPU: time.Second, Over: 10 * time.Second}},
	}
	for at := range 5 {
		counts := loadtest.Counts{Sent: n / 5, Answered: n / 5, Accepted: n / 5, Completed: n / 5, Response: latency(t, n/5, ms, 20*ms), Completion: latency(t, n/5, ms, 90*ms)}
		r.Series = append(r.Series, loadtest.Second{At: at, Span: 1, InFlight: 14, Backlog: float64(at), Sync: counts, Async: counts,
			Lag: latency(t, n/5, 20*time.Microsecond, 200*time.Microsecond), CallbackLag: latency(t, n/5, ms, 9*ms)})
	}
	return r
}

// troubledRun is one in which little went well, measured from afar.
func troubledRun(t *testing.T) *loadtest.Result {
	r := cpuBoundRun(t, 700)
	durable := false
	r.Service.Durable, r.Service.Local, r.Service.Usage = &durable, false, nil
	r.Sync.Usage, r.Async.Usage = nil, nil
	r.Sync.Ledger = loadtest.Ledger{Planned: 700, Sent: 12, Unsent: 688, Rejected: 10, Errored: 1, TimedOut: 1}
	r.Sync.WindowAccepted, r.Sync.WindowCompleted = 0, 0
	r.Sync.Errors = map[string]int{loadtest.CategoryServer: 10, loadtest.CategoryConnect: 1, loadtest.CategoryTimeout: 1}
	r.Sync.Response, r.Sync.Completion, r.Sync.Uncorrected = latency(t, 0, 0, 0), latency(t, 0, 0, 0), latency(t, 0, 0, 0)
	r.Async.Ledger = loadtest.Ledger{Planned: 700, Sent: 700, Accepted: 700, Completed: 690, Failed: 3, Missing: 7}
	r.Async.Errors = map[string]int{loadtest.CategoryMissing: 7, loadtest.CategoryWork: 3, loadtest.CategoryBadSignature: 2}
	r.Async.Completion = latency(t, 690, 900*time.Microsecond, 2*time.Second)
	r.Callbacks.Verified, r.Callbacks.Duplicates, r.Callbacks.Forged, r.Callbacks.Late = 693, 4, 1, 1
	r.Callbacks.Unknown, r.Callbacks.OfUnacknowledged, r.Callbacks.MissingIDs = 1, 1, []string{"req_1", "req_2"}
	return r
}

// stalledRun is an open run in which the service stood still for a while, void
// because the generator was late.
func stalledRun(t *testing.T) *loadtest.Result {
	r := cpuBoundRun(t, 1000)
	r.Spec = loadtest.Spec{Workload: "wait", Complexity: 1, SyncRatio: 0.5, Seed: 7, Rate: 200, RateTo: 400, Duration: 10 * time.Second, Arrivals: loadtest.Poisson}
	r.Sync.Uncorrected = latency(t, 1000, time.Millisecond, 12*time.Millisecond)
	r.Async.WindowCompleted = 700
	r.Void = []string{"the generator was late: the 99th percentile of its lag is 12ms, over 5ms"}
	r.SLOs = []loadtest.Objective{{SLO: "async.accept.p99<20ms", Outcome: loadtest.Met, Measured: "2.98ms", N: 1000}, {SLO: "sync.latency.p99.9<1s", Outcome: loadtest.NotMeasured, N: 1000}}
	r.Warnings = []string{"Little's law does not hold from second 0 to 10: 3 requests in flight, where 100/s that wait 0.1 s make 10"}
	return r
}

// polledRun is async only, polled for, of an API that signs nothing.
func polledRun(t *testing.T) *loadtest.Result {
	r := cpuBoundRun(t, 700)
	r.Spec.SyncRatio = 0
	r.Service = loadtest.Service{URL: "https://jobs.example", Name: "Jobs API", Completion: "poll"}
	r.Sync = loadtest.Arm{Mode: tandem.Sync}
	r.Callbacks = loadtest.Callbacks{}
	return r
}

// comparison is an A/B test.
func comparison(t *testing.T) *loadtest.File {
	r := cpuBoundRun(t, 1000)
	r.Spec.Pairs = 10
	return &loadtest.File{Version: loadtest.FileVersion, Tandem: "1.2.3", Environment: environment, Compare: &loadtest.Comparison{
		Pairs: 10, Run: *r, Metrics: []loadtest.Metric{
			{Name: "acceptance.p50", Unit: "s", A: 0.08, B: 0.002, Ratio: 0.025, Low: 0.02, High: 0.03, Verdict: loadtest.Faster},
			{Name: "acceptance.p99", Unit: "s", Verdict: loadtest.Unmeasured, Reason: "n too small: 400"},
			{Name: "completion.p50", Unit: "s", A: 0.08, B: 0.082, Ratio: 1.025, Low: 1.01, High: 1.04, Verdict: loadtest.Equivalent},
			{Name: "completion.p95", Unit: "s", A: 0.1, B: 0.11, Ratio: 1.1, Low: 0.9, High: 1.3, Verdict: loadtest.Inconclusive},
			{Name: "throughput", Unit: "/s", A: 100, B: 80, Ratio: 0.8, Low: 0.75, High: 0.85, Verdict: loadtest.Slower},
		},
	}}
}

// sameComparison is an A/A test in which nothing was found.
func sameComparison(t *testing.T) *loadtest.File {
	f := comparison(t)
	f.Compare.AA, f.Compare.Run.Spec.AA = true, true
	f.Compare.Run.Async.Mode = tandem.Sync
	f.Compare.Metrics = f.Compare.Metrics[2:4]
	return f
}

// found is a search.
func found(t *testing.T) *loadtest.File {
	run := cpuBoundRun(t, 700)
	stage := func(mode tandem.Mode, rate float64, passed bool) loadtest.Stage {
		s := loadtest.Stage{Mode: mode, SLO: "completion.p99<200ms", Phase: loadtest.Bracket, Rate: rate, For: 5 * time.Second, Passed: passed,
			Accepted: rate, Completed: rate, Completion: latency(t, 700, 5*time.Millisecond, 90*time.Millisecond), Growth: 0.2}
		if !passed {
			s.Broke = []string{"what waits grew by 40 a second"}
		}
		return s
	}
	return &loadtest.File{Version: loadtest.FileVersion, Tandem: "1.2.3", Environment: environment, Search: &loadtest.Search{
		SLO: "completion.p99<200ms", Service: run.Service, Started: run.Started,
		Spec: loadtest.Spec{Workload: "compute", Complexity: 1, Rate: 20, Duration: 5 * time.Second, Arrivals: loadtest.Poisson},
		Capacities: []loadtest.Capacity{
			{Mode: tandem.Sync, Passed: 330, Failed: 345, Bound: "what waits grew by 12 a second", Confirmed: true},
			{Mode: tandem.Sync, SLO: "completion.p99<200ms", Passed: 300, Failed: 310, Bound: "completion.p99<200ms: measured 230ms", Confirmed: true},
			{Mode: tandem.Async, Passed: 20_000, Bound: "the generator's limit, so it is at least this", Confirmed: false},
			{Mode: tandem.Async, SLO: "completion.p99<200ms", Failed: 0.5, Bound: "what waits grew by 40 a second"},
		},
		Stages: []loadtest.Stage{stage(tandem.Sync, 320, true), stage(tandem.Sync, 640, false), stage(tandem.Async, 300, true)},
	}}
}

func TestTextIsGolden(t *testing.T) {
	for name, f := range map[string]*loadtest.File{
		"few_requests":  load(cpuBoundRun(t, 100)),
		"many_requests": load(cpuBoundRun(t, 1000)),
		"troubled":      load(troubledRun(t)),
		"void":          load(stalledRun(t)),
		"polled":        load(polledRun(t)),
		"compare":       comparison(t),
		"aa":            sameComparison(t),
		"search":        found(t),
	} {
		t.Run(name, func(t *testing.T) {
			var got strings.Builder
			if err := Text(&got, f); err != nil {
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
			r.Sync.Usage.CPU, r.Async.Usage.CPU = r.Sync.Window, r.Async.Window
		}, "The work is CPU-bound: async"},
		{"without usage nothing is said of the CPU", func(r *loadtest.Result) { r.Sync.Usage = nil }, "Async completed no sooner and no later."},
		{"async completes sooner", func(r *loadtest.Result) { r.Async.Completion = latency(t, 100, 4*ms, 76*ms) }, "look for what differed"},
		{"async completes fewer per second", func(r *loadtest.Result) {}, "Async completed 9 % less per second"},
		{"async completes as many", func(r *loadtest.Result) { r.Async.Window = r.Sync.Window }, "Both completed as much per second"},
		{"async completes more", func(r *loadtest.Result) { r.Async.Window = r.Sync.Window / 2 }, "Async completed 100 % more per second"},
		{"async answers are steadier", func(r *loadtest.Result) {}, "The 202 is the steadier answer"},
		{"sync answers are steadier", func(r *loadtest.Result) { r.Sync.Response = latency(t, 100, 80*ms, 81*ms) }, "The sync answer was the steadier one"},
		{"async costs more CPU", func(r *loadtest.Result) {}, "An async request cost the service 2.00 ms more"},
		{"all callbacks came", func(r *loadtest.Result) {}, "every signature verified"},
		{"some callbacks did not", func(r *loadtest.Result) { r.Async.Ledger.Missing, r.Async.Ledger.Completed = 3, 97 }, "3 accepted requests had no outcome in time"},
		{"not durable", func(r *loadtest.Result) { *r.Service.Durable = false }, "would not have survived a restart"},
		{"what is not signed is not called verified", func(r *loadtest.Result) { r.Service.Verified = false }, "they are not signed"},
		{"polled", func(r *loadtest.Result) { r.Service.Completion = "poll" }, "Callbacks were not tried"},
		{"an open run accepted more than it completed", func(r *loadtest.Result) { r.Spec.Rate, r.Async.WindowCompleted = 100, 90 }, "a backlog grew"},
		{"requests sent late", func(r *loadtest.Result) {
			r.Spec.Rate, r.Sync.Response, r.Sync.Uncorrected = 100, latency(t, 700, ms, 100*ms), latency(t, 700, ms, 10*ms)
		}, "a tool that counts from the sending would have hidden it"},
		{"refusals", func(r *loadtest.Result) {
			r.Sync.Ledger.Accepted, r.Sync.Ledger.Completed, r.Sync.Ledger.Rejected = 93, 93, 7
		}, "7 of 100 sync requests did not succeed"},
		{"nothing completed", func(r *loadtest.Result) { r.Sync.Ledger.Completed = 0 }, "No sync request was completed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := cpuBoundRun(t, 100)
			row.edit(r)
			var all []string
			for _, i := range Insights(environment, r) {
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
	for _, i := range Insights(environment, r) {
		if strings.Contains(i.Because, "median") {
			t.Errorf("drawn from a median of ten: %+v", i)
		}
	}
	r = cpuBoundRun(t, 100)
	r.Async.Usage.CPU = 190 * time.Millisecond
	for _, i := range Insights(environment, r) {
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
