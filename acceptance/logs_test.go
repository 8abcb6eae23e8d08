package acceptance

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"tandem/webhook"
)

// logLine is one line of the log.
type logLine struct {
	Time      time.Time `json:"time"`
	Level     string    `json:"level"`
	Message   string    `json:"msg"`
	Component string    `json:"component"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	Status    int       `json:"status"`
	ID        any       `json:"id"` // River has numbers
	RequestID string    `json:"request_id"`
}

// logLines reads the whole log of a process, which is JSON on stderr.
func (p *process) logLines(t *testing.T) []logLine {
	t.Helper()
	var lines []logLine
	for text := range strings.Lines(p.stderr.String()) {
		var line logLine
		if err := json.Unmarshal([]byte(text), &line); err != nil || line.Level == "" || line.Message == "" || line.Time.IsZero() {
			t.Errorf("a line of the log is %q: %v", text, err)
		}
		lines = append(lines, line)
	}
	return lines
}

func TestEveryExchangeIsOneLineOfTheLog(t *testing.T) {
	parallel(t)
	needSignals(t)
	s := serve(t)
	sync, _ := s.sync(quick)
	async := s.async(quick)
	s.worked(async)
	s.attempts(async)
	s.get("/nowhere")
	s.post("/sync", `{`).problem(t, http.StatusBadRequest)
	traced, err := http.NewRequest("GET", "http://"+s.addr+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	traced.Header.Set("X-Request-ID", "from-the-caller.1")
	res, err := s.client.Do(traced)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got := res.Header.Get("X-Request-ID"); got != "from-the-caller.1" {
		t.Errorf("X-Request-ID comes back as %q", got)
	}
	s.stop(t)

	type exchange struct {
		method, path string
		status       int
		requestID    string
	}
	var got []exchange
	ids := make(map[string]bool)
	for _, line := range s.logLines(t) {
		if line.Message != "request" {
			continue
		}
		got = append(got, exchange{line.Method, line.Path, line.Status, line.RequestID})
		id, _ := line.ID.(string)
		if id == "" || ids[id] {
			t.Errorf("the id %q of an exchange is not its own", id)
		}
		ids[id] = true
	}
	want := []exchange{
		{"POST", "/sync", 200, sync},
		{"POST", "/async", 202, async},
		{"GET", "/requests/" + async, 200, async},
		{"GET", "/requests/" + async + "/attempts", 200, async},
		{"GET", "/nowhere", 404, ""},
		{"POST", "/sync", 400, ""},
		{"GET", "/healthz", 200, ""},
	}
	if len(got) != len(want) {
		t.Fatalf("the log has %d exchanges, want %d:\n%s", len(got), len(want), s.stderr.String())
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("exchange %d is logged as %+v, want %+v", i+1, got[i], want[i])
		}
	}
	if !ids["from-the-caller.1"] {
		t.Error("the id that the caller gave is not in the log")
	}
	if s.stdout.String() != "" {
		t.Errorf("stdout is %q", s.stdout.String())
	}
}

func TestTheLogKeepsSecrets(t *testing.T) {
	onEach(t, theLogKeepsSecrets)
}

func theLogKeepsSecrets(t *testing.T, file string) {
	needSignals(t)
	const inURL, inUpstream, inBody = "key-in-the-query", "word-of-the-upstream", "value-in-the-data"
	failing := receive(t, status(http.StatusBadGateway))
	rcv := receive(t, nil)
	u := newUpstream(t)
	u.open()
	s := serveIn(t, t.TempDir(), nil, "--database", file, "--log-level", "debug", "--callback-attempts", "1",
		"--upstream", "held="+strings.Replace(u.url, "http://", "http://user:"+inUpstream+"@", 1),
		"--upstream", "gone=http://user:"+inUpstream+"@127.0.0.1:1/")
	kept := showSecret(t, nil, "--database", file)

	sub := u.work(inBody, rcv.url+"?key="+inURL)
	s.async(sub)
	if d := rcv.next(); !strings.Contains(d.path, inURL) {
		t.Errorf("the callback came to %s", d.path)
	}
	sub.CallbackURL = failing.url + "?key=" + inURL
	s.settled(s.async(sub))
	sub.CallbackURL = "http://127.0.0.1:1/hook?key=" + inURL // nobody listens
	rec := s.settled(s.async(sub))
	if strings.Contains(show(rec.Callback.LastError), inURL) {
		t.Errorf("last_error quotes the query: %s", show(rec.Callback.LastError))
	}
	sub.CallbackURL = "http://user:" + inURL + "@127.0.0.1/hook" // refused
	s.post("/async", sub).problem(t, http.StatusUnprocessableEntity)
	s.post("/sync", submission{Workload: "http", Data: map[string]any{"upstream": "gone"}}).problem(t, http.StatusBadGateway)
	s.get("/requests?cursor=" + inURL)
	s.stop(t)

	log := s.stderr.String()
	for what, text := range map[string]string{
		"the secret":                    strings.TrimPrefix(kept.Reveal(), webhook.SecretPrefix),
		"some secret":                   webhook.SecretPrefix,
		"the query of a URL":            inURL,
		"the credentials of a upstream": inUpstream,
		"what a caller sent":            inBody,
	} {
		if strings.Contains(log, text) {
			t.Errorf("the log shows %s", what)
		}
	}
	s.logLines(t)
}

func TestASecretGivenToTheServiceStaysOutOfItsLogAndItsAPI(t *testing.T) {
	onEach(t, aSecretGivenToTheServiceStaysOutOfItsLogAndItsAPI)
}

func aSecretGivenToTheServiceStaysOutOfItsLogAndItsAPI(t *testing.T, database string) {
	rcv := receive(t, nil)
	u := newUpstream(t)
	u.open()
	s := serveIn(t, t.TempDir(), nil, "--database", database, "--log-level", "debug", "--callback-secret", secret.Reveal(), "--upstream", "held="+strings.Replace(u.url, "http://", "http://user:pass-word@", 1))
	id := s.async(u.work("a", rcv.url))
	rcv.next().verify(t, secret)
	s.settled(id)
	var seen string
	for _, path := range []string{"/requests", "/requests/" + id, "/requests/" + id + "/attempts", "/stats", "/healthz", "/metrics", "/openapi.json"} {
		seen += string(s.get(path).body)
	}
	s.kill() // so that its log is complete
	seen += s.stderr.String()
	for _, text := range []string{strings.TrimPrefix(secret.Reveal(), webhook.SecretPrefix), "pass-word"} {
		if strings.Contains(seen, text) {
			t.Errorf("%q can be seen from outside", text)
		}
	}
}
