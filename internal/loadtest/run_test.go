package loadtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tandem/webhook"
)

func spec(requests int) Spec {
	return Spec{Requests: requests, Concurrency: 4, SyncRatio: 0.5, Workload: "compute", Complexity: 1}
}

func TestRunAccountsForEveryRequest(t *testing.T) {
	var last Progress
	f := newFaulty(t)
	opts := f.options()
	opts.calibration = nil
	opts.Progress = func(p Progress) { last = p }
	result, err := Run(t.Context(), spec(41), opts)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Ledger{Planned: 21, Sent: 21, Accepted: 21, Completed: 21}); result.Sync.Ledger != want {
		t.Errorf("sync ledger is %+v, want %+v", result.Sync.Ledger, want)
	}
	if want := (Ledger{Planned: 20, Sent: 20, Accepted: 20, Completed: 20}); result.Async.Ledger != want {
		t.Errorf("async ledger is %+v, want %+v", result.Async.Ledger, want)
	}
	if c := result.Callbacks; c.Received != 20 || c.Verified != 20 || c.Duplicates+c.Refused()+c.Unknown+c.OfUnacknowledged+len(c.MissingIDs) != 0 {
		t.Errorf("callbacks are %+v, want 20 received and verified", c)
	}
	if c := result.Callbacks; c.Verification.N() != 20 || c.Lag.N()+c.Early != 20 {
		t.Errorf("%d verification times, %d lags and %d early ones, want 20 callbacks", c.Verification.N(), c.Lag.N(), c.Early)
	}
	if err := result.Complete(); err != nil {
		t.Errorf("Complete: %v", err)
	}
	if result.Sync.Usage != nil || result.Async.Usage != nil {
		t.Error("usage is reported, though nobody could measure it")
	}
	if s := result.Service; s.URL != f.url || s.Name != "Tandem" || s.Version != "1.2.3" || s.Backend != "fake" || s.Durable == nil || !*s.Durable || !s.Local || !s.Verified {
		t.Errorf("service is %+v", s)
	}
	for _, n := range []int{result.Sync.Response.N(), result.Sync.Completion.N(), result.Sync.Uncorrected.N()} {
		if n != 21 {
			t.Errorf("a sync distribution has %d latencies, want 21", n)
		}
	}
	for _, n := range []int{result.Async.Response.N(), result.Async.Completion.N()} {
		if n != 20 {
			t.Errorf("an async distribution has %d latencies, want 20", n)
		}
	}
	if p := last; p.Planned != 41 || p.Sync.Completed != 21 || p.Async.Completed != 20 || p.InFlight+p.Backlog != 0 || !p.Done {
		t.Errorf("last progress is %+v", p)
	}
	sent, completed := 0, 0
	for _, second := range result.Series {
		sent += second.Sync.Sent + second.Async.Sent
		completed += second.Sync.Completed + second.Async.Completed
	}
	if sent != 41 || completed != 41 {
		t.Errorf("the series has %d sent and %d completed, want 41", sent, completed)
	}
	if g := result.Generator; g.Ceiling < 100 || g.NoiseFloor.N() < 100 || g.Lag.N() != 41 {
		t.Errorf("the generator is %+v, want it calibrated, with 41 lags", g)
	}
}

func TestExactlyTheDroppedCallbacksAreMissing(t *testing.T) {
	t.Parallel() // it mostly waits for what does not come
	f := newFaulty(t)
	f.call = func(seq int, send func(func(*http.Request))) {
		if seq%100 != 7 { // one percent is dropped
			send(nil)
		}
	}
	s := spec(1000)
	s.Concurrency = 50
	result := f.run(s)
	want := []string{"req_a7", "req_a107", "req_a207", "req_a307", "req_a407"}
	if !slices.Equal(result.Callbacks.MissingIDs, want) {
		t.Errorf("missing are %v, want %v", result.Callbacks.MissingIDs, want)
	}
	if got := result.Async.Ledger; got.Missing != len(want) || got.Completed != 500-len(want) {
		t.Errorf("async ledger is %+v, want %d missing", got, len(want))
	}
	if err := result.Complete(); err == nil || !strings.Contains(err.Error(), "no verified callback") {
		t.Errorf("Complete() = %v, want it to say that callbacks are missing", err)
	}
	if n := result.Async.Completion.N(); n != 500-len(want) {
		t.Errorf("%d completion latencies, want %d: a missing callback has none", n, 500-len(want))
	}
}

