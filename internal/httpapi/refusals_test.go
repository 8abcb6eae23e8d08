package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/limit"
	"tandem/work"
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

	methods := []string{"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "get"}
	allow := map[string]string{"GET": "GET, HEAD, OPTIONS", "POST": "POST, OPTIONS", "GET DELETE": "DELETE, GET, HEAD, OPTIONS"}
	for path, takes := range map[string][]string{
		"/sync": {"POST"}, "/async": {"POST"}, "/test-callback": {"POST"},
		"/requests": {"GET"}, "/requests/" + id: {"GET", "DELETE"}, "/requests/" + id + "/attempts": {"GET"},
		"/requests/" + id + "/redeliver": {"POST"}, "/callbacks": {"GET"}, "/callbacks/redeliver": {"POST"},
		"/stats": {"GET"}, "/healthz": {"GET"}, "/readyz": {"GET"}, "/metrics": {"GET"},
		"/openapi.json": {"GET"}, "/redoc": {"GET"}, "/redoc/redoc.standalone.js": {"GET"}, "/docs": {"GET"}, "/docs/": {"GET"},
	} {
		for _, method := range methods {
			if slices.Contains(takes, method) {
				continue
			}
			name := method + " " + path
			a := s.do(method, path, "")
			s.wantProblem(name, a, 405, "method_not_allowed")
			checked++
			if got, want := a.Header.Get("Allow"), allow[strings.Join(takes, " ")]; got != want {
				t.Errorf("%s: Allow is %q, want %q", name, got, want)
			}
		}
		if head := s.do("HEAD", path, ""); takes[0] == "POST" && (head.StatusCode != 405 || head.Header.Get("Allow") != allow["POST"] || len(head.body) != 0) {
			t.Errorf("HEAD %s: %s %v with %d bytes", path, head.Status, head.Header, len(head.body))
		}
		if a := s.do("OPTIONS", path, ""); a.StatusCode != http.StatusNoContent || a.Header.Get("Allow") != allow[strings.Join(takes, " ")] {
			t.Errorf("OPTIONS %s: %s, Allow %q", path, a.Status, a.Header.Get("Allow"))
		}
	}

	for _, path := range []string{
		"/", "/nothing", "/Sync", "/sync/", "/async/1", "/requests/", "/requests/x/y", "/requests/" + id + "/", "/requests/" + id + "/attempts/1",
		"/stats/", "/healthz/", "/openapi.yaml", "/v1/sync", "/favicon.ico",
	} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			refuse(method+" "+path, method, path, "", 404, "not_found")
		}
		if head := s.do("HEAD", path, ""); head.StatusCode != 404 || head.Header.Get("Content-Type") != "application/problem+json" || len(head.body) != 0 {
			t.Errorf("HEAD %s: %s %v with %d bytes", path, head.Status, head.Header, len(head.body))
		}
	}
	for _, bad := range []string{unknown, "x", "req_", id + "0", strings.ToUpper(id), "req_" + strings.Repeat("g", 32), strings.Repeat("x", 64), strings.Repeat("x", 65), strings.Repeat("x", 5000), id[:35], "a%2Fb", "%ff", "%00", "%2e%2e", "' OR 1=1 --"} {
		path := "/requests/" + strings.ReplaceAll(bad, " ", "%20")
		refuse("no such request "+bad, "GET", path, "", 404, "not_found")
		refuse("attempts of no such request "+bad, "GET", path+"/attempts", "", 404, "not_found")
	}

	for query, field := range map[string]string{
		"limit=0": "limit", "limit=1001": "limit", "limit=-1": "limit", "limit=x": "limit", "limit=1.5": "limit", "limit=99999999999999999999": "limit",
		"offset=-1": "offset", "offset=x": "offset", "offset=10001": "offset", "offset=1&cursor=1": "offset",
		"mode=both": "mode", "mode=SYNC": "mode", "status=done": "status", "status=Pending": "status",
		"cursor=" + id: "cursor", "cursor=%00": "cursor", "cursor=%20": "cursor", "cursor=1.5": "cursor", "cursor=1%3BDROP%20TABLE%20requests": "cursor",
		"limit=%201": "limit", "limit=0x10": "limit", "limit=1e2": "limit", "limit=null": "limit", "offset=10001&cursor=1": "offset", "offset=1e1": "offset",
		"mode=async&mode=sync": "mode", "limit=1&limit=1": "limit", "stauts=failed": "stauts", "Limit=1": "Limit", "=1": `""`, "id=x": "id",
		"limit=1;mode=sync": "query", "limit=%zz": "query", "limit=1&%": "query", "mode=sync%20": "mode", "status=pending,failed": "status", "status=worked": "status",
		"cursor=%25": "cursor", "cursor=!": "cursor", "cursor=-1": "cursor", "cursor=zzzzzzzzzzzzzzzzzzzz": "cursor",
	} {
		for _, accept := range []string{"", "text/html", "application/xml", "application/cbor", "application/json;q=0"} {
			p := refuse("?"+query, "GET", "/requests?"+query, "", 422, "invalid", "Accept", accept)
			if len(p.Errors) == 0 || p.Errors[0].Field != field || !strings.HasPrefix(p.Detail, field+": ") {
				t.Errorf("?%s: the problem names %+v and says %q, want %s", query, p.Errors, p.Detail, field)
			}
		}
	}
	if p := refuse("an offset too far", "GET", "/requests?offset=10001", "", 422, "invalid"); !strings.Contains(p.Detail, "cursor") {
		t.Errorf("an offset too far is not told of the cursor: %q", p.Detail)
	}

	for _, path := range []string{"/sync", "/async", "/test-callback"} {
		refuse(path+" with no body", "POST", path, "", 400, "malformed_json")
		refuse(path+" with half a body", "POST", path, `{"data":`, 400, "malformed_json")
		for _, broken := range []string{"s3cr3t-value", `{"s3cr3t-value"}`, `{"data":s3cr3t-value}`, "{\"data\":\"s3cr3t-value\xff\"}", `{} s3cr3t-value`} {
			if p := refuse(path+" with "+broken, "POST", path, broken, 400, "malformed_json"); strings.Contains(fmt.Sprint(p), "s3cr3t-value") {
				t.Errorf("%s with %s: the problem repeats what was sent: %+v", path, broken, p)
			}
		}
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
			`["` + secret + `"]`, `"` + secret + `"`, `{"data":["` + secret + `"]}`, `{"data":{"a":1},"workload":{"a":"` + secret + `"}}`,
			`{"data":{"a":1},"callback_url":{"a":"` + secret + `"}}`, `{"data":{"a":1},"callback_url":"http://a.b/` + secret + strings.Repeat("x", 2048) + `"}`,
		} {
			p := refuse(path+" "+body, "POST", path, body, 422, "invalid")
			if len(p.Errors) != 1 || p.Errors[0].Field == "" || strings.Contains(fmt.Sprint(p), secret) {
				t.Errorf("%s %s: the problem names no field, or repeats what was sent: %+v", path, body, p)
			}
		}
	}
	for path, method := range map[string]string{
		"/sync": "POST", "/async": "POST", "/requests/" + id: "GET", "/requests/" + id + "/attempts": "GET", "/requests/" + id + "/redeliver": "POST",
		"/callbacks": "GET", "/callbacks/redeliver": "POST", "/stats": "GET",
	} {
		p := refuse(method+" "+path+" with a parameter that it has not", method, path+"?nothing=s3cr3t-value", small, 422, "invalid")
		if len(p.Errors) != 1 || p.Errors[0].Field != "nothing" || strings.Contains(fmt.Sprint(p), "s3cr3t-value") {
			t.Errorf("%s %s with a parameter that it has not: %+v", method, path, p)
		}
	}
	for _, path := range []string{"/healthz?verbose", "/readyz?from=lb", "/metrics?name[]=go_info"} {
		if a := s.do("GET", path, ""); a.StatusCode != 200 {
			t.Errorf("GET %s: %s", path, a.Status)
		}
	}
	for _, query := range []string{"limit=", "offset=", "cursor=", "mode=", "status="} {
		if p := refuse("?"+query+secret, "GET", "/requests?"+query+secret, "", 422, "invalid"); strings.Contains(fmt.Sprint(p), secret) {
			t.Errorf("?%s: the problem repeats what was sent: %+v", query, p)
		}
	}
	if p := refuse("?wait="+secret, "GET", "/requests/"+id+"?wait="+secret, "", 422, "invalid"); strings.Contains(fmt.Sprint(p), secret) {
		t.Errorf("?wait: the problem repeats what was sent: %+v", p)
	}
	for _, url := range []string{
		"ftp://example.com", "example.com", "//example.com", "http://", "http://user:pw@example.com/", "http://10.0.0.1/", "http://169.254.169.254/",
		"http://[fe80::1]/", "http://example.com:22/", "https://example.com:0/", "http://exa mple.com/", "javascript:alert(1)", "http://metadata.google.internal/",
	} {
		p := refuse("callback to "+url, "POST", "/async", `{"data":{"a":1},"callback_url":"`+url+`"}`, 422, "invalid")
		if len(p.Errors) != 1 || p.Errors[0].Field != "callback_url" || strings.Contains(fmt.Sprint(p), "pw") {
			t.Errorf("callback to %s: the problem names %+v", url, p.Errors)
		}
	}
	if checked < 400 {
		t.Errorf("only %d requests were checked", checked)
	}
}

