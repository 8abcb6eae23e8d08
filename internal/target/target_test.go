package target

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"tandem"
	"tandem/webhook"
)

// whole is a description that says everything.
const whole = `
name: Reports
sync: {method: PUT, path: "/r/{{.ID}}?n={{.Seq}}", headers: {X-Key: "${TARGET_KEY} "}, body: '{"c":{{.Complexity}},"d":{{.Data}},"w":"{{.Workload}}"}',
  accept: [200, 201], id: /id, result: /rows/0, failed: [422]}
async: {path: /r, body: '{"to":"{{.CallbackURL}}"}', accept: [202], id: /a~1b/~0c/1}
callback: {verify: github, header: x-sig, id: /id, status: /state, done: [ok], failed: [bad]}
poll: {path: "/r/{{.ID}}/state", headers: {X-Poll: "1"}, body: '{}', id: /id, status: /state, done: [ok], failed: [bad]}
`

func described(t *testing.T, text string) *Target {
	t.Helper()
	d, err := Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRequestsAreFilledIn(t *testing.T) {
	t.Setenv("TARGET_KEY", "k1")
	d := described(t, whole)
	v := Values{ID: "x1", Seq: 7, CallbackURL: "http://h/cb", Workload: "compute", Complexity: 3, Data: `{"a":1}`}

	m := d.Request(tandem.Sync, v)
	if m.Method != "PUT" || m.Path != "/r/x1?n=7" || string(m.Body) != `{"c":3,"d":{"a":1},"w":"compute"}` {
		t.Errorf("the sync request is %s %s %s", m.Method, m.Path, m.Body)
	}
	if m.Header.Get("X-Key") != "k1 " || m.Header.Get("Content-Type") != "application/json" {
		t.Errorf("its header is %v", m.Header)
	}
	if m = d.Request(tandem.Async, v); m.Method != "POST" || m.Path != "/r" || string(m.Body) != `{"to":"http://h/cb"}` {
		t.Errorf("the async request is %s %s %s", m.Method, m.Path, m.Body)
	}
	v.CallbackURL = ""
	if m = d.Request(tandem.Async, v); string(m.Body) != `{}` {
		t.Errorf("what is to be polled for is sent as %s", m.Body)
	}
	m, err := d.PollRequest(Answer{ID: "a/b c"}, "/")
	if err != nil || m.Rooted || m.Method != "GET" || m.Path != "/r/a%2Fb%20c/state" || m.Header.Get("X-Poll") != "1" {
		t.Errorf("the poll is %s %s %v", m.Method, m.Path, m.Header)
	}
}

func TestAPollFollowsTheLocation(t *testing.T) {
	d := described(t, strings.Replace(strings.Replace(whole, `path: "/r/{{.ID}}/state", `, "", 1), `headers: {X-Key: "${TARGET_KEY} "}, `, "", 1))
	for _, row := range []struct{ asked, location, want string }{
		{"/r", "/states/7?of=r", "/states/7?of=r"},
		{"/api/r", "/api/states/7", "/api/states/7"},
		{"/api/r", "states/7", "/api/states/7"},
		{"/api/r?n=1", "?state", "/api/r?state"},
		{"/api/r/", "../states/7", "/api/states/7"},
		{"/r", "/a%2Fb", "/a%2Fb"},
		{"/r", "https://other.example/s/7", "/s/7"}, // never another server
		{"/r", "//evil.example/s", "/s"},
		{"/r", "https://other.example", "/"},
		{"//r", "s", "//s"},
		{"/r", "", "no Location"},
		{"/r", "http://[::1", "no address"},
		{"/r", "mailto:a@b", "no address"},
		{"/r", "ftp://h/s", "no address"},
		{"/r", "/s?a b HTTP/1.1", "no address"},
		{"/r", "/x\r\nHost: other.example\r", "no address"},
		{"/r%", "/s", "cannot resolve"},
	} {
		m, err := d.PollRequest(Answer{StatusURL: row.location}, row.asked)
		got := m.Path
		if err != nil {
			got = err.Error()
		}
		if ok := err == nil && got == row.want && m.Rooted || err != nil && strings.Contains(got, row.want) && row.want[0] != '/'; !ok {
			t.Errorf("of %s, a Location of %q is polled at %q, want %q", row.asked, row.location, got, row.want)
		}
	}
}

func TestAnswersAreSorted(t *testing.T) {
	t.Setenv("TARGET_KEY", "k1")
	d := described(t, whole)
	for _, row := range []struct {
		mode   tandem.Mode
		status int
		body   string
		want   Answer
	}{
		{tandem.Sync, 200, `{"id":"7","rows":[1]}`, Answer{Kind: Accepted, ID: "7"}},
		{tandem.Sync, 201, `{"id":7,"rows":[null]}`, Answer{Kind: Accepted, ID: "7"}},
		{tandem.Sync, 200, `{"id":"7","rows":[]}`, Answer{Kind: BadAnswer, ID: "7", Category: "bad_answer"}},
		{tandem.Sync, 200, `{"rows":[1]}`, Answer{Kind: BadAnswer, Category: "bad_answer"}},
		{tandem.Sync, 200, `{"id":null,"rows":[1]}`, Answer{Kind: BadAnswer, Category: "bad_answer"}},
		{tandem.Sync, 200, `<html>`, Answer{Kind: BadAnswer, Category: "bad_answer"}},
		{tandem.Sync, 422, `{"id":"7"}`, Answer{Kind: WorkFailed, ID: "7", Category: "work"}},
		{tandem.Sync, 422, `{"error":"no such field"}`, Answer{Kind: Rejected, Category: "4xx"}},
		{tandem.Sync, 429, ``, Answer{Kind: Rejected, Category: "429"}},
		{tandem.Sync, 404, `{}`, Answer{Kind: Rejected, Category: "4xx"}},
		{tandem.Sync, 503, `{}`, Answer{Kind: Rejected, Category: "5xx"}},
		{tandem.Sync, 302, `{}`, Answer{Kind: BadAnswer, Category: "bad_answer"}},
		{tandem.Async, 202, `{"a/b":{"~c":["no","yes"]}}`, Answer{Kind: Accepted, ID: "yes"}},
		{tandem.Async, 202, `{"a/b":{"~c":["no"]}}`, Answer{Kind: BadAnswer, Category: "bad_answer"}},
		{tandem.Async, 202, `{"a/b":{"~c":{"1":"no"}}}`, Answer{Kind: Accepted, ID: "no"}},
		{tandem.Async, 200, `{"a/b":{"~c":["no","yes"]}}`, Answer{Kind: BadAnswer, ID: "yes", Category: "bad_answer"}},
		{tandem.Async, 422, `{"a/b":{"~c":["no","yes"]}}`, Answer{Kind: Rejected, ID: "yes", Category: "4xx"}},
	} {
		if got := d.Sort(row.mode, row.status, http.Header{}, []byte(row.body)); got != row.want {
			t.Errorf("%s %d %s is %+v, want %+v", row.mode, row.status, row.body, got, row.want)
		}
	}
}

func TestOutcomesAreRead(t *testing.T) {
	t.Setenv("TARGET_KEY", "k1")
	d := described(t, whole)
	for _, row := range []struct {
		status int
		body   string
		want   Outcome
		ok     bool
	}{
		{200, `{"id":"7","state":"ok"}`, Outcome{ID: "7", Completed: true}, true},
		{200, `{"id":"7","state":"bad"}`, Outcome{ID: "7"}, true},
		{200, `{"id":"7","state":"running"}`, Outcome{ID: "7"}, false},
		{200, `{"id":"7"}`, Outcome{ID: "7"}, false},
		{404, `{"id":"7","state":"ok"}`, Outcome{}, false},
		{200, `{"id":"7","state":"ok"`, Outcome{}, false},
	} {
		if got, ok := d.SortPoll(row.status, []byte(row.body)); got != row.want || ok != row.ok {
			t.Errorf("a poll with %d %s is %+v, %v", row.status, row.body, got, ok)
		}
	}
}

func TestGitHubCallbacksAreVerified(t *testing.T) {
	t.Setenv("TARGET_KEY", "k1")
	d := described(t, whole)
	secret, err := d.ParseSecret("key")
	if err != nil {
		t.Fatal(err)
	}
	sign := func(key, body string) string {
		mac := hmac.New(sha256.New, []byte(key))
		mac.Write([]byte(body))
		return "sha256=" + hex.EncodeToString(mac.Sum(nil))
	}
	const body = `{"id":"7","state":"ok"}`
	for name, row := range map[string]struct {
		header, body string
		secret       Secret
		want         error
	}{
		"good":            {sign("key", body), body, secret, nil},
		"another key":     {sign("kez", body), body, secret, ErrForged},
		"another body":    {sign("key", body), body + " ", secret, ErrForged},
		"none":            {"", body, secret, ErrForged},
		"no hex":          {"sha256=zz", body, secret, ErrForged},
		"no secret known": {sign("", body), body, Secret{}, ErrForged},
		"no outcome":      {sign("key", `[]`), `[]`, secret, ErrMalformed},
	} {
		_, err := d.ReadCallback(http.Header{"X-Sig": {row.header}}, []byte(row.body), time.Now(), row.secret)
		if !errors.Is(err, row.want) || row.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, row.want)
		}
	}
}