func TestOnlyGoodCallbacksCount(t *testing.T) {
	t.Parallel() // it mostly waits for what does not come
	for name, row := range map[string]struct {
		edit func(f *faulty, r *http.Request)
		of   func(Callbacks) int
	}{
		"forged": {func(_ *faulty, r *http.Request) {
			r.Header.Set(webhook.HeaderSignature, "v1,"+strings.Repeat("A", 43)+"=")
		}, func(c Callbacks) int { return c.Forged }},
		"unsigned": {func(_ *faulty, r *http.Request) { r.Header.Del(webhook.HeaderSignature) },
			func(c Callbacks) int { return c.Forged }},
		"replayed later": {func(f *faulty, r *http.Request) { sign(r, time.Now().Add(-time.Hour), f.secret) },
			func(c Callbacks) int { return c.Late }},
		"dated ahead": {func(f *faulty, r *http.Request) { sign(r, time.Now().Add(time.Hour), f.secret) },
			func(c Callbacks) int { return c.Late }},
		"late and forged": {func(_ *faulty, r *http.Request) { sign(r, time.Now().Add(-time.Hour), webhook.NewSecret()) },
			func(c Callbacks) int { return c.Forged }},
		"signed and meaningless": {func(f *faulty, r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(`{}`)), 2
			sign(r, time.Now(), f.secret)
		}, func(c Callbacks) int { return c.Malformed }},
	} {
		t.Run(name+" ones are refused and missing", func(t *testing.T) {
			t.Parallel()
			f := newFaulty(t)
			f.call = func(_ int, send func(func(*http.Request))) { send(func(r *http.Request) { row.edit(f, r) }) }
			result := f.run(spec(8))
			if got := result.Callbacks; row.of(got) != 4 || got.Refused() != 4 || got.Verified != 0 || got.Received != 4 {
				t.Errorf("callbacks are %+v, want 4 refused", got)
			}
			if got := result.Async.Ledger; got.Missing != 4 || got.Completed != 0 {
				t.Errorf("async ledger is %+v, want 4 missing", got)
			}
			if result.Async.Errors[CategoryBadSignature] != 4 {
				t.Errorf("errors are %v, want 4 bad signatures", result.Async.Errors)
			}
		})
	}
	t.Run("repeated ones count once", func(t *testing.T) {
		t.Parallel()
		f := newFaulty(t)
		f.call = func(_ int, send func(func(*http.Request))) { send(nil); send(nil); send(nil) }
		result, err := Run(t.Context(), spec(8), f.options())
		if err != nil {
			t.Fatal(err)
		}
		if got := result.Callbacks; got.Verified != 4 || got.Duplicates > 8 || got.Received != got.Verified+got.Duplicates {
			t.Errorf("callbacks are %+v, want 4 verified and the rest duplicates", got)
		}
		if got := result.Async.Ledger.Completed; got != 4 {
			t.Errorf("%d completed, want 4", got)
		}
	})
	t.Run("those for other runs and requests are unknown", func(t *testing.T) {
		t.Parallel()
		f := newFaulty(t)
		f.call = func(_ int, send func(func(*http.Request))) {
			for _, path := range []string{"/cb/other/0", "/cb/x/y/z", "/"} {
				send(func(r *http.Request) { r.URL.Path = path })
			}
			send(func(r *http.Request) { r.URL.Path = r.URL.Path[:strings.LastIndexByte(r.URL.Path, '/')] + "/8" })
			send(func(r *http.Request) { r.URL.Path = r.URL.Path[:strings.LastIndexByte(r.URL.Path, '/')] + "/-1" })
			send(nil)
		}
		result := f.run(spec(8))
		if got := result.Callbacks; got.Unknown != 20 || got.Verified != 4 {
			t.Errorf("callbacks are %+v, want 20 unknown and 4 verified", got)
		}
	})
	t.Run("one that names another request is no answer to this one", func(t *testing.T) {
		t.Parallel()
		f := newFaulty(t)
		f.call = func(_ int, send func(func(*http.Request))) {
			send(func(r *http.Request) {
				body := []byte(`{"type":"request.completed","request_id":"req_other"}`)
				r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
				webhook.Sign(r.Header, "req_other", time.Now(), body, f.secret)
			})
		}
		result := f.run(spec(8))
		if got := result.Async.Ledger; got.Missing != 4 {
			t.Errorf("async ledger is %+v, want 4 missing", got)
		}
		if got := result.Callbacks; got.Malformed != 4 || got.Verified != 0 {
			t.Errorf("callbacks are %+v, want 4 malformed", got)
		}
	})
}

