package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tandem/internal/engine"
	"tandem/work"
)

func TestPagesHoldEveryRequestOnceNewestFirst(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	var want []string
	for i := range 25 {
		if i%5 == 0 {
			a := s.do("POST", "/sync", small)
			var got SyncAnswer
			if err := json.Unmarshal(a.body, &got); err != nil {
				t.Fatal(err)
			}
			want = append(want, got.RequestID)
			continue
		}
		id := s.accept(small)
		get[Record](s, "/requests/"+id+"?wait=30s")
		want = append(want, id)
	}
	slices.Reverse(want)
	link := regexp.MustCompile(`^<(/requests\?[^>]*)>; rel="next"$`)
	for _, row := range []struct {
		query string
		size  int
		keep  func(Record) bool
	}{
		{"limit=1", 1, func(Record) bool { return true }},
		{"limit=7", 7, func(Record) bool { return true }},
		{"limit=25", 25, func(Record) bool { return true }},
		{"limit=1000", 1000, func(Record) bool { return true }},
		{"limit=2&mode=sync", 2, func(r Record) bool { return r.Mode == "sync" }},
		{"limit=3&mode=async&status=completed", 3, func(r Record) bool { return r.Mode == "async" }},
		{"limit=3&status=failed", 3, func(r Record) bool { return false }},
	} {
		var got []string
		for next := "/requests?" + row.query; next != ""; {
			a := s.do("GET", next, "")
			var page []Record
			if err := json.Unmarshal(a.body, &page); err != nil || a.StatusCode != 200 {
				t.Fatalf("%s: %s %s", next, a.Status, a.body)
			}
			if len(page) > row.size {
				t.Errorf("%s: a page of %d", next, len(page))
			}
			for _, r := range page {
				if !row.keep(r) {
					t.Errorf("%s: has %+v", next, r)
				}
				got = append(got, r.RequestID)
			}
			next = ""
			if m := link.FindStringSubmatch(a.Header.Get("Link")); m != nil {
				next = m[1]
			} else if a.Header.Get("Link") != "" {
				t.Fatalf("Link is %q", a.Header.Get("Link"))
			}
		}
		var filtered []string
		for _, id := range want {
			if row.keep(get[Record](s, "/requests/"+id)) {
				filtered = append(filtered, id)
			}
		}
		if !slices.Equal(got, filtered) {
			t.Errorf("%s: the pages hold %d requests, want %d, newest first", row.query, len(got), len(filtered))
		}
	}
	if page := get[[]Record](s, "/requests?limit=3&offset=20"); len(page) != 3 || page[0].RequestID != want[20] {
		t.Errorf("an offset of 20 begins with %+v", page)
	}
	if page := get[[]Record](s, "/requests?offset=10000"); len(page) != 0 {
		t.Errorf("the largest offset has %d requests", len(page))
	}
	if page := get[[]Record](s, "/requests"); len(page) != 25 {
		t.Errorf("a page without a limit has %d requests", len(page))
	}
}