func TestABodyMayBeAsLargeAsItMayBe(t *testing.T) {
	s := newService(t, Options{Demo: true}, engine.Options{})
	pad := func(n int) string { return small + strings.Repeat(" ", n-len(small)) }
	for path, status := range map[string]int{"/sync": 200, "/async": 202, "/test-callback": 200} {
		if a := s.do("POST", path, pad(tandem.MaxBody)); a.StatusCode != status {
			t.Errorf("%s with %d bytes: %s %s", path, tandem.MaxBody, a.Status, a.body)
		}
		p := s.wantProblem(path, s.do("POST", path, pad(tandem.MaxBody+1)), 413, "body_too_large")
		if len(p.Errors) != 1 || p.Errors[0].Field != "body" || !strings.Contains(p.Detail, "65536") {
			t.Errorf("%s with a byte more: %+v", path, p)
		}
		if status := rawStatus(t, s.url, "POST "+path+" HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"+
			"10001\r\n"+pad(tandem.MaxBody+1)+"\r\n0\r\n\r\n"); status != 413 {
			t.Errorf("%s with a byte more in chunks: %d, want 413", path, status)
		}
		if status := rawStatus(t, s.url, "POST "+path+" HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000000000000000\r\n\r\n{"); status != 413 {
			t.Errorf("%s with a petabyte announced: %d, want 413", path, status)
		}
		s.wantProblem(path+" with far more", s.do("POST", path, pad(4<<20)), 413, "body_too_large")
	}
}