// sign signs a message anew, at another time or with another secret.
func sign(r *http.Request, at time.Time, secret webhook.Secret) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	webhook.Sign(r.Header, "msg_1", at, body, secret)
}

func TestAnswersAreSorted(t *testing.T) {
	say := func(status int, body string) func(string, int, http.ResponseWriter) bool {
		return func(_ string, _ int, w http.ResponseWriter) bool {
			w.WriteHeader(status)
			io.WriteString(w, body)
			return true
		}
	}
	for _, row := range []struct {
		name        string
		answer      func(string, int, http.ResponseWriter) bool
		sync, async Ledger // beside Planned and Sent
		category    string // of the sync one
		warning     string // of the sync one, from its status on
	}{
		{"429 is a refusal of its own", say(429, `{}`), Ledger{Rejected: 1}, Ledger{Rejected: 1}, CategoryRateLimited, ""},
		{"422 is the client's", say(422, `{"detail":"data: is\n too <b>large</b>"}`), Ledger{Rejected: 1}, Ledger{Rejected: 1}, CategoryClient, `422: "data: is too <b>large</b>".`},
		{"503 is the service's", say(503, `{"error_code":"busy"}`), Ledger{Rejected: 1}, Ledger{Rejected: 1}, CategoryServer, `503: "{"error_code":"busy"}".`},
		{"a problem with a request id is work that failed", say(500, `{"request_id":"req_1"}`), Ledger{Accepted: 1, Failed: 1}, Ledger{Rejected: 1}, CategoryWork, ""},
		{"200 without a result is no answer", say(200, `{"request_id":"req_1"}`), Ledger{Errored: 1}, Ledger{Errored: 1}, CategoryBadAnswer, `200: "{"request_id":"req_1"}".`},
		{"202 without an id is no answer", say(202, ``), Ledger{Errored: 1}, Ledger{Errored: 1}, CategoryBadAnswer, "202, and no reason."},
		{"text is no answer", say(200, strings.Repeat("\x1b[31mé", 300)), Ledger{Errored: 1}, Ledger{Errored: 1}, CategoryBadAnswer, `200: "` + strings.Repeat("[31mé ", 33) + `[3...".`},
		{"a redirect is no answer", say(302, `{}`), Ledger{Errored: 1}, Ledger{Errored: 1}, CategoryBadAnswer, `302: "{}".`},
		{"a broken connection is an error", func(string, int, http.ResponseWriter) bool { panic(http.ErrAbortHandler) },
			Ledger{Errored: 1}, Ledger{Errored: 1}, CategoryConnect, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFaulty(t)
			f.answer = row.answer
			result := f.run(spec(2))
			row.sync.Planned, row.sync.Sent, row.async.Planned, row.async.Sent = 1, 1, 1, 1
			if result.Sync.Ledger != row.sync {
				t.Errorf("sync ledger is %+v, want %+v", result.Sync.Ledger, row.sync)
			}
			if result.Async.Ledger != row.async {
				t.Errorf("async ledger is %+v, want %+v", result.Async.Ledger, row.async)
			}
			if want := map[string]int{row.category: 1}; !reflect.DeepEqual(result.Sync.Errors, want) {
				t.Errorf("sync errors are %v, want %v", result.Sync.Errors, want)
			}
			const first = "The first sync request that was not taken was answered with "
			told := ""
			for _, w := range result.Warnings {
				if rest, ok := strings.CutPrefix(w, first); ok {
					told = rest
				}
			}
			if told != row.warning {
				t.Errorf("the warnings tell of %q, want %q: %q", told, row.warning, result.Warnings)
			}
			if n := result.Sync.Response.N() + result.Async.Response.N(); n != 0 {
				t.Errorf("%d response latencies of requests that did not succeed", n)
			}
		})
	}
}

