package report

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"tandem"
	"tandem/internal/loadtest"
)

const ms = time.Millisecond

// latency is a distribution of n latencies from low to high, evenly spread.
func latency(t testing.TB, n int, low, high time.Duration) loadtest.Latency {
	return latencies(t, shaped{n, low, high, 0}, func(part float64) time.Duration { return low + time.Duration(float64(high-low)*part) })
}

// tailed is a distribution of n latencies with a tail: the part slow of them is
// spread up to high.
func tailed(t testing.TB, n int, low, high time.Duration, slow float64) loadtest.Latency {
	return latencies(t, shaped{n, low, high, slow}, func(part float64) time.Duration {
		if part < 1-slow {
			return low + time.Duration(float64(low)*part)
		}
		rest := (part - 1 + slow) / slow
		return 2*low + time.Duration(float64(high-2*low)*rest*rest)
	})
}

// shaped says what a distribution is like.
type shaped struct {
	n         int
	low, high time.Duration
	slow      float64
}

var made = map[shaped]loadtest.Latency{} // they never change; tests run one after another

func latencies(t testing.TB, s shaped, of func(part float64) time.Duration) (l loadtest.Latency) {
	t.Helper()
	if l, ok := made[s]; ok {
		return l
	}
	defer func() { made[s] = l }()
	n := s.n
	h := hdrhistogram.New(1, time.Hour.Microseconds(), 3)
	for i := range n {
		if err := h.RecordValue(of(float64(i) / float64(max(n-1, 1))).Microseconds()); err != nil {
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

func environment() loadtest.Environment {
	return loadtest.Environment{OS: "linux", Kernel: "6.1.0", Arch: "amd64", CPU: "Test CPU", CPUs: 2, Go: "go1.26"}
}

func file(r *loadtest.Result) *loadtest.File {
	return &loadtest.File{Version: 1, Tandem: "1.2.3", Environment: environment(), Load: r}
}

func started() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// cpuBound is a closed run of n requests each way.
func cpuBoundRun(t testing.TB, n int) *loadtest.File {
	all := loadtest.Ledger{Planned: n, Sent: n, Accepted: n, Completed: n}
	durable := true
	sync, async := time.Duration(n)*10*ms, time.Duration(n)*11*ms
	return file(&loadtest.Result{
		Spec:    loadtest.Spec{Workload: "compute", Complexity: 2, SyncRatio: 0.5, Seed: 1, Requests: 2 * n, Concurrency: 15},
		Started: started(), Duration: sync + async,
		Service: loadtest.Service{URL: "http://127.0.0.1:8000", Name: "Tandem", Version: "1.2.3", Backend: "embedded", Durable: &durable, Local: true, Completion: "callback", Verified: true},
		Sync: loadtest.Arm{
			Mode: tandem.Sync, Ledger: all, Window: sync, WindowAccepted: n, WindowCompleted: n,
			Response:    latency(t, n, 10*ms, 150*ms),
			Uncorrected: latency(t, n, 10*ms, 150*ms),
			Completion:  latency(t, n, 10*ms, 150*ms),
			Usage:       &loadtest.Usage{CPU: time.Duration(n) * 16 * ms, PeakBytes: 40e6, Over: sync},
		},
		Async: loadtest.Arm{
			Mode: tandem.Async, Ledger: all, Window: async, WindowAccepted: n, WindowCompleted: n,
			Response:    latency(t, n, ms, 3*ms),
			Uncorrected: latency(t, n, ms, 3*ms),
			Completion:  latency(t, n, 12*ms, 152*ms),
			Usage:       &loadtest.Usage{CPU: time.Duration(n) * 18 * ms, PeakBytes: 42e6, Over: async},
		},
		Callbacks: loadtest.Callbacks{Received: n, Verified: n, Lag: latency(t, n, 10*ms, 150*ms), Verification: latency(t, n, 20*time.Microsecond, 200*time.Microsecond)},
		Generator: loadtest.Generator{
			Lag: latency(t, 2*n, 20*time.Microsecond, 900*time.Microsecond), Ceiling: 21000,
			NoiseFloor: latency(t, 5000, 30*time.Microsecond, 400*time.Microsecond),
			Usage:      &loadtest.Usage{CPU: time.Duration(n) * 3 * ms, PeakBytes: 60e6, Over: sync + async},
		},
		Series:    series(t, int((sync+async)/time.Second), 48, 48, steady),
		LittleLaw: []loadtest.Window{{From: 0, To: 10, InFlight: 14.8, Rate: 92, Mean: 0.16, Holds: true}},
	})
}

// shape says how slow a service is at a second of so many, and its backlog.
type shape func(at, of int) (slow float64, backlog float64)

func steady(at, of int) (float64, float64) { return 1, 15 }

// stalling stands still in the middle for a tenth of the time.
func stalling(at, of int) (float64, float64) {
	if at >= of/2 && at < of/2+max(of/10, 1) {
		return 40, 300
	}
	return 1, 12
}

// overloaded falls behind all the time.
func overloaded(at, of int) (float64, float64) { return 1 + float64(at)/4, 80 * float64(at) }

// series is length seconds of so many sync and async requests each.
func series(t testing.TB, length, sync, async int, s shape) []loadtest.Second {
	random := rand.New(rand.NewPCG(1, 2))
	var all []loadtest.Second
	for at := range length {
		slow, backlog := s(at, length)
		scale := func(d time.Duration) time.Duration { return time.Duration(float64(d) * slow) }
		counts := func(n int, response, completion time.Duration) loadtest.Counts {
			if n == 0 {
				return loadtest.Counts{}
			}
			n += random.IntN(n/5 + 1)
			return loadtest.Counts{
				Sent: n, Accepted: n, Completed: int(float64(n) / (1 + (slow-1)/10)),
				Response: latency(t, n, response/3, scale(response)), Completion: latency(t, n, completion/3, scale(completion)),
			}
		}
		second := loadtest.Second{Span: 1,
			At: at, InFlight: 5 + 3*random.Float64(), Backlog: backlog * (0.9 + 0.2*random.Float64()),
			Sync: counts(sync, 120*ms, 120*ms), Async: counts(async, 3*ms, 130*ms),
		}
		if n := second.Sync.Sent + second.Async.Sent; n > 0 {
			second.Lag = latency(t, n, 20*time.Microsecond, 600*time.Microsecond)
		}
		if second.Async.Sent > 0 {
			second.CallbackLag = latency(t, second.Async.Sent, 20*ms, scale(125*ms))
		}
		all = append(all, second)
	}
	return all
}

// stalledRun is an open run of a service that stood still for some seconds.
func stalledRun(t testing.TB) *loadtest.File {
	f := cpuBoundRun(t, 6000)
	r := f.Load
	r.Spec = loadtest.Spec{Workload: "wait", Complexity: 1, SyncRatio: 0.5, Seed: 7, Rate: 200, Duration: time.Minute, Arrivals: loadtest.Poisson}
	r.Duration = 61200 * ms
	for _, arm := range []*loadtest.Arm{&r.Sync, &r.Async} {
		arm.Window, arm.Usage = time.Minute, nil
	}
	r.Sync.Response, r.Sync.Uncorrected = tailed(t, 6000, 12*ms, 6*time.Second, 0.1), tailed(t, 6000, 12*ms, 60*ms, 0.05)
	r.Async.Response, r.Async.Uncorrected = tailed(t, 6000, ms, 6*time.Second, 0.1), tailed(t, 6000, ms, 9*ms, 0.05)
	r.Sync.Completion, r.Async.Completion = r.Sync.Response, tailed(t, 6000, 15*ms, 6100*ms, 0.1)
	r.Series = series(t, 60, 100, 100, stalling)
	r.LittleLaw = []loadtest.Window{
		{From: 0, To: 10, InFlight: 2.4, Rate: 200, Mean: 0.0121, Holds: true},
		{From: 10, To: 20, InFlight: 31, Rate: 150, Mean: 0.0118},
	}
	r.SLOs = []loadtest.Objective{
		{SLO: "async.accept.p99<20ms", Outcome: loadtest.Missed, Measured: "4.86 s", N: 6000},
		{SLO: "sync.latency.p50<50ms", Outcome: loadtest.Met, Measured: "18.6 ms", N: 6000},
		{SLO: "async.completion.p99.99<9s", Outcome: loadtest.NotMeasured, N: 6000},
	}
	r.Warnings = []string{"The generator was 891us (p99) late, and that is part of the response times: it shares the processor with the service."}
	return f
}

// overloadedRun is an open run of more than the service can do, all of it async.
func overloadedRun(t testing.TB) *loadtest.File {
	f := stalledRun(t)
	r := f.Load
	r.Spec.SyncRatio, r.Spec.RateTo = 0, 400
	r.Sync = loadtest.Arm{Mode: tandem.Sync}
	r.Async.WindowCompleted = 3100
	r.Series = series(t, 60, 0, 300, overloaded)
	r.SLOs, r.LittleLaw = nil, nil
	r.Async.Response, r.Async.Uncorrected = latency(t, 6000, ms, 6*ms), latency(t, 6000, ms, 6*ms)
	r.Async.Completion = latency(t, 6000, 30*ms, 16*time.Second)
	return f
}

// voidRun is one whose generator did not keep up.
func voidRun(t testing.TB) *loadtest.File {
	f := stalledRun(t)
	f.Load.Void = []string{
		"The generator did not send 4.2% of the planned requests; 1% is allowed.",
		"The generator was late: 41ms (p99) after the planned time, and 5ms are allowed, since no objective says how exact the latencies must be.",
	}
	f.Load.Generator.Saturated = 500
	f.Load.Generator.Lag = latency(t, 12000, 20*time.Microsecond, 44*ms)
	return f
}

// troubledRun is one in which little went well, measured from afar.
func troubledRun(t testing.TB) *loadtest.File {
	f := cpuBoundRun(t, 700)
	r := f.Load
	f.Environment.CPU = ""
	durable := false
	r.Service.Durable, r.Service.Local = &durable, false
	r.Sync.Usage, r.Async.Usage, r.Generator.Usage = nil, nil, nil
	r.Sync.Ledger = loadtest.Ledger{Planned: 700, Sent: 12, Unsent: 688, Rejected: 10, Errored: 1, TimedOut: 1}
	r.Sync.Errors = map[string]int{loadtest.CategoryRateLimited: 4, loadtest.CategoryServer: 6, loadtest.CategoryConnect: 1, loadtest.CategoryTimeout: 1}
	r.Sync.Response, r.Sync.Uncorrected, r.Sync.Completion = loadtest.Latency{}, loadtest.Latency{}, loadtest.Latency{}
	r.Sync.WindowAccepted, r.Sync.WindowCompleted = 0, 0
	r.Sync.Unsuccessful = latency(t, 12, ms, 30*time.Second)
	r.Async.Ledger = loadtest.Ledger{Planned: 700, Sent: 700, Accepted: 700, Completed: 690, Failed: 3, Missing: 7}
	r.Async.Errors = map[string]int{loadtest.CategoryMissing: 7, loadtest.CategoryWork: 3, loadtest.CategoryBadSignature: 2}
	r.Async.Completion = latency(t, 690, 900*time.Microsecond, 2*time.Second)
	r.Async.WindowCompleted = 690
	r.Callbacks = loadtest.Callbacks{Received: 701, Verified: 693, Duplicates: 4, Forged: 1, Late: 1, Malformed: 1, Unknown: 1, OfUnacknowledged: 1, Early: 3, Lag: r.Callbacks.Lag}
	r.Warnings = []string{"3 callbacks were not believed: 1 forged, 1 late or replayed, 1 malformed."}
	return f
}

// polledRun is a run against another program, which is asked for outcomes.
func polledRun(t testing.TB) *loadtest.File {
	f := stalledRun(t)
	r := f.Load
	r.Service = loadtest.Service{URL: "https://jobs.example/api", Name: "Example Jobs", Completion: "poll"}
	r.Spec.Arrivals, r.Spec.Workload = loadtest.Constant, "report"
	r.Callbacks = loadtest.Callbacks{}
	r.Sync.Response = r.Sync.Uncorrected
	r.Async.Response = r.Async.Uncorrected
	r.Series = series(t, 60, 100, 100, steady)
	for i := range r.Series {
		r.Series[i].CallbackLag = loadtest.Latency{}
	}
	r.SLOs, r.LittleLaw, r.Warnings = nil, nil, nil
	return f
}

func comparison(t testing.TB) *loadtest.File {
	run := cpuBoundRun(t, 1500)
	run.Load.Spec.Pairs = 12
	metric := func(name, unit string, a, b, low, high float64, v loadtest.Verdict) loadtest.Metric {
		return loadtest.Metric{Name: name, Unit: unit, A: a, B: b, Ratio: b / a, Low: low, High: high, Verdict: v}
	}
	return &loadtest.File{Version: 1, Tandem: "1.2.3", Environment: environment(), Compare: &loadtest.Comparison{
		Pairs: 12, Run: *run.Load, Metrics: []loadtest.Metric{
			metric("acceptance.p50", "s", 0.0793, 0.00199, 0.0243, 0.0261, loadtest.Faster),
			metric("acceptance.p95", "s", 0.143, 0.0029, 0.0190, 0.0223, loadtest.Faster),
			{Name: "acceptance.p99", Unit: "s", Verdict: loadtest.Unmeasured, Reason: "too few samples: 610 of one arm"},
			metric("completion.p50", "s", 0.0793, 0.0813, 0.97, 1.08, loadtest.Inconclusive),
			metric("completion.p95", "s", 0.143, 0.145, 0.99, 1.03, loadtest.Equivalent),
			metric("completion.p99", "s", 0.149, 0.171, 1.09, 1.24, loadtest.Slower),
			metric("throughput", "/s", 100, 98.9, 0.975, 1.003, loadtest.Equivalent),
		},
	}}
}

// aaTest is a comparison of sync with itself, which found no difference.
func aaTest(t testing.TB) *loadtest.File {
	f := comparison(t)
	f.Compare.AA = true
	f.Compare.Run.Async = f.Compare.Run.Sync
	f.Compare.Run.Spec.SyncRatio = 1
	f.Compare.Run.Callbacks = loadtest.Callbacks{}
	for i := range f.Compare.Metrics {
		m := &f.Compare.Metrics[i]
		*m = loadtest.Metric{Name: m.Name, Unit: m.Unit, A: 0.08, B: 0.0804, Ratio: 1.005, Low: 0.98, High: 1.03, Verdict: loadtest.Equivalent}
		if m.Unit == "/s" {
			m.A, m.B, m.High, m.Verdict = 100, 100.5, 1.07, loadtest.Inconclusive
		}
	}
	return f
}

func search(t testing.TB) *loadtest.File {
	run := stalledRun(t).Load
	s := &loadtest.Search{SLO: "async.accept.p99<20ms", Spec: run.Spec, Service: run.Service, Started: started(), Duration: 7 * time.Minute}
	s.Spec.Duration = 10 * time.Second
	stage := func(mode tandem.Mode, slo string, phase loadtest.Phase, rate float64, broke ...string) {
		n := int(rate * 10)
		st := loadtest.Stage{Mode: mode, SLO: slo, Phase: phase, Rate: rate, For: 10 * time.Second, Passed: len(broke) == 0, Broke: broke,
			Accepted: rate, Completed: min(rate, 130), Response: latency(t, n, ms, 4*ms), Completion: latency(t, n, 12*ms, 150*ms), Growth: 0.1, Drain: 200 * ms}
		if mode == tandem.Sync {
			st.Response = st.Completion
		}
		if len(broke) > 0 {
			st.Growth, st.Drain = rate-130, 6*time.Second
			st.Completion = latency(t, n, 12*ms, 5*time.Second)
		}
		if phase == loadtest.Confirm {
			st.For *= 3
		}
		s.Stages = append(s.Stages, st)
	}
	for _, mode := range tandem.Modes {
		stage(mode, "", loadtest.Bracket, 50)
		stage(mode, "", loadtest.Bracket, 100)
		stage(mode, "", loadtest.Bracket, 200, "the backlog grew by 70/s", "the last requests took 6s after the end; 1.01s is allowed")
		stage(mode, "", loadtest.Bisect, 141, "the backlog grew by 11/s")
		stage(mode, "", loadtest.Bisect, 119)
		stage(mode, "", loadtest.Repeat, 125)
		stage(mode, "", loadtest.Confirm, 125)
	}
	stage(tandem.Async, s.SLO, loadtest.Bracket, 50)
	stage(tandem.Async, s.SLO, loadtest.Bracket, 400)
	s.Stages[len(s.Stages)-1].Passed = false
	s.Stages[len(s.Stages)-1].Void = []string{"The load of 800/s is above half of the 1500/s that the generator can send."}
	s.Capacities = []loadtest.Capacity{
		{Mode: tandem.Sync, Passed: 125, Failed: 131, Bound: "the backlog grew by 4/s", Confirmed: true},
		{Mode: tandem.Async, Passed: 125, Failed: 141, Bound: "the backlog grew by 11/s", Confirmed: true},
		{Mode: tandem.Async, SLO: s.SLO, Passed: 50, Bound: "the generator's limit, at 400/s; capacity is at least 50/s"},
	}
	return &loadtest.File{Version: 1, Tandem: "1.2.3", Environment: environment(), Search: s}
}
