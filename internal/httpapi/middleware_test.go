package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tandem/internal/engine"
	"tandem/internal/limit"
	"tandem/work"
)

// exchangeWith serves one request with a handler behind the middleware, and returns
// what the client saw and what was logged and counted.
func exchangeWith(t *testing.T, handler http.HandlerFunc) (a answer, log string, counted int, err error) {
	t.Helper()
	var lines bytes.Buffer
	metrics := prometheus.NewRegistry()
	api := &API{log: slog.New(slog.NewJSONHandler(&lines, nil)), metrics: newHTTPMetrics(metrics)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /it", handler)
	server := httptest.NewServer(api.observed(api.recovered(mux)))
	a.Response, err = http.Get(server.URL + "/it")
	if err == nil {
		a.body, err = io.ReadAll(a.Body)
		a.Body.Close()
	}
	server.Close() // now the handler has returned
	families, gatherErr := metrics.Gather()
	if gatherErr != nil {
		t.Fatal(gatherErr)
	}
	return a, lines.String(), len(families), err
}

func TestAPanicIsOurFaultAndStaysInTheLog(t *testing.T) {
	a, log, _, err := exchangeWith(t, func(http.ResponseWriter, *http.Request) { panic("the secret reason") })
	if err != nil {
		t.Fatal(err)
	}
	s := &service{t: t}
	s.wantProblem("a panic", a, 500, "internal")
	if bytes.Contains(a.body, []byte("secret")) {
		t.Errorf("the client is told %s", a.body)
	}
	for _, want := range []string{"the secret reason", "middleware_test.go", `"status":500`} {
		if !strings.Contains(log, want) {
			t.Errorf("the log has no %s: %s", want, log)
		}
	}
}

func TestAnAnswerThatBreaksOffDoesNotLookWhole(t *testing.T) {
	half := func(w http.ResponseWriter) {
		io.WriteString(w, "half of it")
		http.NewResponseController(w).Flush()
	}
	for name, handler := range map[string]http.HandlerFunc{
		"a panic in the middle":      func(w http.ResponseWriter, _ *http.Request) { half(w); panic("no more") },
		"an abort in the middle":     func(w http.ResponseWriter, _ *http.Request) { half(w); panic(http.ErrAbortHandler) },
		"an abort before the answer": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		a, log, counted, err := exchangeWith(t, handler)
		if err == nil {
			t.Errorf("%s: the client sees a whole answer: %q", name, a.body)
		}
		if counted == 0 {
			t.Errorf("%s: it is not counted", name)
		}
		if got := strings.Count(log, `"msg":"request"`); got != 1 {
			t.Errorf("%s: it is %d lines of the log: %s", name, got, log)
		}
		if panicked := strings.Contains(log, "a handler panicked"); panicked != strings.HasPrefix(name, "a panic") {
			t.Errorf("%s: the log speaks of a panic: %v", name, panicked)
		}
	}
}

func TestWhatIsRefusedForItsRateIsCountedUnderItsRoute(t *testing.T) {
	s := newService(t, Options{Rate: limit.Rate{N: 1, Window: 1500 * time.Millisecond}}, engine.Options{Paused: true})
	s.accept(small)
	for _, path := range []string{"/sync", "/async"} {
		a := s.do("POST", path, small, "X-Forwarded-For", "192.0.2.77")
		s.wantProblem(path, a, 429, "rate_limited")
		if got := a.Header.Get("RateLimit-Policy"); got != `"default";q=1;w=2` {
			t.Errorf("%s: RateLimit-Policy is %s; one in 1.5 s is no more than one in 2", path, got)
		}
	}
	text := string(s.do("GET", "/metrics", "").body)
	for _, want := range []string{
		`tandem_http_requests_total{mode="sync",route="POST /sync",status="429"} 1`,
		`tandem_http_requests_total{mode="async",route="POST /async",status="429"} 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	if strings.Contains(text, `route=""`) {
		t.Error("/metrics has requests of no route")
	}
}

func TestMalformedPostsCountAgainstTheRateAndOtherMethodsDoNot(t *testing.T) {
	s := newService(t, Options{Rate: limit.Rate{N: 2, Window: time.Minute}}, engine.Options{})
	for range 5 {
		s.wantProblem("GET /sync", s.do("GET", "/sync", ""), 405, "method_not_allowed")
		s.wantProblem("PUT /async", s.do("PUT", "/async", small), 405, "method_not_allowed")
		s.wantProblem("POST elsewhere", s.do("POST", "/requests", small), 405, "method_not_allowed")
	}
	s.wantProblem("the first", s.do("POST", "/sync", "{"), 400, "malformed_json")
	s.wantProblem("the second", s.do("POST", "/async", small, "Content-Type", "text/plain"), 415, "unsupported_media_type")
	s.wantProblem("the third", s.do("POST", "/async", "{"), 429, "rate_limited")
}

// A client that leaves is no fault of ours: what counts the 5xx does not see it.
func TestAClientThatLeavesIsNoFaultOfOurs(t *testing.T) {
	started := make(chan struct{}, 2)
	s := newService(t, Options{}, engine.Options{},
		work.Kind{Name: "endless", Class: work.Waits, Func: func(ctx context.Context, _ work.Input) (json.RawMessage, error) {
			started <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}})
	const endless = `{"data":{"a":1},"workload":"endless"}`
	id := s.accept(endless)
	<-started

	leave := func(ctx context.Context, method, path, body string) {
		r, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		if _, err := http.DefaultClient.Do(r); !errors.Is(err, ctx.Err()) || err == nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
	}
	counted := func(want string) bool { return strings.Contains(string(s.do("GET", "/metrics", "").body), want) }

	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	leave(ctx, "POST", "/sync", endless)
	one := `tandem_http_requests_total{mode="sync",route="POST /sync",status="499"} 1`
	s.until(one+" at /metrics", func() bool { return counted(one) })

	// Nothing tells when the service has begun to wait, so that some may leave
	// before and be seen by nobody.
	some := `tandem_http_requests_total{mode="",route="GET /requests/{id}",status="499"} `
	s.until(some+"at /metrics", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		leave(ctx, "GET", "/requests/"+id+"?wait=60s", "")
		return counted(some)
	})
	rows := get[[]Record](s, "/requests?mode=sync")
	if len(rows) != 1 || rows[0].Status != "failed" || rows[0].ErrorCode == nil || *rows[0].ErrorCode != "client_gone" {
		t.Errorf("the record of the one who left: %+v", rows)
	}
}