func TestAPostWithoutAnswerInTimeIsTimedOutAndItsCallbackCountedApart(t *testing.T) {
	f := newFaulty(t)
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			CallbackURL string `json:"callback_url"`
		}
		if r.Method == http.MethodGet {
			io.WriteString(w, `{"backend":"fake"}`)
			return
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		if body.CallbackURL != "" {
			f.send(body.CallbackURL, "req_1", webhook.RequestCompleted, nil) // before the 202, which never comes
		}
		<-release
	}))
	defer server.Close()
	defer close(release)
	opts := f.options()
	opts.URL, opts.Timeout = server.URL, 100*time.Millisecond
	result, err := Run(t.Context(), spec(2), opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, arm := range []Arm{result.Sync, result.Async} {
		if want := (Ledger{Planned: 1, Sent: 1, TimedOut: 1}); arm.Ledger != want {
			t.Errorf("%s ledger is %+v, want %+v", arm.Mode, arm.Ledger, want)
		}
	}
	if got := result.Callbacks; got.Verified != 1 || got.OfUnacknowledged != 1 {
		t.Errorf("callbacks are %+v, want one, of a post that got no answer", got)
	}
}

func TestAFailedWorkIsFailedNotMissing(t *testing.T) {
	f := newFaulty(t)
	f.call = func(_ int, send func(func(*http.Request))) {
		send(func(r *http.Request) {
			var event webhook.Event
			if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
				t.Error(err)
			}
			event.Type = webhook.RequestFailed
			body, err := json.Marshal(event)
			if err != nil {
				t.Error(err)
			}
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			webhook.Sign(r.Header, event.RequestID, time.Now(), body, f.secret)
		})
	}
	result := f.run(spec(8))
	if want := (Ledger{Planned: 4, Sent: 4, Accepted: 4, Failed: 4}); result.Async.Ledger != want {
		t.Errorf("async ledger is %+v, want %+v", result.Async.Ledger, want)
	}
	if err := result.Complete(); err != nil {
		t.Errorf("Complete: %v", err)
	}
}

func TestARunThatIsEndedEarlyCountsTheRestAsUnsent(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := newFaulty(t)
	f.answer = func(mode string, n int, w http.ResponseWriter) bool {
		if n == 3 && mode == "sync" {
			cancel()
		}
		return false
	}
	result, err := Run(ctx, spec(400), f.options())
	if err != nil {
		t.Fatal(err)
	}
	unsent := 0
	for _, arm := range []Arm{result.Sync, result.Async} {
		if err := arm.Ledger.Balance(); err != nil {
			t.Errorf("%s: %v", arm.Mode, err)
		}
		unsent += arm.Ledger.Unsent
	}
	if unsent < 380 {
		t.Errorf("%d unsent, want almost all of 400", unsent)
	}
	if len(result.Void) == 0 {
		t.Error("an interrupted run is not void")
	}
}

// A request that takes longer than its caller's patience is outstanding beside
// the next one, so the model is no longer closed; and what is completed after the
// last block is no throughput of any block.
func TestAClosedRunWhoseCallersGiveUpIsVoid(t *testing.T) {
	t.Parallel() // it mostly waits
	for range 5 {
		f := newFaulty(t)
		f.call = func(_ int, send func(func(*http.Request))) {
			time.Sleep(1500 * time.Millisecond) // after the caller has given up, and before the run does
			send(nil)
		}
		s := spec(1)
		s.SyncRatio = 0
		opts := f.options()
		opts.Drain = time.Second
		result, err := Run(t.Context(), s, opts)
		if err != nil {
			t.Fatal(err)
		}
		a := result.Async
		if a.Ledger.Completed == 0 || a.Window < opts.Drain {
			t.Logf("the machine was too slow to see it: %+v over %v", a.Ledger, a.Window)
			continue
		}
		if len(result.Void) != 1 || !strings.Contains(result.Void[0], "after 1s and went on: 1.") || !strings.Contains(result.Void[0], "--drain") {
			t.Errorf("void as %q, want that a request was under way still", result.Void)
		}
		if !slices.ContainsFunc(result.Warnings, func(w string) bool {
			return strings.HasSuffix(w, "1s (--drain) after they were accepted: 1.")
		}) {
			t.Errorf("the warnings are %q, want that a caller gave up", result.Warnings)
		}
		if a.WindowCompleted != 0 || a.WindowAccepted != 1 {
			t.Errorf("%d accepted and %d completed within the blocks, want 1 and none", a.WindowAccepted, a.WindowCompleted)
		}
		return
	}
	t.Error("five runs did not show what happens")
}

