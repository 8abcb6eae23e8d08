package report

import (
	"strings"
	"testing"
	"time"

	"tandem/internal/loadtest"
)

func TestInsightsFollowTheNumbers(t *testing.T) {
	closed := func(t testing.TB) *loadtest.File { return cpuBoundRun(t, 100) }
	for _, row := range []struct {
		name string
		of   func(testing.TB) *loadtest.File
		edit func(*loadtest.Result)
		want string // in an insight
	}{
		{"async answers sooner", closed, func(r *loadtest.Result) {}, "Async answered 40 times sooner"},
		{"async answers later", closed, func(r *loadtest.Result) { r.Async.Response = latency(t, 100, 80*ms, 320*ms) }, "Sync is the better choice"},
		{"async answers alike", closed, func(r *loadtest.Result) { r.Async.Response = r.Sync.Response }, "Async answered no sooner"},
		{"CPU-bound work completes alike", closed, func(r *loadtest.Result) {},
			"The work is CPU-bound: async accepted 40 times sooner and completed no sooner and no later. Choose async for responsiveness, not for throughput."},
		{"CPU-bound work completes later", closed, func(r *loadtest.Result) { r.Async.Completion = latency(t, 100, 20*ms, 220*ms) },
			"The work is CPU-bound: async accepted 40 times sooner and completed no sooner, but 50 % later"},
		{"waiting work is told from CPU-bound work", closed, func(r *loadtest.Result) { r.Sync.Usage.CPU, r.Async.Usage.CPU = 300*ms, 300*ms }, "The CPUs did not bound this work, unless others used them: async"},
		{"half of all CPUs is CPU-bound", closed, func(r *loadtest.Result) { r.Sync.Usage.CPU, r.Async.Usage.CPU = r.Sync.Usage.Over, r.Async.Usage.Over }, "The work is CPU-bound: async"},
		{"just below half is not", closed, func(r *loadtest.Result) {
			r.Sync.Usage.CPU, r.Async.Usage.CPU = r.Sync.Usage.Over-20*ms, r.Async.Usage.Over
		}, "The CPUs did not bound this work, unless others used them: async"},
		{"without usage nothing is said of the CPU", closed, func(r *loadtest.Result) { r.Sync.Usage = nil }, "Async accepted 40 times sooner and completed no sooner and no later."},
		{"async completes sooner", closed, func(r *loadtest.Result) { r.Async.Completion = latency(t, 100, 4*ms, 76*ms) }, "look for what differed"},
		{"async completes fewer per second", closed, func(r *loadtest.Result) {}, "Async completed 9 % less per second"},
		{"async completes as many", closed, func(r *loadtest.Result) { r.Async.Window = r.Sync.Window }, "Both completed as much per second"},
		{"async completes more", closed, func(r *loadtest.Result) { r.Async.Window = r.Sync.Window / 2 }, "Async completed 100 % more per second"},
		{"async answers are steadier", closed, func(r *loadtest.Result) {}, "The 202 is the steadier answer"},
		{"sync answers are steadier", closed, func(r *loadtest.Result) { r.Sync.Response = latency(t, 100, 80*ms, 81*ms) }, "The sync answer was the steadier one"},
		{"async costs more CPU", closed, func(r *loadtest.Result) {}, "An async request cost the service 2.00 ms more"},
		{"all callbacks came", closed, func(r *loadtest.Result) {}, "every one of these signatures verified"},
		{"some callbacks did not", closed, func(r *loadtest.Result) { r.Async.Ledger.Missing, r.Async.Ledger.Completed = 3, 97 }, "Of 3 accepted requests the outcome never came"},
		{"none of the callbacks is believed", closed, func(r *loadtest.Result) {
			r.Async.Ledger.Missing, r.Async.Ledger.Completed = 100, 0
			r.Callbacks.Verified, r.Callbacks.Forged = 0, 300
		}, "Of 100 accepted requests no callback came that can be believed. Is the secret the one that the service signs with?"},
		{"outcomes were polled", polledRun, func(r *loadtest.Result) {}, "this run says nothing about callbacks"},
		{"not durable", closed, func(r *loadtest.Result) { *r.Service.Durable = false }, "would not have survived a restart"},
		{"refusals", closed, func(r *loadtest.Result) {
			r.Sync.Ledger.Accepted, r.Sync.Ledger.Completed, r.Sync.Ledger.Rejected = 93, 93, 7
		}, "7 of 100 sync requests did not succeed"},
		{"nothing completed", closed, func(r *loadtest.Result) { r.Sync.Ledger.Completed = 0 }, "No sync request was completed"},
		{"a stall", stalledRun, func(r *loadtest.Result) {}, "The service stalled, and async requests waited to be sent. A closed-loop tool would have waited with them and hidden it."},
		{"a stall that the generator may have made", stalledRun, func(r *loadtest.Result) { r.Generator.Lag = latency(t, 700, ms, 5*time.Second) }, "the generator itself may be why"},
		{"a growing backlog", overloadedRun, func(r *loadtest.Result) {}, "The backlog of async requests grew"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := row.of(t)
			row.edit(f.Load)
			if all := insights(t, f); !strings.Contains(all, row.want) {
				t.Errorf("insights are\n%s\nwant %q among them", all, row.want)
			}
		})
	}
}

