package acceptance

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"tandem/webhook"
)

// newKey makes an API key with the command line.
func newKey(t *testing.T, file, name string, args ...string) (key string, callbacks webhook.Secret) {
	t.Helper()
	stdout, stderr, code := run(t, nil, append([]string{"keys", "create", "--database", file, "--name", name}, args...)...)
	found := regexp.MustCompile(`^api key +(\S+)\ncallback secret +(\S+)\n$`).FindStringSubmatch(stdout)
	if code != 0 || found == nil {
		t.Fatalf("exit code is %d:\n%s%s", code, stdout, stderr)
	}
	callbacks, err := webhook.ParseSecret(found[2])
	if err != nil {
		t.Fatal(err)
	}
	return found[1], callbacks
}

// as is the service as the holder of a key sees it.
func (s *service) as(key string) *service {
	c := *s
	c.client = &http.Client{Transport: bearer{key, s.client.Transport}, Timeout: s.client.Timeout}
	return &c
}

type bearer struct {
	key  string
	next http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.key)
	return b.next.RoundTrip(r)
}

func TestProductionLetsInOnlyThoseWithAKey(t *testing.T) {
	onEach(t, productionLetsInOnlyThoseWithAKey)
}

func productionLetsInOnlyThoseWithAKey(t *testing.T, file string) {
	s := serve(t, "--mode", "production", "--database", file)
	s.says(t, "nobody can enter")
	for _, path := range []string{"/requests", "/requests/req_01a209d4eb097229aa5493a7b83faabf", "/stats", "/metrics", "/docs", "/openapi.json", "/nothing"} {
		p := s.get(path).problem(t, http.StatusUnauthorized)
		if p.ErrorCode != "unauthorized" {
			t.Errorf("GET %s without a key: %+v", path, p)
		}
	}
	a := s.post("/sync", submission{Workload: "wait", Data: data})
	if p := a.problem(t, http.StatusUnauthorized); p.ErrorCode != "unauthorized" || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") {
		t.Errorf("POST /sync without a key: %+v, %v", p, a.header)
	}
	s.post("/async", submission{Workload: "wait", Data: data}).problem(t, http.StatusUnauthorized)
	for _, path := range []string{"/healthz", "/readyz"} {
		if a := s.get(path); a.status != http.StatusOK {
			t.Errorf("GET %s: %d", path, a.status)
		}
	}

	key, _ := newKey(t, file, "ann") // while it runs
	ann := s.as(key)
	eventually(t, "the new key is let in", func() bool { return ann.get("/requests").status == http.StatusOK })
	ann.sync(submission{Workload: "wait", Data: data})
	ann.get("/metrics").problem(t, http.StatusForbidden)

	began := time.Now()
	if _, stderr, code := run(t, nil, "keys", "revoke", "--database", file, "--name", "ann"); code != 0 {
		t.Fatalf("revoke: %d %s", code, stderr)
	}
	eventually(t, "the revoked key is turned away", func() bool { return ann.get("/requests").status != http.StatusOK })
	if took := time.Since(began); took > 3*time.Second { // 1 s, and what the command and a busy machine take
		t.Errorf("a revoked key was good for %v", took)
	}
}

func TestACallerSeesItsOwnRequestsOnly(t *testing.T) {
	onEach(t, aCallerSeesItsOwnRequestsOnly)
}

func aCallerSeesItsOwnRequestsOnly(t *testing.T, file string) {
	annKey, annSecret := newKey(t, file, "ann")
	bobKey, bobSecret := newKey(t, file, "bob")
	rootKey, _ := newKey(t, file, "root", "--admin")
	rcv := receive(t, nil)
	s := serve(t, "--database", file, "--require-keys") // demo mode, for callbacks to loopback
	ann, bob, root := s.as(annKey), s.as(bobKey), s.as(rootKey)

	annID := ann.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	rcv.next().verify(t, annSecret)
	bobID := bob.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	delivery := rcv.next()
	delivery.verify(t, bobSecret)
	if err := webhook.Verify(delivery.header, delivery.body, time.Now(), annSecret); err == nil {
		t.Error("bob's callback is signed with ann's secret as well")
	}
	ann.settled(annID) // the receiver knows of a delivery before it is recorded
	bob.settled(bobID)
	for _, path := range []string{"", "?wait=1s", "/attempts"} {
		bob.get("/requests/"+annID+path).problem(t, http.StatusNotFound)
		for _, who := range []*service{ann, root} {
			if a := who.get("/requests/" + annID + path); a.status != http.StatusOK {
				t.Errorf("GET %s%s: %d", annID, path, a.status)
			}
		}
	}
	for name, row := range map[string]struct {
		who  *service
		want string
	}{"ann": {ann, annID}, "bob": {bob, bobID}, "root": {root, bobID + " " + annID}} {
		var ids []string
		for _, r := range row.who.history("") {
			ids = append(ids, r.RequestID)
		}
		if got := strings.Join(ids, " "); got != row.want {
			t.Errorf("%s sees %s, want %s", name, got, row.want)
		}
		n := len(strings.Fields(row.want))
		if st := row.who.stats(); st.Requests.Total != n || st.Callbacks.Delivered != n {
			t.Errorf("%s is told of %d requests and %d callbacks, want %d", name, st.Requests.Total, st.Callbacks.Delivered, n)
		}
	}
	if a := root.get("/metrics"); a.status != http.StatusOK {
		t.Errorf("an admin gets %d from /metrics", a.status)
	}
}

