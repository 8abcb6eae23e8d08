package acceptance

import (
	"bufio"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"tandem/internal/probe"
	"tandem/webhook"
)

// The tests whose names begin with TestSecurity are what stands between the
// service and the internet, as tandem check asks of any instance:
//
//	go test ./acceptance -run Security

// exposed is a service in production mode, with two callers and an address for
// operators, as one on the internet would be.
func exposed(t *testing.T, database string) (s *service, key, otherKey string) {
	t.Helper()
	key, _ = newKey(t, database, "ann", "--rate", "10000/60s")
	otherKey, _ = newKey(t, database, "bob", "--rate", "20/60s")
	return serve(t, "--mode", "production", "--database", database, "--admin-addr", "127.0.0.1:0"), key, otherKey
}

func TestSecurityOfAnExposedService(t *testing.T) {
	onEach(t, securityOfAnExposedService)
}

func securityOfAnExposedService(t *testing.T, database string) {
	s, key, otherKey := exposed(t, database)
	instance, err := probe.Connect(t.Context(), probe.Target{URL: s.url(), Key: key, OtherKey: otherKey})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range probe.All {
		if p.Name == "slow-headers" && onPostgres(database) {
			continue // no header reaches a database, and it takes its time
		}
		t.Run(p.Name, func(t *testing.T) {
			finding := instance.Run(t.Context(), p)
			switch {
			case finding.Verdict == probe.Skipped && p.Name == "transport": // over loopback
			case finding.Verdict != probe.Passed:
				t.Errorf("%s: %s", finding.Verdict, strings.Join(finding.Reasons, "\n"))
			}
		})
	}
}

func TestSecurityCheckTellsWhatHoldsAndWhatDoesNot(t *testing.T) {
	parallel(t)
	database := newFile(t)
	s, key, otherKey := exposed(t, database)
	stdout, stderr, code := run(t, []string{"TANDEM_KEY=" + key}, "check", "--url", s.url(), "--other-key", otherKey, "--skip", "slow-headers")
	if code != 0 || strings.Contains(stdout, "FAIL") || !strings.Contains(stdout, "PASS  callback-urls") || !strings.Contains(stdout, "18 passed, 0 failed, 2 skipped") {
		t.Errorf("of an exposed service: exit code %d\n%s%s", code, stdout, stderr)
	}

	open := serve(t) // demo mode: no keys, no rate, callbacks to loopback
	stdout, stderr, code = run(t, nil, "check", "--url", open.url(), "--skip", "slow-headers")
	for _, name := range []string{"missing-key", "operators-only", "callback-urls", "rate-limit"} {
		if !strings.Contains(stdout, "FAIL  "+name) {
			t.Errorf("of a service in demo mode, %s does not fail", name)
		}
	}
	if code != 1 || !strings.Contains(stdout, "PASS  malformed-bodies") || !strings.Contains(stderr, "4 of the defences") {
		t.Errorf("of a service in demo mode: exit code %d\n%s%s", code, stdout, stderr)
	}

	for _, row := range []struct{ want, args string }{
		{"--skip", "--skip nothing"},
		{"--patience", "--patience 1ms"},
		{"--url", "--url not-a-url"},
		{"none was given", "--url " + s.url()},

		{"reach", "--url http://127.0.0.1:1"},
	} {
		_, stderr, code := run(t, nil, append([]string{"check"}, strings.Fields(row.args)...)...)
		oneLine(t, stderr, code, row.want)
	}
}