func TestStandardCallbacksAreVerified(t *testing.T) {
	d := Tandem()
	secret := webhook.NewSecret()
	const body = `{"request_id":"req_1","type":"request.completed"}`
	now := time.Now()
	for name, row := range map[string]struct {
		at   time.Time
		with webhook.Secret
		want error
	}{
		"good":                  {now, secret, nil},
		"another key":           {now, webhook.NewSecret(), ErrForged},
		"replayed":              {now.Add(-time.Hour), secret, ErrLate},
		"late, and another key": {now.Add(-time.Hour), webhook.NewSecret(), ErrForged},
	} {
		h := http.Header{}
		webhook.Sign(h, "msg_1", row.at, []byte(body), row.with)
		outcome, err := d.ReadCallback(h, []byte(body), now, StandardSecret(secret))
		if !errors.Is(err, row.want) || row.want == nil && (err != nil || outcome != Outcome{ID: "req_1", Completed: true}) {
			t.Errorf("%s: %+v, %v, want %v", name, outcome, err, row.want)
		}
	}
}

func TestBadDescriptionsNameTheField(t *testing.T) {
	t.Setenv("TARGET_KEY", "k1")
	for _, row := range []struct{ old, new, want string }{
		{"name: Reports", "", "name: must be given"},
		{"name: Reports", "nam: Reports", "field nam not found"},
		{"name: Reports", "name: [", "yaml:"},
		{"name: Reports", "name: Reports\n---\n", "one document"},
		{whole, "", "empty"},
		{"method: PUT", "method: put it", "sync.method: must be like POST"},
		{`path: "/r/{{.ID}}?n={{.Seq}}"`, "path: r", "sync.path: must begin with /"},
		{`path: "/r/{{.ID}}?n={{.Seq}}"`, `path: "/r/{{.ID}}?n={{.Sec}}"`, "sync.path: {{.Sec}} is not known"},
		{`path: "/r/{{.ID}}?n={{.Seq}}"`, `path: "/r/{{.ID"`, "sync.path: "},
		{`path: "/r/{{.ID}}?n={{.Seq}}"`, `path: "/r#x"`, "sync.path: must not have"},
		{`path: "/r/{{.ID}}?n={{.Seq}}"`, `path: "/r/{{.CallbackURL}}"`, ""},
		{`{"c":{{.Complexity}}`, `{"c":{{.CallbackURL}}`, "sync.body: a sync request is not called back"},
		{`{"c":{{.Complexity}}`, `{"c":{{if .ID}}1{{end}}`, "sync.body: "},
		{"${TARGET_KEY}", "${TARGET_KEY_THAT_IS_NOT_THERE}", "sync.headers.X-Key: the environment has no TARGET_KEY_THAT_IS_NOT_THERE"},
		{`X-Key: "${TARGET_KEY} "`, `"X Key": "1"`, "sync.headers.X Key: is not a header name"},
		{`X-Key: "${TARGET_KEY} "`, `X-Key: "a\nb"`, "sync.headers.X-Key: its value must be one line"},
		{`X-Key: "${TARGET_KEY} "`, `host: a`, "sync.headers.host: is set by the lab itself"},
		{"accept: [200, 201]", "accept: []", "sync.accept: must list"},
		{"accept: [200, 201]", "accept: [20]", "sync.accept: 20 is not the status"},
		{"accept: [200, 201]", "accept: [two]", "cannot unmarshal"},
		{"failed: [422]", "failed: [200]", "sync.failed: 200 is in accept, too"},
		{"id: /id, result", "id: id, result", "sync.id: must be a JSON pointer"},
		{"result: /rows/0", "result: /~2", "sync.result: ~ must be written ~0"},
		{"/a~1b/~0c/1}", "/a, result: /x}", "async.result: "},
		{"/a~1b/~0c/1}", "/a, failed: [500]}", "async.failed: "},
		{"verify: github, header: x-sig", "verify: github, header: 'x sig'", "callback.header: is not a header name"},
		{"verify: github", "verify: none", "callback.header: only github"},
		{"verify: github", "verify: hmac", "callback.verify: must be standard-webhooks, github or none"},
		{"status: /state, done: [ok], failed: [bad]}\npoll", "done: [ok]}\npoll", "callback.status: must say"},
		{"failed: [bad]}\npoll", "failed: [ok]}\npoll", `callback.failed: "ok" is in done, too`},
		{`path: "/r/{{.ID}}/state"`, "path: r", "poll.path: must begin with /"},
		{"id: /a~1b/~0c/1}", "}", "async.id: must be given"},
		{whole[strings.Index(whole, "poll:"):], "", ""},
		{`'{"to":"{{.CallbackURL}}"}'`, "'{}'", ""},
		{`'{"to":"{{.CallbackURL}}"}'` + whole[strings.LastIndex(whole, ", accept: [202]"):], "'{}', accept: [202]}\ncallback: {verify: none}", "async.body: must have {{.CallbackURL}}"},
	} {
		text := strings.Replace(whole, row.old, row.new, 1)
		if row.old != "" && text == whole {
			t.Fatalf("%q is not in the description", row.old)
		}
		_, err := Parse(strings.NewReader(text))
		switch {
		case row.want == "" && err != nil:
			t.Errorf("with %q: %v, want it to be good", row.new, err)
		case row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)):
			t.Errorf("with %q: %v, want %q", row.new, err, row.want)
		case err != nil && strings.Contains(err.Error(), "k1"):
			t.Errorf("with %q the error repeats the environment: %v", row.new, err)
		}
	}
}