func TestABodyThatBreaksOffIsTheClientsMistake(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	for _, path := range []string{"/sync", "/async"} {
		for name, rest := range map[string]string{
			"a malformed chunk":    "Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
			"a chunk that is less": "Transfer-Encoding: chunked\r\n\r\n20\r\n" + small,
			"no last chunk":        "Transfer-Encoding: chunked\r\n\r\nf\r\n{\"data\":{\"a\":\r\n",
			"less than it said":    "Content-Length: 100\r\n\r\n" + small,
		} {
			if status := rawStatus(t, s.url, "POST "+path+" HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"+rest); status != 400 {
				t.Errorf("%s to %s is answered with %d, want 400", name, path, status)
			}
		}
	}
	if page := get[[]Record](s, "/requests"); len(page) != 0 {
		t.Errorf("half a body was taken: %+v", page)
	}
}

func TestABodyThatDoesNotComeIsNotWaitedFor(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	impatient := httptest.NewUnstartedServer(mustNew(t, s.engine, Options{Registry: prometheus.NewRegistry()}))
	impatient.Config.ReadTimeout = 50 * time.Millisecond
	impatient.Start()
	defer impatient.Close()
	conn := dial(t, impatient.URL)
	if _, err := io.WriteString(conn, "POST /async HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	if status := statusFrom(t, conn); status != http.StatusRequestTimeout {
		t.Errorf("answered with %d, want 408", status)
	}
}

func TestHeadAnswersLikeGet(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	id := s.accept(small)
	for _, path := range []string{"/requests/" + id, "/requests/" + id + "/attempts", "/requests", "/stats", "/healthz", "/readyz", "/metrics", "/openapi.json", "/redoc", "/docs/"} {
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
	if r := stats.RateLimiting; !r.Enabled || *r.Allowed != 3 || *r.Refused != 2 || r.Limit != 3 || *r.Clients != 1 {
		t.Errorf("rate limiting is %+v", r)
	}
}

// warnings counts what is logged as worse than usual.
type warnings struct {
	slog.Handler
	n atomic.Int64
}

func (w *warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (w *warnings) WithAttrs([]slog.Attr) slog.Handler               { return w }
func (w *warnings) Handle(context.Context, slog.Record) error {
	w.n.Add(1)
	return nil
}

func TestWhenThereIsNoRoomTheAnswerSaysWhenToComeBack(t *testing.T) {
	logged := &warnings{Handler: slog.DiscardHandler}
	defer func() {
		if n := logged.n.Load(); n != 0 {
			t.Errorf("%d warnings in the log of what the callers were told", n)
		}
	}()
	s := newService(t, Options{Logger: slog.New(logged)}, engine.Options{Paused: true})
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

func TestASyncCallerIsNotKeptWaitingForASlot(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	s := newService(t, Options{}, engine.Options{Workers: 1, SyncQueueTimeout: 20 * time.Millisecond},
		work.Kind{Name: "held", Class: work.CPU, Func: func(ctx context.Context, _ work.Input) (json.RawMessage, error) {
			close(started)
			select {
			case <-release:
			case <-ctx.Done():
			}
			return json.RawMessage("1"), ctx.Err()
		}})
	first := make(chan answer, 1)
	go func() { first <- s.do("POST", "/sync", `{"data":{"a":1},"workload":"held"}`) }()
	<-started
	a := s.do("POST", "/sync", small)
	s.wantProblem("with its one slot taken", a, 503, "busy")
	if a.Header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q", a.Header.Get("Retry-After"))
	}
	close(release)
	if a := <-first; a.StatusCode != 200 {
		t.Errorf("the one in the slot: %s %s", a.Status, a.body)
	}
	if page := get[[]Record](s, "/requests"); len(page) != 1 {
		t.Errorf("what was refused is on record: %+v", page)
	}
}

// rawStatus sends bytes that no client would, and returns the status answered.
func rawStatus(t *testing.T, url, bytes string) int {
	t.Helper()
	conn := dial(t, url)
	if _, err := io.WriteString(conn, bytes); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	return statusFrom(t, conn)
}

func dial(t *testing.T, url string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func statusFrom(t *testing.T, conn net.Conn) int {
	t.Helper()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}
