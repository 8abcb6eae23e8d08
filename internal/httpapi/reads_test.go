package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem"
	"tandem/internal/access"
	"tandem/internal/engine"
	"tandem/work"
)

// Ten requests with results of 1 MiB and callbacks that were given up: more than a
// page holds.
func TestPagesEndByTheirWeight(t *testing.T) {
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }))
	defer receiver.Close()
	result := json.RawMessage(`"` + strings.Repeat("x", tandem.MaxResult-2) + `"`)
	s := newService(t, Options{}, engine.Options{}, work.Kind{Name: "big", Class: work.Waits, Func: func(context.Context, work.Input) (json.RawMessage, error) {
		return result, nil
	}})
	const all = 10
	for range all {
		id := s.accept(`{"data":{"n":1},"workload":"big","callback_url":"` + receiver.URL + `"}`)
		s.until("callback that was given up", func() bool { return get[Record](s, "/requests/"+id).Callback.State == "failed" })
	}
	link := regexp.MustCompile(`^<(/(?:requests|callbacks)\?[^>]*)>; rel="next"$`)
	for _, path := range []string{"/requests?limit=1000", "/callbacks?limit=1000", "/requests?limit=1000&offset=1"} {
		var sizes []int
		for next := path; next != ""; {
			a := s.do("GET", next, "")
			var page []Record
			if err := json.Unmarshal(a.body, &page); err != nil {
				t.Fatal(err)
			}
			sizes, next = append(sizes, len(page)), ""
			if m := link.FindStringSubmatch(a.Header.Get("Link")); m != nil {
				next = m[1]
			}
		}
		want := []int{8, 2}
		if strings.Contains(path, "offset=1") {
			want = []int{8, 1}
		}
		if !slices.Equal(sizes, want) {
			t.Errorf("%s: got pages of %v requests, want %v", path, sizes, want)
		}
	}
	for _, row := range []struct {
		body string
		n    int
		more bool
	}{
		{`{"dry_run":true}`, all, false},
		{`{"dry_run":true,"limit":9}`, 9, true},
		{`{"dry_run":true,"limit":8}`, 8, true},
		{`{}`, all, false},
	} {
		var got Redelivered
		if err := json.Unmarshal(s.do("POST", "/callbacks/redeliver", row.body).body, &got); err != nil {
			t.Fatal(err)
		}
		if distinct := len(slices.Compact(slices.Sorted(slices.Values(got.Redelivered)))); distinct != row.n || len(got.Redelivered) != row.n || got.More != row.more {
			t.Errorf("%s: got %d ids, %d of them distinct, and more %v; want %d and %v", row.body, len(got.Redelivered), distinct, got.More, row.n, row.more)
		}
	}
}

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

func TestPagesStandStillWhileRequestsComeIn(t *testing.T) {
	s := newService(t, Options{}, engine.Options{Paused: true})
	var want []string
	for range 10 {
		want = append(want, s.accept(small))
	}
	slices.Reverse(want)
	a := s.do("GET", "/requests?limit=4&mode=async&status=pending&offset=2", "")
	var page []Record
	if err := json.Unmarshal(a.body, &page); err != nil {
		t.Fatal(err)
	}
	got := []string{want[0], want[1]} // which the offset skips
	for {
		for _, r := range page {
			got = append(got, r.RequestID)
		}
		next, err := url.Parse(strings.TrimSuffix(strings.TrimPrefix(a.Header.Get("Link"), "<"), `>; rel="next"`))
		if err != nil {
			t.Fatal(err)
		}
		q := next.Query()
		if next.Path == "" {
			break
		}
		if q.Get("limit") != "4" || q.Get("mode") != "async" || q.Get("status") != "pending" || q.Get("cursor") == "" || q.Has("offset") {
			t.Fatalf("the next page is %s", next)
		}
		s.accept(small) // newer than the page
		a = s.do("GET", next.String(), "")
		page = nil
		if err := json.Unmarshal(a.body, &page); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the pages hold\n%v, want\n%v", got, want)
	}
}