// A callback may come at the very moment that a run is ended. Its request is
// complete then or missing, and never neither.
func TestARunThatIsEndedWithCallbacksOutstandingBalances(t *testing.T) {
	t.Parallel()
	f := newFaulty(t)
	for range 15 {
		ctx, cancel := context.WithCancel(t.Context())
		var called atomic.Int64
		f.call = func(_ int, send func(func(*http.Request))) {
			if called.Add(1) == 60 {
				go cancel()
			}
			send(nil)
		}
		s := spec(4000)
		s.SyncRatio, s.Concurrency = 0, 32
		result, err := Run(ctx, s, f.options())
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		f.calls.Wait()
		l, c := result.Async.Ledger, result.Callbacks
		if err := l.Balance(); err != nil {
			t.Errorf("the ledger of a run that was ended does not balance: %v", err)
		}
		if c.Verified != l.Completed+c.OfUnacknowledged {
			t.Errorf("%d callbacks are verified, %d requests completed and %d of posts without an answer", c.Verified, l.Completed, c.OfUnacknowledged)
		}
		if n := result.Async.Completion.N(); n != l.Completed {
			t.Errorf("%d completion latencies of %d completed", n, l.Completed)
		}
	}
}

func TestRunSaysWhatIsWrongBeforeItSends(t *testing.T) {
	_, err := Run(t.Context(), Spec{}, Options{})
	for _, field := range []string{"requests", "concurrency", "complexity", "workload"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("error %v does not name %s", err, field)
		}
	}
	server := httptest.NewServer(http.NotFoundHandler())
	if _, err := Run(t.Context(), spec(2), Options{URL: server.URL}); !errors.Is(err, ErrNotTandem) || !strings.Contains(err.Error(), "404") {
		t.Errorf("against something else: %v, want its 404", err)
	}
	server.Close()
	if _, err := Run(t.Context(), spec(2), Options{URL: server.URL}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("against nothing: %v, want that the service does not answer", err)
	}
}

func TestReadUsage(t *testing.T) {
	u, err := readProcess(os.Getpid())
	if runtime.GOOS != "linux" {
		if err == nil {
			t.Fatalf("usage %+v on %s, where it cannot be read", u, runtime.GOOS)
		}
		return
	}
	if err != nil || u.PeakBytes < 1<<20 || u.PeakBytes > 1<<36 || u.CPU < 0 || u.CPU > time.Hour {
		t.Errorf("readProcess = %+v, %v; want the use of this process", u, err)
	}
	if _, err := readProcess(1 << 30); err == nil {
		t.Error("no error for a process that does not exist")
	}
}

// Memory that is taken and given back while a run goes on is seen.
func TestASpikeOfMemoryIsSeen(t *testing.T) {
	resident := func() int64 {
		u := self().read()
		if u == nil {
			t.Skip("this system does not say how much memory is in use")
		}
		return u.PeakBytes
	}
	f := newFaulty(t)
	opts := f.options()
	const size = 128 << 20
	var spike []byte
	var high, low int64
	reports := 0
	opts.Progress = func(p Progress) { // on the way from one look at the memory to the next
		switch reports++; reports {
		case 1:
			spike = bytes.Repeat([]byte{1}, size)
			high = resident()
		case 2:
			runtime.KeepAlive(spike)
			spike = nil
			debug.FreeOSMemory()
			low = resident()
		}
	}
	result, err := Run(t.Context(), open200(time.Second), opts)
	if err != nil {
		t.Fatal(err)
	}
	if reports < 3 || high-low < size/2 {
		t.Skipf("the spike from %d to %d bytes in %d reports is not one", low, high, reports)
	}
	if u := result.Generator.Usage; u == nil || u.PeakBytes < high-size/4 {
		t.Errorf("the generator's use is %+v, want at least the %d bytes that were in use for a while", u, high)
	}
}

func TestResultSurvivesItsFile(t *testing.T) {
	f := newFaulty(t)
	result := f.run(spec(40))
	text, err := json.Marshal(result)
	if err != nil {
		t.Fatal(err)
	}
	var read Result
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(&read)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, again) {
		t.Errorf("written\n%s\nread and written again\n%s", text, again)
	}
	want, _ := result.Async.Completion.Percentile(0.5)
	if got, ok := read.Async.Completion.Percentile(0.5); !ok || got != want {
		t.Errorf("the median read is %v, want %v", got, want)
	}
}