func TestInsightsSayNothingWithoutFigures(t *testing.T) {
	for _, row := range []struct {
		name  string
		file  *loadtest.File
		edit  func(*loadtest.Result)
		never string
	}{
		{"ten make no median", cpuBoundRun(t, 10), func(r *loadtest.Result) {}, "median"},
		{"190 ms of processor time are too few to divide", cpuBoundRun(t, 100), func(r *loadtest.Result) { r.Async.Usage.CPU = 190 * ms }, "processor time of the service per"},
		{"a void run says nothing", voidRun(t), func(r *loadtest.Result) {}, " "},
		{"a closed run cannot stall its plan", cpuBoundRun(t, 1000), func(r *loadtest.Result) { r.Sync.Uncorrected = latency(t, 1000, ms, 2*ms) }, "stalled"},
		{"a lag of 4 ms is no stall", stalledRun(t), func(r *loadtest.Result) {
			for _, arm := range []*loadtest.Arm{&r.Sync, &r.Async} {
				arm.Response, arm.Uncorrected = latency(t, 700, ms, 5*ms), latency(t, 700, 500*time.Microsecond, ms)
			}
		}, "stalled"},
		{"requests in work are no growth", overloadedRun(t), func(r *loadtest.Result) { r.Series = series(t, 60, 0, 300, steady) }, "backlog"},
		{"an arm that took no part is not missed", overloadedRun(t), func(r *loadtest.Result) {}, "No sync"},
		{"an open run has no throughput to compare", stalledRun(t), func(r *loadtest.Result) {}, "per second"},
		{"chance is not an insight of a comparison", comparison(t), func(r *loadtest.Result) {}, "less per second"},
	} {
		t.Run(row.name, func(t *testing.T) {
			row.edit(result(row.file))
			if all := insights(t, row.file); strings.Contains(all, row.never) {
				t.Errorf("insights are\n%s\nwant no %q", all, row.never)
			}
		})
	}
}

// insights are those of a file, each of which must have figures behind it.
func insights(t *testing.T, f *loadtest.File) string {
	t.Helper()
	var all []string
	for _, i := range Insights(f) {
		if i.Because == "" {
			t.Errorf("%q has no figures behind it", i.Text)
		}
		all = append(all, i.Text+" ("+i.Because+")")
	}
	return strings.Join(all, "\n")
}

func TestOneModeHasNoOther(t *testing.T) {
	var b strings.Builder
	if err := Text(&b, overloadedRun(t)); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(strings.ToLower(b.String()), "async", "")
	text = strings.ReplaceAll(text, "0 % sync", "")
	if strings.Contains(text, "sync") {
		t.Errorf("an async run speaks of sync:\n%s", text)
	}
}

func TestVoidIsEverywhere(t *testing.T) {
	var b strings.Builder
	if err := Text(&b, voidRun(t)); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(b.String(), "VOID: THESE FIGURES DO NOT COUNT\n- The generator did not send") {
		t.Error("the reasons do not come first")
	}
	for _, want := range []string{"VOID Sync and async", "sync VOID", "async VOID", "VOID Response", "VOID Completion", "VOID Throughput",
		"VOID Delivery", "VOID Account", "VOID Load generator", "VOID Objectives", "nothing is concluded"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing", want)
		}
	}
}

func TestAnAATestThatFindsADifferenceSaysSo(t *testing.T) {
	f := aaTest(t)
	if got := compared(f)[0]; got != "sync against sync: no difference found." {
		t.Errorf("got %q", got)
	}
	f.Compare.Metrics[4].Verdict = loadtest.Slower
	if got := compared(f)[0]; !strings.Contains(got, "a difference was found where there is none, in completion.p95") {
		t.Errorf("got %q", got)
	}
}

func TestFiguresAreWrittenInFewDigits(t *testing.T) {
	for want, got := range map[string]string{
		"1.00 us": duration(time.Microsecond), "999 us": duration(999 * time.Microsecond), "1.00 ms": duration(ms),
		"9.99 ms": duration(9990 * time.Microsecond), "10.0 ms": duration(9996 * time.Microsecond), "100 ms": duration(99960 * time.Microsecond),
		"1.50 s": duration(1500 * ms), "99.99 %": percent(999_999, 1_000_000), "0.01 %": percent(1, 1_000_000), "100 %": percent(5, 5),
		"0 %": percent(0, 5), "97.5 %": percent(39, 40), notMeasured: percent(0, 0), "0.33 ms²": square(578 * time.Microsecond), "1.00 us²": square(time.Microsecond),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