func TestLimitsAtTheirEdges(t *testing.T) {
	s := newService(t, Options{}, engine.Options{Paused: true})
	for range 101 {
		s.accept(small)
	}
	for query, want := range map[string]int{
		"": 100, "?limit=": 100, "?limit=1": 1, "?limit=100": 100, "?limit=101": 101, "?limit=1000": 101, "?offset=0": 100, "?offset=1": 100,
		"?offset=100": 1, "?offset=101": 0, "?offset=10000": 0, "?mode=sync": 0, "?mode=async": 100, "?status=pending&limit=7": 7, "?status=completed": 0,
	} {
		a := s.do("GET", "/requests"+query, "")
		var page []Record
		if err := json.Unmarshal(a.body, &page); err != nil || page == nil {
			t.Fatalf("%s: %v in %s", query, err, a.body)
		}
		if len(page) != want {
			t.Errorf("%s: %d requests, want %d", query, len(page), want)
		}
		last := want == 0 || page[want-1].RequestID == oldest(s)
		if (a.Header.Get("Link") == "") != last {
			t.Errorf("%s: Link is %q, and the page has the oldest: %v", query, a.Header.Get("Link"), last)
		}
	}
}

func oldest(s *service) string {
	page := get[[]Record](s, "/requests?limit=1000")
	return page[len(page)-1].RequestID
}

// Every figure that docs/API_ENDPOINTS.md promises is there, whatever it is.
func TestStatsHaveEveryFigure(t *testing.T) {
	s := newService(t, Options{Version: "1.2.3"}, engine.Options{})
	stats := get[map[string]map[string]any](s, "/stats")
	figures := map[string]string{
		"request_statistics": `total_requests pruned_requests sync_requests async_requests completed_requests failed_requests by_status success_rate
			sync_avg_processing_time_ms async_avg_processing_time_ms window_seconds processing_time_ms queue_time_ms throughput_per_second`,
		"callback_service": "delivered failed pending delivery_rate lag_ms hosts",
		"rate_limiting":    "enabled limit window_seconds allowed refused clients",
		"errors":           "work callback",
		"system":           "uptime_seconds version go backend durable in_flight queue_depth lanes timestamp",
	}
	for section, names := range figures {
		for name := range strings.FieldsSeq(names) {
			if _, ok := stats[section][name]; !ok {
				t.Errorf("%s has no %s", section, name)
			}
		}
		if got, want := len(stats[section]), len(strings.Fields(names)); got != want {
			t.Errorf("%s has %d figures, want %d", section, got, want)
		}
	}
	if len(stats) != len(figures) {
		t.Errorf("there are %d sections, want %d", len(stats), len(figures))
	}
	r := stats["request_statistics"]
	for _, name := range []string{"success_rate", "sync_avg_processing_time_ms", "async_avg_processing_time_ms"} {
		if r[name] != nil {
			t.Errorf("%s of nothing is %v", name, r[name])
		}
	}
	for _, mode := range tandem.Modes {
		for _, name := range []string{"processing_time_ms", "queue_time_ms"} {
			if v, ok := r[name].(map[string]any)[string(mode)]; !ok || v != nil {
				t.Errorf("%s of no %s request is %v", name, mode, v)
			}
		}
		if v := r["throughput_per_second"].(map[string]any)[string(mode)]; v != 0.0 {
			t.Errorf("the throughput of no %s request is %v", mode, v)
		}
	}
	for _, status := range tandem.Statuses {
		if v, ok := r["by_status"].(map[string]any)[string(status)]; !ok || v != 0.0 {
			t.Errorf("by_status counts %v %s", v, status)
		}
	}
	if c := stats["callback_service"]; c["delivery_rate"] != nil || c["lag_ms"] != nil {
		t.Errorf("figures of no callback: %v", c)
	}
	if l, q := stats["rate_limiting"], stats["system"]; l["allowed"] != 0.0 || l["refused"] != 0.0 || l["clients"] != 0.0 ||
		q["in_flight"] != 0.0 || q["queue_depth"] != 0.0 || len(q["lanes"].([]any)) != 2 {
		t.Errorf("figures of an idle service: %v %v", l, q)
	}

	s.do("POST", "/sync", small)
	r = get[map[string]map[string]any](s, "/stats")["request_statistics"]
	for _, name := range []string{"processing_time_ms", "queue_time_ms"} {
		l := r[name].(map[string]any)["sync"].(map[string]any)
		if l["n"] != 1.0 || l["p50"] == nil || l["p95"] == nil || l["p99"] == nil || len(l) != 4 {
			t.Errorf("%s of one request is %v", name, l)
		}
	}
	if r["success_rate"] != 1.0 || r["sync_avg_processing_time_ms"] == nil || r["async_avg_processing_time_ms"] != nil {
		t.Errorf("figures of one request: %v", r)
	}

	// What would tell of the requests of others is there, and null.
	token, id := access.NewToken()
	keys := &access.Keyring{}
	keys.Set([]access.Key{{TokenID: id, Name: "ann", Hash: access.HashToken(token)}})
	s = newService(t, Options{Keys: keys}, engine.Options{})
	s.do("POST", "/sync", small, "Authorization", "Bearer "+token)
	a := s.do("GET", "/stats", "", "Authorization", "Bearer "+token)
	stats = nil
	if err := json.Unmarshal(a.body, &stats); err != nil {
		t.Fatal(err)
	}
	if r = stats["request_statistics"]; r["total_requests"] != 1.0 || r["success_rate"] != 1.0 || r["sync_avg_processing_time_ms"] == nil {
		t.Errorf("figures of one's own request: %v", r)
	}
	for section, names := range figures {
		if got, want := len(stats[section]), len(strings.Fields(names)); got != want {
			t.Errorf("without an admin key %s has %d figures, want %d", section, got, want)
		}
	}
	for _, mode := range tandem.Modes {
		for _, name := range []string{"processing_time_ms", "queue_time_ms", "throughput_per_second"} {
			if v, ok := r[name].(map[string]any)[string(mode)]; !ok || v != nil {
				t.Errorf("without an admin key %s of %s requests is %v", name, mode, v)
			}
		}
	}
	for section, names := range map[string]string{
		"callback_service": "lag_ms hosts",
		"rate_limiting":    "allowed refused clients",
		"system":           "in_flight queue_depth lanes",
	} {
		for name := range strings.FieldsSeq(names) {
			if v, ok := stats[section][name]; !ok || v != nil {
				t.Errorf("without an admin key %s.%s is %v", section, name, v)
			}
		}
	}
	wantDescribed(t, "/stats without an admin key", a.body, reflect.TypeFor[Stats]())
}