// Every case of the egress rules, over HTTP. Where only the DNS knows what a
// name leads to, the dial decides: package egress tests that.
func TestSecurityCallbackURLsOfEveryKind(t *testing.T) {
	parallel(t)
	database := newFile(t)
	s, key, _ := exposed(t, database)
	ann := s.as(key)
	file, err := os.Open("../internal/egress/testdata/ssrf_cases.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	blocked, allowed := 0, 0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.SplitN(lines.Text(), "\t", 3)
		if len(fields) != 3 {
			continue
		}
		verdict, url, reason := fields[0], fields[1], fields[2]
		if verdict == "BLOCK" && (strings.Contains(reason, "{dns") || strings.Contains(reason, "REDIRECT") || strings.Contains(reason, "rebinding service")) {
			continue
		}
		a := ann.post("/async", map[string]any{
			"data": data, "workload": "wait", "callback_url": url, "not_before": time.Now().Add(time.Hour),
		})
		switch {
		case verdict == "BLOCK":
			blocked++
			if p := a.problem(t, http.StatusUnprocessableEntity); len(p.Errors) != 1 || p.Errors[0].Field != "callback_url" || !strings.Contains(p.Detail, "rule ") {
				t.Errorf("%s: %+v", url, p)
			}
		case a.status != http.StatusAccepted:
			t.Errorf("%s (%s): %d %s", url, reason, a.status, a.body)
		default:
			allowed++
		}
	}
	if blocked < 90 || allowed < 10 {
		t.Errorf("%d URLs were blocked and %d allowed: the file has more", blocked, allowed)
	}
	t.Logf("%d URLs refused with 422, %d accepted", blocked, allowed)
}

// What callers entrust to the service is told to nobody: not to the log, not to
// each other, and not to operators.
func TestSecuritySecretsAreToldToNobody(t *testing.T) {
	onEach(t, securitySecretsAreToldToNobody)
}

func securitySecretsAreToldToNobody(t *testing.T, file string) {
	const inHeader, inQuery = "token-of-the-receiver", "word-in-the-query"
	key, callbackSecret := newKey(t, file, "ann")
	root, _ := newKey(t, file, "root", "--admin")
	rcv := receive(t, nil)
	s := serve(t, "--database", file, "--require-keys", "--log-level", "debug", "--callback-attempts", "1")
	ann := s.as(key)
	submit := func(url string) string {
		a := ann.post("/async", map[string]any{
			"data": data, "workload": "wait", "callback_url": url + "?token=" + inQuery,
			"callback": map[string]any{"headers": map[string]string{"Authorization": "Bearer " + inHeader}},
		})
		if a.status != http.StatusAccepted {
			t.Fatalf("POST /async: %d %s", a.status, a.body)
		}
		return strings.TrimPrefix(a.header.Get("Location"), "/requests/")
	}
	id := submit(rcv.url)
	if d := rcv.next(); d.header.Get("Authorization") != "Bearer "+inHeader || !strings.Contains(d.path, inQuery) {
		t.Errorf("the callback came to %s with %v", d.path, d.header)
	}
	failing := submit("http://127.0.0.1:1/hook")
	ann.settled(id)
	ann.settled(failing)

	everything := s.as(root)
	var told string
	for _, path := range []string{"/requests", "/requests/" + id, "/requests/" + id + "/attempts", "/requests/" + failing + "/attempts", "/callbacks", "/stats", "/healthz", "/metrics", "/openapi.json"} {
		told += string(everything.get(path).body)
	}
	told += string(s.as(key + "x").get("/requests").body) // a wrong key comes back in no error
	s.kill()                                              // so that its log is complete
	log := s.stderr.String()
	for what, secret := range map[string]string{
		"an API key":           key,
		"a callback secret":    strings.TrimPrefix(callbackSecret.Reveal(), webhook.SecretPrefix),
		"the global secret":    strings.TrimPrefix(secret.Reveal(), webhook.SecretPrefix),
		"a header of a caller": inHeader,
	} {
		if strings.Contains(told+log, secret) {
			t.Errorf("%s can be seen", what)
		}
	}
	if !onPostgres(file) && runtime.GOOS != "windows" {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file with the secrets in it is %v, %v; want it readable by its owner only", info, err)
		}
	}
	if strings.Contains(log, inQuery) {
		t.Error("the query of a callback URL is in the log")
	}
}