func TestWrongKeysAreLimitedByAddress(t *testing.T) {
	onEach(t, wrongKeysAreLimitedByAddress)
}

func wrongKeysAreLimitedByAddress(t *testing.T, file string) {
	key, _ := newKey(t, file, "ann")
	s := serve(t, "--mode", "production", "--database", file)
	wrong := s.as("tandem_aaaaaaaaaaaa_AAAAAAAAAAAAAAAAAAAAAAAAAA")
	refused := 0
	for range 15 {
		switch a := wrong.get("/stats"); a.status {
		case http.StatusUnauthorized:
		case http.StatusTooManyRequests:
			refused++
			a.retryAfter(t)
		default:
			t.Errorf("a wrong key gets %d", a.status)
		}
	}
	if refused != 5 {
		t.Errorf("%d of 15 guesses were refused, want 5", refused)
	}
	if a := s.as(key).get("/stats"); a.status != http.StatusOK {
		t.Errorf("a right key gets %d after wrong ones", a.status)
	}
}

func TestAKeyHasARateOfItsOwn(t *testing.T) {
	onEach(t, aKeyHasARateOfItsOwn)
}

func aKeyHasARateOfItsOwn(t *testing.T, file string) {
	slow, _ := newKey(t, file, "slow", "--rate", "2/1h")
	usual, _ := newKey(t, file, "usual")
	s := serve(t, "--database", file, "--require-keys", "--rate-limit", "3/1h")
	for _, row := range []struct {
		key   string
		limit int
	}{{slow, 2}, {usual, 3}} {
		who := s.as(row.key)
		for i := range row.limit {
			a := who.post("/async", submission{Workload: "wait", Data: data})
			var left, reset int
			_, err := fmt.Sscanf(a.header.Get("RateLimit"), `"default";r=%d;t=%d`, &left, &reset)
			// Postgres counts in slices of a fiftieth of the window.
			if a.status != http.StatusAccepted || err != nil || left != row.limit-i-1 || reset < 3599 || reset > 3600+3600/50 {
				t.Errorf("request %d gets %d with %s, want it let in with %d left for an hour", i, a.status, a.header.Get("RateLimit"), row.limit-i-1)
			}
		}
		who.post("/async", submission{Workload: "wait", Data: data}).problem(t, http.StatusTooManyRequests)
	}
}

func TestEveryAnswerOfALimitedRouteTellsTheLimit(t *testing.T) {
	onEach(t, everyAnswerOfALimitedRouteTellsTheLimit)
}

func everyAnswerOfALimitedRouteTellsTheLimit(t *testing.T, file string) {
	key, _ := newKey(t, file, "ann")
	s := serve(t, "--database", file, "--require-keys", "--rate-limit", "8/1h")
	ann, wrong := s.as(key), s.as("tandem_aaaaaaaaaaaa_AAAAAAAAAAAAAAAAAAAAAAAAAA")
	const good = `{"data":{"a":1},"workload":"wait"}`
	left := map[string]int{"default": 8, "wrong-keys": 10}
	for _, row := range []struct {
		name, path, body string
		who              *service
		header           []string
		status           int
		limit            string
		costs            int
	}{
		{"a result", "/sync", good, ann, nil, 200, "default", 1},
		{"a promise", "/async", good, ann, nil, 202, "default", 1},
		{"no JSON", "/async", "{", ann, nil, 400, "default", 1},
		{"a bad field", "/sync", `{"data":{}}`, ann, nil, 422, "default", 1},
		{"an encoded body", "/sync", good, ann, []string{"Content-Encoding", "gzip"}, 415, "default", 1},
		{"too much", "/async", strings.Repeat(" ", 70_000), ann, nil, 413, "default", 1},
		{"a page elsewhere", "/async", good, ann, []string{"Sec-Fetch-Site", "cross-site"}, 403, "default", 1},
		{"a bad parameter", "/async?at=once", good, ann, nil, 422, "default", 1},
		{"one too many", "/async", good, ann, nil, 429, "default", 0},
		{"no key", "/async", good, s, nil, 401, "wrong-keys", 0},
		{"no key, from a page elsewhere", "/sync", good, s, []string{"Sec-Fetch-Site", "cross-site"}, 403, "wrong-keys", 0},
		{"a wrong key", "/sync", good, wrong, nil, 401, "wrong-keys", 1},
		{"a wrong key again", "/sync", good, wrong, nil, 401, "wrong-keys", 1},
		{"no key, after wrong ones", "/async", good, s, nil, 401, "wrong-keys", 0},
	} {
		a := row.who.send("POST", row.path, row.body, row.header...)
		left[row.limit] -= row.costs
		policy, form := `"default";q=8;w=3600`, `^"default";r=%d;t=\d+$`
		if row.limit == "wrong-keys" {
			policy, form = `"wrong-keys";q=10;w=60`, `^"wrong-keys";r=%d;t=\d+$`
		}
		got := a.header.Get("RateLimit")
		if a.status != row.status || a.header.Get("RateLimit-Policy") != policy || !regexp.MustCompile(fmt.Sprintf(form, left[row.limit])).MatchString(got) {
			t.Errorf("%s: %d, %s of %s, want %d and %d left of %s", row.name, a.status, got, a.header.Get("RateLimit-Policy"), row.status, left[row.limit], policy)
		}
	}
}