// /stats counts what /requests lists.
func TestStatsCountTheRowsOfEveryStatus(t *testing.T) {
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusGone) }))
	defer refuses.Close()
	takes := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer takes.Close()
	started, release := make(chan struct{}), make(chan struct{})
	s := newService(t, Options{}, engine.Options{Workers: 1},
		work.Kind{Name: "broken", Class: work.Waits, Func: func(context.Context, work.Input) (json.RawMessage, error) { return nil, errors.New("no luck") }},
		work.Kind{Name: "held", Class: work.CPU, Func: func(ctx context.Context, _ work.Input) (json.RawMessage, error) {
			started <- struct{}{}
			select {
			case <-release:
			case <-ctx.Done():
			}
			return json.RawMessage("1"), ctx.Err()
		}})
	s.do("POST", "/sync", small)
	s.do("POST", "/sync", `{"data":{"a":1},"workload":"broken"}`)
	for _, body := range []string{
		small, `{"data":{"a":1},"workload":"broken"}`, `{"data":{"a":1},"callback_url":"` + takes.URL + `"}`,
		`{"data":{"a":1},"callback_url":"` + refuses.URL + `"}`, `{"data":{"a":1},"workload":"broken","callback_url":"` + takes.URL + `"}`,
	} {
		id := s.accept(body)
		s.until("callback of "+body, func() bool { return get[Record](s, "/requests/"+id+"?wait=1s").Callback.State != "pending" })
	}
	s.accept(`{"data":{"a":1},"workload":"held"}`)
	<-started
	const waiting = 100 // more than are ever started ahead
	for range waiting {
		s.accept(small)
	}
	defer close(release)

	var stats Stats
	rows := map[string]int64{}
	s.until("/stats that agrees with the rows", func() bool { // a few are started ahead meanwhile
		stats = get[Stats](s, "/stats")
		clear(rows)
		for _, status := range tandem.Statuses {
			rows[string(status)] = 0
		}
		for _, r := range get[[]Record](s, "/requests?limit=1000") {
			rows[r.Status]++
		}
		return maps.Equal(stats.RequestStatistics.ByStatus, rows)
	})
	if rows["completed"] != 2 || rows["failed"] != 3 || rows["callback_sent"] != 1 || rows["callback_failed"] != 1 ||
		rows["pending"] == 0 || rows["processing"] == 0 || rows["pending"]+rows["processing"] != waiting+1 {
		t.Fatalf("the rows are %v", rows)
	}
	r := stats.RequestStatistics
	for _, status := range []tandem.Status{tandem.Completed, tandem.Failed, tandem.CallbackSent, tandem.CallbackFailed} {
		page := get[[]Record](s, "/requests?limit=1000&status="+string(status))
		if int64(len(page)) != rows[string(status)] {
			t.Errorf("/requests?status=%s has %d, want %d", status, len(page), rows[string(status)])
		}
	}
	if r.SyncRequests != 2 || r.AsyncRequests != 6+waiting || r.TotalRequests != 8+waiting || r.CompletedRequests != 4 || r.FailedRequests != 3 {
		t.Errorf("the counts are %+v", r)
	}
	if r.SuccessRate == nil || math.Abs(*r.SuccessRate-4.0/7) > 1e-9 {
		t.Errorf("the success rate is %v, want 4/7: a callback that failed is still a success of the work", *r.SuccessRate)
	}
	if c := stats.CallbackService; c.Delivered != 2 || c.Failed != 1 || c.Pending != 0 || c.DeliveryRate == nil || math.Abs(*c.DeliveryRate-2.0/3) > 1e-9 {
		t.Errorf("callbacks: %+v", c)
	}
	if e := stats.Errors; e.Work["work_failed"] != 3 || e.Callback["gone"] != 1 {
		t.Errorf("errors: %+v", e)
	}
	if sys := stats.System; *sys.InFlight < 1 || *sys.QueueDepth < 1 {
		t.Errorf("with work that runs and waits: %d in flight, %d wait", *sys.InFlight, *sys.QueueDepth)
	}
	if text := string(s.do("GET", "/metrics", "").body); !strings.Contains(text, `tandem_callback_attempts_total{outcome="sent"} 2`) ||
		!strings.Contains(text, `tandem_callback_attempts_total{outcome="gone"} 1`) {
		t.Error("/metrics does not count the attempts by outcome")
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
	if sys := stats.System; sys.Backend != "embedded" || sys.Go == "" || *sys.QueueDepth != 0 || sys.Timestamp.IsZero() {
		t.Errorf("system: %+v", sys)
	}
}

