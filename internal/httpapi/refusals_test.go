package httpapi

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/limit"
)

// Every route and method gets a problem document for whatever it cannot take.
func TestWhatNoRouteTakesIsAProblem(t *testing.T) {
	s := newService(t, Options{Demo: true}, engine.Options{})
	id := s.accept(small)
	unknown := "req_" + strings.Repeat("0", 32)
	checked := 0
	refuse := func(name, method, path, body string, status int, code string, header ...string) Problem {
		t.Helper()
		checked++
		return s.wantProblem(name, s.do(method, path, body, header...), status, code)
	}

	methods := []string{"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"}
	for path, takes := range map[string][]string{
		"/sync": {"POST"}, "/async": {"POST"}, "/test-callback": {"POST"},
		"/requests": {"GET"}, "/requests/" + id: {"GET"}, "/requests/" + id + "/attempts": {"GET"},
		"/stats": {"GET"}, "/healthz": {"GET"}, "/readyz": {"GET"}, "/metrics": {"GET"},
		"/openapi.json": {"GET"}, "/redoc": {"GET"}, "/docs/": {"GET"},
	} {
		for _, method := range methods {
			if slices.Contains(takes, method) {
				continue
			}
			name := method + " " + path
			a := s.do(method, path, "")
			s.wantProblem(name, a, 405, "method_not_allowed")
			checked++
			if allow := a.Header.Get("Allow"); !strings.Contains(allow, takes[0]) || strings.Contains(allow, method) {
				t.Errorf("%s: Allow is %q", name, allow)
			}
		}
		if a := s.do("OPTIONS", path, ""); a.StatusCode != http.StatusNoContent || !strings.Contains(a.Header.Get("Allow"), takes[0]) {
			t.Errorf("OPTIONS %s: %s, Allow %q", path, a.Status, a.Header.Get("Allow"))
		}
	}

	for _, path := range []string{
		"/", "/nothing", "/Sync", "/sync/", "/async/1", "/requests/", "/requests/x/y", "/requests/" + id + "/", "/requests/" + id + "/attempts/1",
		"/stats/", "/healthz/", "/openapi.yaml", "/v1/sync", "/favicon.ico",
	} {
		for _, method := range []string{"GET", "POST"} {
			refuse(method+" "+path, method, path, "", 404, "not_found")
		}
	}
	for _, bad := range []string{unknown, "x", "req_", id + "0", strings.ToUpper(id), "req_" + strings.Repeat("g", 32), "%00", "%2e%2e", "' OR 1=1 --"} {
		path := "/requests/" + strings.ReplaceAll(bad, " ", "%20")
		refuse("no such request "+bad, "GET", path, "", 404, "not_found")
		refuse("attempts of no such request "+bad, "GET", path+"/attempts", "", 404, "not_found")
	}

	for query, field := range map[string]string{
		"limit=0": "limit", "limit=1001": "limit", "limit=-1": "limit", "limit=x": "limit", "limit=1.5": "limit", "limit=99999999999999999999": "limit",
		"offset=-1": "offset", "offset=x": "offset", "offset=10001": "offset", "offset=1&cursor=1": "offset",
		"mode=both": "mode", "mode=SYNC": "mode", "status=done": "status", "status=Pending": "status",
		"cursor=%25": "cursor", "cursor=!": "cursor", "cursor=-1": "cursor", "cursor=zzzzzzzzzzzzzzzzzzzz": "cursor",
	} {
		p := refuse("?"+query, "GET", "/requests?"+query, "", 422, "invalid")
		if len(p.Errors) == 0 || !strings.Contains(p.Errors[0].Field, field) {
			t.Errorf("?%s: the problem names %+v, want %s", query, p.Errors, field)
		}
	}
	if p := refuse("an offset too far", "GET", "/requests?offset=10001", "", 422, "invalid"); !strings.Contains(p.Detail, "cursor") {
		t.Errorf("an offset too far is not told of the cursor: %q", p.Detail)
	}
	for _, wait := range []string{"x", "-1s", "61s", "5", "1h", "NaN"} {
		refuse("?wait="+wait, "GET", "/requests/"+id+"?wait="+wait, "", 422, "invalid")
	}

	for _, path := range []string{"/sync", "/async", "/test-callback"} {
		refuse(path+" with no body", "POST", path, "", 400, "malformed_json")
		refuse(path+" with half a body", "POST", path, `{"data":`, 400, "malformed_json")
		refuse(path+" with text", "POST", path, small, 415, "unsupported_media_type", "Content-Type", "text/plain")
		refuse(path+" with a form", "POST", path, small, 415, "unsupported_media_type", "Content-Type", "multipart/form-data; boundary=x")
		refuse(path+" compressed", "POST", path, small, 415, "unsupported_media_type", "Content-Encoding", "gzip")
		refuse(path+" too large", "POST", path, `{"data":`+ofSize(tandem.MaxBody)+`}`, 413, "body_too_large")
	}
	secret := "s3cr3t-value"
	for _, path := range []string{"/sync", "/async"} {
		for _, body := range []string{
			`{"data":"` + secret + `"}`, `{"data":{"a":1},"complexity":"` + secret + `"}`, `{"data":{"a":1},"workload":"` + secret + `"}`,
			`{"data":{"a":1},"complexity":99}`, `{"data":{}}`, `{}`, `[]`, `{"data":{"a":1},"x":"` + secret + `"}`, `{"data":{"a":"` + secret + `","a":1}}`,
		} {
			p := refuse(path+" "+body, "POST", path, body, 422, "invalid")
			if len(p.Errors) != 1 || p.Errors[0].Field == "" || strings.Contains(fmt.Sprint(p), secret) {
				t.Errorf("%s %s: the problem names no field, or repeats what was sent: %+v", path, body, p)
			}
		}
	}
	for _, url := range []string{
		"ftp://example.com", "example.com", "//example.com", "http://", "http://user:pw@example.com/", "http://10.0.0.1/", "http://169.254.169.254/",
		"http://[fe80::1]/", "http://example.com:22/", "https://example.com:0/", "http://exa mple.com/", "javascript:alert(1)", "http://metadata.google.internal/",
	} {
		p := refuse("callback to "+url, "POST", "/async", `{"data":{"a":1},"callback_url":"`+url+`"}`, 422, "invalid")
		if len(p.Errors) != 1 || p.Errors[0].Field != "callback_url" {
			t.Errorf("callback to %s: the problem names %+v", url, p.Errors)
		}
	}
	if checked < 150 {
		t.Errorf("only %d requests were checked", checked)
	}
}

