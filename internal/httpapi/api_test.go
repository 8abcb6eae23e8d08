package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tandem"
	"tandem/internal/callback"
	"tandem/internal/egress"
	"tandem/internal/embedded"
	"tandem/internal/engine"
	"tandem/webhook"
	"tandem/work"
)

// service is the API over a real engine and a real file.
type service struct {
	t      *testing.T
	url    string
	engine *engine.Engine
}

// newService serves compute of one round, and the kinds a test adds.
func newService(t *testing.T, opts Options, engineOpts engine.Options, kinds ...work.Kind) *service {
	t.Helper()
	metrics := prometheus.NewRegistry()
	backend, err := embedded.Open(t.Context(), filepath.Join(t.TempDir(), "requests.db"), embedded.Options{MaxPending: 1000, Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	registry, err := work.Builtin(work.Options{Rounds: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		if err := registry.Register(kind); err != nil {
			t.Fatal(err)
		}
	}
	guard, err := egress.New(egress.Options{LoopbackAnyPort: true})
	if err != nil {
		t.Fatal(err)
	}
	secret := webhook.NewSecret()
	opts.Registry, engineOpts.Metrics = metrics, metrics
	opts.Secrets = []webhook.Secret{secret}
	engineOpts.Policy = callback.Demo
	e, err := engine.New(backend, registry, guard, callback.NewSender(guard.Dial, callback.Options{}), func(string) []webhook.Secret { return opts.Secrets }, engineOpts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	server := httptest.NewServer(mustNew(t, e, opts))
	t.Cleanup(func() {
		server.Close()
		cancel()
		e.Halt()
		if err := errors.Join(<-done, backend.Close()); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return &service{t, server.URL, e}
}

// answer is an answer that was read.
type answer struct {
	*http.Response
	body []byte
}

func (s *service) do(method, path, body string, header ...string) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{response, text}
}

// get reads a good answer into a value.
func get[T any](s *service, path string) (v T) {
	s.t.Helper()
	a := s.do("GET", path, "")
	if a.StatusCode != http.StatusOK {
		s.t.Fatalf("GET %s: %s %s", path, a.Status, a.body)
	}
	if err := json.Unmarshal(a.body, &v); err != nil {
		s.t.Fatalf("GET %s: %v in %s", path, err, a.body)
	}
	return v
}

// accept posts an async request and returns its id.
func (s *service) accept(body string) string {
	s.t.Helper()
	a := s.do("POST", "/async", body)
	var accepted AsyncAnswer
	if err := json.Unmarshal(a.body, &accepted); err != nil || a.StatusCode != http.StatusAccepted {
		s.t.Fatalf("POST /async: %s %s", a.Status, a.body)
	}
	return accepted.RequestID
}

// until asks again and again until what it waits for is there.
func (s *service) until(what string, there func() bool) {
	s.t.Helper()
	for late := time.Now().Add(20 * time.Second); !there(); {
		if time.Now().After(late) {
			s.t.Fatalf("there is no %s", what)
		}
	}
}

// wantProblem checks that an answer is a whole problem document.
func (s *service) wantProblem(name string, a answer, status int, code string) Problem {
	s.t.Helper()
	var p Problem
	if a.StatusCode != status {
		s.t.Errorf("%s: answered %d, want %d: %s", name, a.StatusCode, status, a.body)
		return p
	}
	if kind, _, _ := mime.ParseMediaType(a.Header.Get("Content-Type")); kind != "application/problem+json" {
		s.t.Errorf("%s: the content type is %q", name, a.Header.Get("Content-Type"))
	}
	decoder := json.NewDecoder(bytes.NewReader(a.body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		s.t.Errorf("%s: %v in %s", name, err, a.body)
		return p
	}
	if p.Status != status || p.Title == "" && status != 499 || p.Detail == "" || p.ErrorCode != code || p.Type != problemType+code {
		s.t.Errorf("%s: the problem is %s, want status %d and code %s", name, a.body, status, code)
	}
	return p
}

const small = `{"data":{"a":1}}`

func TestSyncAnswersWithTheResult(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	a := s.do("POST", "/sync", `{"data":{"a":2,"b":3},"complexity":2}`)
	if a.StatusCode != 200 || a.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("answered %s %v %s", a.Status, a.Header, a.body)
	}
	var got map[string]any
	if err := json.Unmarshal(a.body, &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"request_id", "result", "processing_time_ms", "timestamp"} {
		if _, ok := got[key]; !ok {
			t.Errorf("the answer has no %s: %s", key, a.body)
		}
	}
	if len(got) != 4 {
		t.Errorf("the answer has more than four fields: %s", a.body)
	}
	if result := got["result"].(map[string]any); result["sum"] != 5.0 || result["product"] != 6.0 || result["operations"] != 4.0 {
		t.Errorf("the result is %v", result)
	}
	record := get[map[string]any](s, "/requests/"+got["request_id"].(string))
	if record["mode"] != "sync" || record["status"] != "completed" {
		t.Errorf("the record is %v", record)
	}
}

func TestAsyncAnswersWithWhereToLook(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	a := s.do("POST", "/async", small)
	var got AsyncAnswer
	if err := json.Unmarshal(a.body, &got); err != nil || a.StatusCode != http.StatusAccepted {
		t.Fatalf("answered %s %s", a.Status, a.body)
	}
	if !tandem.ValidID(got.RequestID) || got.Status != "accepted" || got.StatusURL != "/requests/"+got.RequestID {
		t.Errorf("the answer is %+v", got)
	}
	if a.Header.Get("Location") != got.StatusURL || a.Header.Get("Retry-After") == "" {
		t.Errorf("the headers are %v", a.Header)
	}
	if a.Header.Get("Link") != "" || bytes.Contains(a.body, []byte("$schema")) {
		t.Errorf("the answer links to a schema: %v %s", a.Header, a.body)
	}
	record := get[map[string]any](s, got.StatusURL+"?wait=30s")
	if record["status"] != "completed" {
		t.Errorf("after waiting the record is %v", record)
	}
	for _, key := range []string{
		"request_id", "mode", "status", "workload", "complexity", "input_data", "result", "processing_time_ms",
		"queue_time_ms", "callback", "created_at", "started_at", "completed_at", "error_message",
	} {
		if _, ok := record[key]; !ok {
			t.Errorf("the record has no %s", key)
		}
	}
	if attempts := get[[]any](s, got.StatusURL+"/attempts"); len(attempts) != 0 {
		t.Errorf("a request without a callback has attempts: %v", attempts)
	}
}

func TestARepetitionPromisesACallbackOnlyIfThereIsOne(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	const body = `{"data":{"a":1},"callback_url":"http://127.0.0.1:9/hook"}`
	for i, row := range []struct {
		name, first string
		status      int
		want        string
	}{
		{"its outcome was the answer", "respond-async, wait=20", http.StatusOK, "on disk; ask for the outcome at status_url"},
		{"it was promised", "respond-async", http.StatusAccepted, "on disk; the outcome will be sent to callback_url"},
	} {
		if a := s.do("POST", "/sync", body, "Prefer", row.first, "Idempotency-Key", strconv.Itoa(i)); a.StatusCode != row.status {
			t.Fatalf("%s: %s %s", row.name, a.Status, a.body)
		}
		again := s.do("POST", "/sync", body, "Prefer", "respond-async", "Idempotency-Key", strconv.Itoa(i))
		var got AsyncAnswer
		if err := json.Unmarshal(again.body, &got); err != nil || again.StatusCode != http.StatusAccepted || again.Header.Get("Idempotency-Replayed") != "true" {
			t.Fatalf("%s: %s %s", row.name, again.Status, again.body)
		}
		if got.Message != row.want {
			t.Errorf("%s: the repetition says %q, want %q", row.name, got.Message, row.want)
		}
	}
}

func TestFailedWorkIsAProblemWithTheRequestOnRecord(t *testing.T) {
	fails := func(name string, f work.Func) work.Kind { return work.Kind{Name: name, Class: work.Waits, Func: f} }
	s := newService(t, Options{}, engine.Options{WorkTimeout: 50 * time.Millisecond},
		fails("broken", func(context.Context, work.Input) (json.RawMessage, error) { return nil, errors.New("no luck") }),
		fails("panics", func(context.Context, work.Input) (json.RawMessage, error) { panic("at the disco") }),
		fails("far", func(context.Context, work.Input) (json.RawMessage, error) {
			return nil, &work.UpstreamError{Name: "far", Status: 418, Reason: "answered 418"}
		}),
		fails("slow", func(ctx context.Context, _ work.Input) (json.RawMessage, error) { <-ctx.Done(); return nil, ctx.Err() }),
		fails("huge", func(context.Context, work.Input) (json.RawMessage, error) {
			return json.RawMessage(`"` + strings.Repeat("x", tandem.MaxResult) + `"`), nil
		}),
	)
	for _, row := range []struct {
		workload string
		status   int
		code     string
	}{
		{"broken", 500, "work_failed"}, {"panics", 500, "panic"}, {"far", 502, "upstream"}, {"slow", 504, "timeout"}, {"huge", 500, "result_too_large"},
	} {
		p := s.wantProblem(row.workload, s.do("POST", "/sync", `{"data":{"a":1},"workload":"`+row.workload+`"}`), row.status, row.code)
		record := get[Record](s, "/requests/"+p.RequestID)
		if record.Status != "failed" || record.ErrorCode == nil || *record.ErrorCode != row.code || record.ErrorMessage == nil {
			t.Errorf("%s: the record is %+v", row.workload, record)
		}
	}
}

func TestPreferWaitBoundsTheWork(t *testing.T) {
	s := newService(t, Options{}, engine.Options{},
		work.Kind{Name: "endless", Class: work.Waits, Func: func(ctx context.Context, _ work.Input) (json.RawMessage, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
	a := s.do("POST", "/sync", `{"data":{"a":1},"workload":"endless"}`, "Prefer", "wait=1")
	s.wantProblem("a second", a, 504, "timeout")
	if a.Header.Get("Preference-Applied") != "wait=1" {
		t.Errorf("Preference-Applied is %q", a.Header.Get("Preference-Applied"))
	}
	for value, want := range map[string]time.Duration{
		"wait=5": 5 * time.Second, "Wait = 5": 5 * time.Second, `a, wait="7"; b`: 7 * time.Second, "wait=3600": time.Hour,
		"": 0, "wait": 0, "wait=": 0, "wait=0": 0, "wait=-1": 0, "wait=x": 0, "wait=3601": 0, "waiting=5": 0, "wait=1.5": 0,
	} {
		if got := preferences(http.Header{"Prefer": {value}}); got.wait != want || got.async {
			t.Errorf("Prefer: %s is %+v, want %v", value, got, want)
		}
	}
}

func TestWaitEndsWithTheTimeOrTheWork(t *testing.T) {
	release := make(chan struct{})
	s := newService(t, Options{}, engine.Options{},
		work.Kind{Name: "held", Class: work.Waits, Func: func(ctx context.Context, _ work.Input) (json.RawMessage, error) {
			select {
			case <-release:
			case <-ctx.Done():
			}
			return json.RawMessage(`{}`), ctx.Err()
		}})
	id := s.accept(`{"data":{"a":1},"workload":"held"}`)
	a := s.do("GET", "/requests/"+id+"?wait=50ms", "")
	if a.StatusCode != 200 || a.Header.Get("Retry-After") == "" || bytes.Contains(a.body, []byte(`"completed"`)) {
		t.Errorf("after the time: %s %v %s", a.Status, a.Header, a.body)
	}
	began := time.Now()
	worked := make(chan answer, 1)
	go func() { worked <- s.do("GET", "/requests/"+id+"?wait=30s", "") }()
	close(release)
	a = <-worked
	if a.Header.Get("Retry-After") != "" || !bytes.Contains(a.body, []byte(`"status":"completed"`)) || time.Since(began) > 10*time.Second {
		t.Errorf("after the work, and %v: %v %s", time.Since(began), a.Header, a.body)
	}
}

func TestWaitEndsAsSoonAsTheWorkDoes(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	for _, workload := range []string{"wait", "compute"} {
		id := s.accept(`{"data":{"a":1},"complexity":10,"workload":"` + workload + `"}`)
		began := time.Now()
		a := s.do("GET", "/requests/"+id+"?wait=20s", "")
		if took := time.Since(began); took > 10*time.Second || !bytes.Contains(a.body, []byte(`"status":"completed"`)) || a.Header.Get("Retry-After") != "" {
			t.Errorf("%s: after %v: %s %s", workload, took, a.Status, a.body)
		}
	}
}

func TestWaitAtItsEdges(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	id := s.accept(small)
	get[Record](s, "/requests/"+id+"?wait=20s")
	for _, wait := range []string{"", "0", "0s", "1ns", "60s", "1m", "60000ms", "59.999999999s"} {
		if a := s.do("GET", "/requests/"+id+"?wait="+wait, ""); a.StatusCode != 200 {
			t.Errorf("?wait=%s: %s %s", wait, a.Status, a.body)
		}
	}
	for _, wait := range []string{"1m0.000000001s", "61s", "-1ns", "1", "s", "30S", "1d", "99999999999h", "%20"} {
		p := s.wantProblem("?wait="+wait, s.do("GET", "/requests/"+id+"?wait="+wait, ""), 422, "invalid")
		if len(p.Errors) != 1 || p.Errors[0].Field != "wait" || !strings.Contains(p.Detail, "from 0s to 60s") {
			t.Errorf("?wait=%s: %+v", wait, p)
		}
	}
	s.wantProblem("a wait for nothing", s.do("GET", "/requests/req_"+strings.Repeat("0", 32)+"?wait=20s", ""), 404, "not_found")
}

// Waiting outlasts what the server gives other answers to be written.
func TestWaitOutlastsTheWriteTimeout(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	short := httptest.NewUnstartedServer(mustNew(t, s.engine, Options{Registry: prometheus.NewRegistry()}))
	short.Config.ReadTimeout, short.Config.WriteTimeout = 20*time.Millisecond, 20*time.Millisecond
	short.Start()
	defer short.Close()
	s = &service{t, short.URL, s.engine}
	const waits = `{"data":{"a":1},"complexity":10,"workload":"wait"}` // 100 ms
	once := []string{"Connection", "close"}                            // or the client would try again
	if a := s.do("POST", "/sync", waits, once...); a.StatusCode != 200 {
		t.Errorf("POST /sync: %s", a.Status)
	}
	where := s.do("POST", "/async", waits, once...).Header.Get("Location")
	if a := s.do("GET", where+"?wait=20s", "", once...); !bytes.Contains(a.body, []byte(`"status":"completed"`)) {
		t.Errorf("GET ?wait: %s %s", a.Status, a.body)
	}
}

func mustNew(t *testing.T, e *engine.Engine, opts Options) http.Handler {
	t.Helper()
	api, err := New(e, opts)
	if err != nil {
		t.Fatal(err)
	}
	return api
}