// FuzzParse sends whatever is well described, and sorts whatever is answered,
// without panicking.
func FuzzParse(f *testing.F) {
	f.Add(whole, `{"id":"7","rows":[1],"state":"ok"}`)
	f.Add("name: x\nsync: {path: /, accept: [200], id: /a/0}\nasync: {path: /, body: '{{.CallbackURL}}', accept: [202]}\ncallback: {verify: none}\n", `[[],{"a":[null]}]`)
	f.Fuzz(func(t *testing.T, description, document string) {
		d, err := Parse(strings.NewReader(description))
		if err != nil {
			return
		}
		for _, mode := range tandem.Modes {
			if m := d.Request(mode, Values{ID: "i", CallbackURL: "http://h/", Data: "1"}); !strings.HasPrefix(m.Path, "/") {
				t.Errorf("the path is %q", m.Path)
			}
			d.Sort(mode, 200, http.Header{}, []byte(document))
		}
		if _, err := d.ReadCallback(http.Header{}, []byte(document), time.Now(), Secret{}); err == nil && d.Verifies() {
			t.Error("a callback without signature was believed")
		}
		if d.CanPoll() {
			if m, err := d.PollRequest(Answer{ID: document, StatusURL: document}, "/r"); err == nil && strings.ContainsAny(m.Path, " \r\n") {
				t.Errorf("it would be polled at %q", m.Path)
			}
			d.SortPoll(200, []byte(document))
		}
	})
}