func TestSecretsAreRotatedWithAnOverlap(t *testing.T) {
	onEach(t, secretsAreRotatedWithAnOverlap)
}

func secretsAreRotatedWithAnOverlap(t *testing.T, file string) {
	key, first := newKey(t, file, "ann")
	rcv := receive(t, nil)
	s := serve(t, "--database", file, "--require-keys")
	ann := s.as(key)
	rotate := func(overlap string) webhook.Secret {
		t.Helper()
		stdout, stderr, code := run(t, nil, "keys", "rotate", "--database", file, "--name", "ann", "--overlap", overlap)
		secret, err := webhook.ParseSecret(strings.TrimSpace(strings.TrimPrefix(stdout, "callback secret")))
		if code != 0 || err != nil {
			t.Fatalf("rotate: %d %v %s%s", code, err, stdout, stderr)
		}
		return secret
	}
	signedWith := func(secret webhook.Secret) bool {
		ann.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
		d := rcv.next()
		return webhook.Verify(d.header, d.body, time.Now(), secret) == nil
	}
	second := rotate("1h")
	eventually(t, "callbacks are signed with the new secret", func() bool { return signedWith(second) })
	if !signedWith(first) {
		t.Error("the old secret is gone before the overlap is over")
	}
	third := rotate("0s")
	eventually(t, "callbacks are signed with the third secret", func() bool { return signedWith(third) })
	if signedWith(first) || signedWith(second) {
		t.Error("an old secret outlives its overlap")
	}
}

func TestTokensAreNotKept(t *testing.T) {
	onEach(t, tokensAreNotKept)
}

func tokensAreNotKept(t *testing.T, file string) {
	key, _ := newKey(t, file, "ann")
	s := serve(t, "--database", file, "--require-keys")
	s.as(key).sync(submission{Workload: "wait", Data: data})
	s.stop(t)
	kept := contents(t, file)
	_, random, _ := strings.Cut(strings.TrimPrefix(key, "tandem_"), "_")
	if id, _, _ := strings.Cut(strings.TrimPrefix(key, "tandem_"), "_"); !strings.Contains(kept, id) {
		t.Error("not even the key's id is in what is kept: nothing is shown")
	}
	if strings.Contains(kept, random) || strings.Contains(s.stderr.String(), random) {
		t.Error("the token is in the database or in the log")
	}
}

func TestKeysSayWhatTheyCannotDo(t *testing.T) {
	onEach(t, keysSayWhatTheyCannotDo)
}

func keysSayWhatTheyCannotDo(t *testing.T, file string) {
	newKey(t, file, "ann")
	for _, row := range []struct{ args, words string }{
		{"create --name ann", "--name revoke"},
		{"create --name Ann", "--name: must a-z"},
		{"create", "--name"},
		{"create --name bob --rate fast", "--rate 50/60s"},
		{"revoke --name bob", "--name bob"},
		{"rotate --name bob", "--name"},
		{"rotate --name ann --overlap=-1s", "--overlap"},
		{"list --database /no/such/file", "--database"},
		{"create --name bob --database :memory:", "--database memory"},
	} {
		args := append([]string{"keys"}, strings.Fields(row.args)...)
		if !strings.Contains(row.args, "--database") {
			args = append(args, "--database", file)
		}
		_, stderr, code := run(t, nil, args...)
		words := strings.Fields(row.words)
		if words[len(words)-1] == "bob" {
			words = words[:1]
		}
		oneLine(t, stderr, code, words...)
	}
	if stdout, _, code := run(t, nil, "keys", "list", "--database", file); code != 0 || !regexp.MustCompile(`(?m)^ann +no +default +1 +\S+ +-$`).MatchString(stdout) {
		t.Errorf("list says, with %d:\n%s", code, stdout)
	}
	_, stderr, code := run(t, nil, "serve", "--mode", "production", "--database", ":memory:")
	oneLine(t, stderr, code, "--database", "--insecure-no-auth")
}
