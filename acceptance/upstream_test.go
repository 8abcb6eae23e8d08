package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// failing starts an upstream that answers with a status, and returns its URL.
func failing(t *testing.T, code int) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = w.Write([]byte("a detail that is nobody's business"))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestAnUpstreamGetsBothFaces(t *testing.T) {
	onEach(t, anUpstreamGetsBothFaces)
}

func anUpstreamGetsBothFaces(t *testing.T, database string) {
	got := make(chan map[string]any, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in map[string]any
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.Method != "POST" {
			t.Errorf("the upstream got %s, %v", r.Method, err)
		}
		got <- in
		_, _ = w.Write([]byte(`{"price": 12.50}`))
	}))
	t.Cleanup(server.Close)
	s := serve(t, "--database", database, "--upstream", "shop="+server.URL)
	sub := submission{Workload: "http", Data: map[string]any{"upstream": "shop", "item": "tea"}}
	_, result := s.sync(sub)
	rec := s.worked(s.async(sub))
	if rec.Status != "completed" || string(rec.Result) != result || !strings.Contains(result, "12.50") {
		t.Errorf("sync gives %s, async %s", result, rec.Result)
	}
	for range 2 {
		if in := <-got; in["item"] != "tea" || in["upstream"] != "shop" {
			t.Errorf("the upstream got %v", in)
		}
	}
}

func TestAnUpstreamThatFailsFailsTheRequest(t *testing.T) {
	parallel(t)
	silent := newUpstream(t)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	s := serve(t,
		"--upstream", "broken="+failing(t, http.StatusServiceUnavailable),
		"--upstream", "moved="+failing(t, http.StatusFound),
		"--upstream", "silent="+silent.url+",timeout=100ms",
		"--upstream", "gone="+gone.URL)
	for _, c := range []struct{ name, upstream, status string }{
		{"503 is its own", "broken", "503"},
		{"a redirect is not followed", "moved", "302"},
		{"silence ends at the upstream's timeout", "silent", "null"},
		{"nobody listens", "gone", "null"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sub := submission{Workload: "http", Data: map[string]any{"upstream": c.upstream, "name": c.name}}
			a := s.post("/sync", sub)
			p := a.problem(t, http.StatusBadGateway)
			if p.ErrorCode != "upstream" || !strings.Contains(p.Detail, c.upstream) {
				t.Errorf("the problem is %s", a.body)
			}
			for _, rec := range []record{s.record(p.RequestID), s.worked(s.async(sub))} {
				if rec.Status != "failed" || show(rec.ErrorCode) != "upstream" || show(rec.UpstreamStatus) != c.status {
					t.Errorf("the %s record is %+v", rec.Mode, rec)
				}
				if strings.Contains(show(rec.ErrorMessage), "127.0.0.1") || strings.Contains(show(rec.ErrorMessage), "nobody's business") {
					t.Errorf("the caller is told %q", show(rec.ErrorMessage))
				}
			}
		})
	}
}

func TestOnlyWhatTheOperatorNamedCanBeCalled(t *testing.T) {
	parallel(t)
	u := newUpstream(t)
	s := serve(t, u.flag())
	for _, in := range []map[string]any{
		{"upstream": "other"},
		{"upstream": u.url},
		{"url": u.url},
		{"upstream": 1},
	} {
		a := s.post("/async", submission{Workload: "http", Data: in})
		if p := a.problem(t, http.StatusUnprocessableEntity); len(p.Errors) != 1 || p.Errors[0].Field != "data" {
			t.Errorf("%v is refused with %s", in, a.body)
		}
	}
	without := serve(t)
	a := without.post("/async", submission{Workload: "http", Data: data})
	if p := a.problem(t, http.StatusUnprocessableEntity); len(p.Errors) != 1 || p.Errors[0].Field != "workload" || !strings.Contains(p.Detail, "compute, mixed, wait") {
		t.Errorf("without an upstream http is refused with %s", a.body)
	}
}

func TestWorkEndsAtItsTimeout(t *testing.T) {
	onEach(t, workEndsAtItsTimeout)
}

func workEndsAtItsTimeout(t *testing.T, database string) {
	u := newUpstream(t)
	rcv := receive(t, nil)
	s := serve(t, "--database", database, u.flag(), "--work-timeout", "100ms")
	p := s.post("/sync", u.work("a", "")).problem(t, http.StatusGatewayTimeout)
	if p.ErrorCode != "timeout" {
		t.Errorf("the problem is %+v", p)
	}
	id := s.async(u.work("b", rcv.url))
	if d := rcv.next(); d.event.Error == nil || d.event.Error.Code != "timeout" {
		t.Errorf("the event is %s", d.body)
	}
	if rec := s.settled(id); rec.Status != "failed" || show(rec.ErrorCode) != "timeout" {
		t.Errorf("the record is %+v", rec)
	}
}

func TestWorkOfACallerWhoLeftEndsAndIsOnRecord(t *testing.T) {
	onEach(t, workOfACallerWhoLeftEndsAndIsOnRecord)
}

func workOfACallerWhoLeftEndsAndIsOnRecord(t *testing.T, database string) {
	u := newUpstream(t)
	s := serve(t, "--database", database, u.flag())
	ctx, leave := context.WithCancel(t.Context())
	body, err := json.Marshal(u.work("a", ""))
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(ctx, "POST", "http://"+s.addr+"/sync", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	left := make(chan struct{})
	go func() {
		defer close(left)
		if res, err := s.client.Do(r); err == nil {
			res.Body.Close()
			t.Errorf("the held work was answered with %d", res.StatusCode)
		}
	}()
	u.await()
	leave()
	<-left
	var rows []record
	eventually(t, "the request is on record as failed", func() bool {
		rows = s.history("&mode=sync&status=failed")
		return len(rows) == 1
	})
	if show(rows[0].ErrorCode) != "client_gone" {
		t.Errorf("the record is %v", rows[0])
	}
	countersFit(t, s, s.history(""))
}