func TestMetricsHaveEveryFamily(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	s.do("POST", "/sync", small)
	get[Record](s, "/requests/"+s.accept(small)+"?wait=30s")
	// Whoever waits for a request is told when it is worked, and metrics a moment later.
	var text string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if text = string(s.do("GET", "/metrics", "").body); strings.Contains(text, "tandem_in_flight 0") {
			break
		}
	}
	for _, want := range []string{
		`tandem_http_requests_total{mode="sync",route="POST /sync",status="200"} 1`,
		`tandem_http_requests_total{mode="async",route="POST /async",status="202"} 1`,
		"tandem_http_request_seconds_bucket", `tandem_processing_seconds_count{mode="sync",status="completed"} 1`, `tandem_queue_seconds_count{mode="async"} 1`,
		"tandem_queue_depth 0", "tandem_queue_age_seconds 0", "tandem_in_flight 0", "tandem_slots{lane=\"cpu\"}", "tandem_sync_limit{lane=\"cpu\"}", "tandem_sync_in_flight{lane=\"io\"} 0", "tandem_sync_refused_total{lane=\"io\"} 0", "tandem_slots_busy{lane=\"io\"} 0",
		"tandem_callback_attempt_seconds_count 0", `tandem_breaker_hosts{state="open"} 0`, "tandem_commit_batch_size_count", "tandem_commit_seconds_count",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics has no %s", want)
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