func TestABodyThatBreaksOffIsTheClientsMistake(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	for _, path := range []string{"/sync", "/async"} {
		status := rawStatus(t, s.url, "POST "+path+" HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n")
		if status != 400 {
			t.Errorf("a malformed chunk to %s is answered with %d, want 400", path, status)
		}
	}
}

func TestHeadAnswersLikeGet(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	for _, path := range []string{"/requests", "/stats", "/healthz", "/readyz", "/metrics", "/openapi.json", "/redoc", "/docs/"} {
		if a := s.do("HEAD", path, ""); a.StatusCode != 200 || len(a.body) != 0 {
			t.Errorf("HEAD %s: %s with %d bytes", path, a.Status, len(a.body))
		}
	}
}

func TestTheRateIsOneForBothRoutes(t *testing.T) {
	s := newService(t, Options{Rate: limit.Rate{N: 3, Window: time.Minute}}, engine.Options{})
	for i, path := range []string{"/sync", "/async", "/sync"} {
		a := s.do("POST", path, small)
		if a.StatusCode >= 300 {
			t.Fatalf("request %d: %s %s", i, a.Status, a.body)
		}
		if got, want := a.Header.Get("RateLimit"), fmt.Sprintf(`"default";r=%d;t=60`, 2-i); got != want {
			t.Errorf("request %d: RateLimit is %s, want %s", i, got, want)
		}
		if got := a.Header.Get("RateLimit-Policy"); got != `"default";q=3;w=60` {
			t.Errorf("request %d: RateLimit-Policy is %s", i, got)
		}
	}
	for _, path := range []string{"/sync", "/async"} {
		a := s.do("POST", path, small)
		s.wantProblem(path, a, 429, "rate_limited")
		if wait, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || wait < 1 || wait > 60 {
			t.Errorf("%s: Retry-After is %q", path, a.Header.Get("Retry-After"))
		}
	}
	for range 10 {
		if a := s.do("GET", "/requests", ""); a.StatusCode != 200 || a.Header.Get("RateLimit") != "" {
			t.Fatalf("reading is limited: %s %v", a.Status, a.Header)
		}
	}
	stats := get[Stats](s, "/stats")
	if r := stats.RateLimiting; !r.Enabled || r.Allowed != 3 || r.Refused != 2 || r.Limit != 3 || r.Clients != 1 {
		t.Errorf("rate limiting is %+v", r)
	}
}

func TestWhenThereIsNoRoomTheAnswerSaysWhenToComeBack(t *testing.T) {
	s := newService(t, Options{}, engine.Options{Paused: true})
	a := s.do("POST", "/sync", small)
	s.wantProblem("sync while paused", a, 503, "busy")
	if a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	for range 1000 {
		s.accept(small)
	}
	a = s.do("POST", "/async", small)
	s.wantProblem("a full backlog", a, 503, "busy")
	if a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if a := s.do("GET", "/readyz", ""); a.StatusCode != 200 {
		t.Errorf("a full backlog is not ready: %s", a.Status)
	}
	s.engine.Drain()
	for _, path := range []string{"/sync", "/async"} {
		s.wantProblem(path+" while draining", s.do("POST", path, small), 503, "draining")
	}
	s.wantProblem("readyz while draining", s.do("GET", "/readyz", ""), 503, "draining")
	if a := s.do("GET", "/healthz", ""); a.StatusCode != 200 {
		t.Errorf("healthz while draining: %s", a.Status)
	}
}

// rawStatus sends bytes that no client would, and returns the status answered.
func rawStatus(t *testing.T, url, bytes string) int {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, bytes); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}