func TestStatsAgreeWithTheRows(t *testing.T) {
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer receiver.Close()
	s := newService(t, Options{}, engine.Options{},
		work.Kind{Name: "broken", Class: work.CPU, Func: func(context.Context, work.Input) (json.RawMessage, error) { return nil, errors.New("no luck") }})

	empty := get[map[string]map[string]any](s, "/stats")
	if r := empty["request_statistics"]; r["success_rate"] != nil || r["sync_avg_processing_time_ms"] != nil || r["processing_time_ms"].(map[string]any)["sync"] != nil {
		t.Errorf("figures of nothing: %v", r)
	}
	if c := empty["callback_service"]; c["delivery_rate"] != nil || c["lag_ms"] != nil {
		t.Errorf("figures of nothing: %v", c)
	}

	for range 3 {
		s.do("POST", "/sync", small)
	}
	s.do("POST", "/sync", `{"data":{"a":1},"workload":"broken"}`)
	sent := s.accept(`{"data":{"a":1},"callback_url":"` + receiver.URL + `"}`)
	for get[Record](s, "/requests/"+sent+"?wait=1s").Status != "callback_sent" {
	}
	stats := get[Stats](s, "/stats")
	r := stats.RequestStatistics
	if r.TotalRequests != 5 || r.SyncRequests != 4 || r.AsyncRequests != 1 || r.CompletedRequests != 4 || r.FailedRequests != 1 {
		t.Errorf("the counts are %+v", r)
	}
	if len(r.ByStatus) != 6 || r.ByStatus["completed"] != 3 || r.ByStatus["failed"] != 1 || r.ByStatus["callback_sent"] != 1 {
		t.Errorf("by status: %v", r.ByStatus)
	}
	if r.SuccessRate == nil || *r.SuccessRate != 0.8 {
		t.Errorf("the success rate is %v, want 0.8", r.SuccessRate)
	}
	if l := r.ProcessingTime["sync"]; l == nil || l.N != 4 {
		t.Errorf("processing time of sync requests: %+v", l)
	}
	if c := stats.CallbackService; c.Delivered != 1 || c.Failed != 0 || c.Pending != 0 || c.DeliveryRate == nil || *c.DeliveryRate != 1 || c.Lag == nil || c.Lag.N != 1 {
		t.Errorf("callbacks: %+v", c)
	}
	if stats.Errors.Work["work_failed"] != 1 {
		t.Errorf("errors: %+v", stats.Errors)
	}
	if sys := stats.System; sys.Backend != "embedded" || sys.Go == "" || sys.QueueDepth != 0 || sys.Timestamp.IsZero() {
		t.Errorf("system: %+v", sys)
	}
}

func TestMetricsHaveEveryFamily(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	s.do("POST", "/sync", small)
	get[Record](s, "/requests/"+s.accept(small)+"?wait=30s")
	text := string(s.do("GET", "/metrics", "").body)
	for _, want := range []string{
		`tandem_http_requests_total{mode="sync",route="POST /sync",status="200"} 1`,
		`tandem_http_requests_total{mode="async",route="POST /async",status="202"} 1`,
		"tandem_http_request_seconds_bucket", `tandem_processing_seconds_count{mode="sync",status="completed"} 1`, `tandem_queue_seconds_count{mode="async"} 1`,
		"tandem_queue_depth 0", "tandem_queue_age_seconds 0", "tandem_in_flight 0", "tandem_slots{lane=\"cpu\"}", "tandem_slots_busy{lane=\"io\"} 0",
		"tandem_callback_attempt_seconds_count 0", `tandem_breaker_hosts{state="open"} 0`, "tandem_commit_batch_size_count", "tandem_commit_seconds_count",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
}

func TestOpenAPIDescribesEveryRouteAndTheCallback(t *testing.T) {
	s := newService(t, Options{Demo: true, Version: "1.2.3"}, engine.Options{})
	doc := get[struct {
		OpenAPI string
		Info    struct{ Version string }
		Paths   map[string]map[string]struct {
			RequestBody any
			Responses   map[string]any
			Callbacks   map[string]map[string]map[string]any
		}
	}](s, "/openapi.json")
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || doc.Info.Version != "1.2.3" {
		t.Errorf("OpenAPI %s, version %s", doc.OpenAPI, doc.Info.Version)
	}
	for path, method := range map[string]string{
		"/sync": "post", "/async": "post", "/requests": "get", "/requests/{id}": "get", "/requests/{id}/attempts": "get",
		"/stats": "get", "/healthz": "get", "/readyz": "get", "/metrics": "get", "/test-callback": "post",
	} {
		if len(doc.Paths[path][method].Responses) == 0 {
			t.Errorf("%s %s is not described", method, path)
		}
	}
	async := doc.Paths["/async"]["post"]
	if async.RequestBody == nil || async.Responses["202"] == nil || async.Responses["422"] == nil {
		t.Errorf("POST /async is described as %+v", async)
	}
	if async.Callbacks["outcome"]["{$request.body#/callback_url}"]["post"] == nil {
		t.Errorf("the callbacks of POST /async are %+v", async.Callbacks)
	}
}

func TestTheDocumentationWorksOffline(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	if a := s.do("GET", "/docs", ""); a.StatusCode != http.StatusFound || a.Header.Get("Location") != "/docs/" {
		t.Errorf("GET /docs: %s to %s", a.Status, a.Header.Get("Location"))
	}
	linked := regexp.MustCompile(`(?:src|href)="([^"]+)"`)
	for _, page := range []string{"/docs/", "/redoc"} {
		a := s.do("GET", page, "")
		if a.StatusCode != 200 || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") {
			t.Fatalf("GET %s: %s %s", page, a.Status, a.Header.Get("Content-Type"))
		}
		found := 0
		for _, m := range linked.FindAllSubmatch(a.body, -1) {
			asset := string(m[1])
			if strings.Contains(asset, "//") {
				t.Errorf("%s loads %s from elsewhere", page, asset)
				continue
			}
			if strings.HasPrefix(asset, "#") {
				continue
			}
			if !strings.HasPrefix(asset, "/") {
				asset = "/docs/" + strings.TrimPrefix(asset, "./")
			}
			if got := s.do("GET", asset, ""); got.StatusCode != 200 || len(got.body) == 0 {
				t.Errorf("%s loads %s: %s", page, asset, got.Status)
			}
			found++
		}
		if found == 0 {
			t.Errorf("%s loads nothing", page)
		}
	}
}

func TestTestCallbackIsForDemoOnly(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	s.wantProblem("in production", s.do("POST", "/test-callback", `{"a":1}`), 404, "not_found")
	s = newService(t, Options{Demo: true}, engine.Options{})
	a := s.do("POST", "/test-callback", `{"a":1.50}`)
	if a.StatusCode != 200 || !bytes.Contains(a.body, []byte(`{"a":1.50}`)) || !bytes.Contains(a.body, []byte(`"verified":false`)) {
		t.Errorf("an unsigned callback: %s %s", a.Status, a.body)
	}
	id := s.accept(`{"data":{"a":1},"callback_url":"` + s.url + `/test-callback"}`)
	for get[Record](s, "/requests/"+id+"?wait=1s").Status != "callback_sent" {
	}
	attempts := get[[]AttemptRecord](s, "/requests/"+id+"/attempts")
	if len(attempts) != 1 || !strings.Contains(attempts[0].Answer, `"verified":true`) {
		t.Errorf("our own callback: %+v", attempts)
	}
}

func TestHealthTellsWhatTheOperatorChose(t *testing.T) {
	s := newService(t, Options{Notices: []string{"not durable"}}, engine.Options{})
	for path, status := range map[string]string{"/healthz": "ok", "/readyz": "ready"} {
		h := get[Health](s, path)
		if h.Status != status || h.Backend != "embedded" || !h.Durable || !slices.Equal(h.Notices, []string{"not durable"}) {
			t.Errorf("%s: %+v", path, h)
		}
	}
}

func TestEveryExchangeHasAnID(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	if a := s.do("GET", "/healthz", "", "X-Request-ID", "mine-1"); a.Header.Get("X-Request-ID") != "mine-1" {
		t.Errorf("a plain id becomes %q", a.Header.Get("X-Request-ID"))
	}
	for _, id := range []string{"", "a b", strings.Repeat("x", 65), "é", `"`} {
		if got := s.do("GET", "/healthz", "", "X-Request-ID", id).Header.Get("X-Request-ID"); got == id || got == "" {
			t.Errorf("the id %q becomes %q, want a new one", id, got)
		}
	}
}
