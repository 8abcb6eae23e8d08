package acceptance

import (
	"net/http"
	"strings"
	"testing"
)

// refusedURL wants a callback URL to be refused at submission.
func refusedURL(t *testing.T, s *service, url string) {
	t.Helper()
	a := s.post("/async", submission{Workload: "wait", Data: data, CallbackURL: url})
	p := a.problem(t, http.StatusUnprocessableEntity)
	if p.ErrorCode != "invalid" || len(p.Errors) != 1 || p.Errors[0].Field != "callback_url" || !strings.HasPrefix(p.Detail, "callback_url: ") {
		t.Errorf("%s is refused with %s", url, a.body)
	}
}

func TestProductionRefusesCallbackURLsThatLeadInward(t *testing.T) {
	parallel(t)
	s := serve(t, "--mode", "production", "--insecure-no-auth", "--rate-limit", "none")
	for _, c := range []struct{ name, url string }{
		{"loopback", "http://127.0.0.1/hook"},
		{"loopback elsewhere in its range", "http://127.8.9.10/hook"},
		{"loopback by name", "http://localhost/hook"},
		{"loopback by a name below it", "https://a.localhost/hook"},
		{"loopback with a trailing dot", "http://localhost./hook"},
		{"loopback over IPv6", "http://[::1]/hook"},
		{"loopback as IPv4 inside of IPv6", "http://[::ffff:127.0.0.1]/hook"},
		{"loopback as one number", "http://2130706433/hook"},
		{"loopback in hex", "http://0x7f000001/hook"},
		{"loopback in octal", "http://0177.0.0.1/hook"},
		{"loopback in short", "http://127.1/hook"},
		{"this machine as zero", "http://0.0.0.0/hook"},
		{"private 10/8", "http://10.0.0.1/hook"},
		{"private 172.16/12", "http://172.31.255.254/hook"},
		{"private 192.168/16", "https://192.168.1.1/hook"},
		{"private over IPv6", "http://[fd00::1]/hook"},
		{"carrier", "http://100.64.0.1/hook"},
		{"link-local", "http://169.254.1.1/hook"},
		{"link-local over IPv6", "http://[fe80::1]/hook"},
		{"metadata address", "http://169.254.169.254/latest/meta-data/"},
		{"metadata name", "http://metadata.google.internal/computeMetadata/v1/"},
		{"private name", "http://db.internal/hook"},
		{"name without a dot", "http://intranet/hook"},
		{"credentials", "https://user:word@example.com/hook"},
		{"port of another service", "http://example.com:6379/"},
		{"another scheme", "ftp://example.com/hook"},
		{"no scheme", "example.com/hook"},
		{"no host", "https:///hook"},
	} {
		t.Run(c.name, func(t *testing.T) { refusedURL(t, s, c.url) })
	}
	if st := s.stats(); st.Requests.Total != 0 {
		t.Errorf("%d refused requests are on record", st.Requests.Total)
	}
	s.kill() // so that its log is complete
	if strings.Contains(s.stderr.String(), "user:word") {
		t.Error("the log shows the credentials of a URL")
	}
}

func TestDemoModeOpensLoopbackAndNothingElse(t *testing.T) {
	parallel(t)
	s := serve(t, "--mode", "demo")
	for _, url := range []string{"http://10.0.0.1/hook", "http://169.254.169.254/latest/meta-data/", "http://192.168.0.1:8080/hook", "http://[fe80::1]/hook", "http://metadata.google.internal/", "http://0.0.0.0/hook"} {
		refusedURL(t, s, url)
	}
	rcv := receive(t, nil)
	s.async(submission{Workload: "wait", Data: data, CallbackURL: "http://localhost:" + rcv.port + "/hook?n=1"})
	if d := rcv.next(); d.path != "/hook?n=1" {
		t.Errorf("the callback came to %s", d.path)
	}
}

func TestProductionReachesWhatTheOperatorOpened(t *testing.T) {
	parallel(t)
	rcv, other := receive(t, nil), receive(t, nil)
	s := serve(t, "--mode", "production", "--insecure-no-auth", "--allow-callback-net", "127.0.0.0/8", "--allow-callback-port", rcv.port)
	id := s.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	rcv.next().verify(t, secret)
	if rec := s.settled(id); rec.Status != "callback_sent" || rec.Callback.MaxAttempts != 8 {
		t.Errorf("the record is %v", rec)
	}
	refusedURL(t, s, other.url) // an open range opens no port
	refusedURL(t, s, "http://10.0.0.1/hook")
	if h := s.health(); !strings.Contains(strings.Join(h.Notices, "\n"), "127.0.0.0/8") {
		t.Errorf("/healthz does not tell of the open range: %+v", h)
	}
}

func TestHTTPSOnlyRefusesPlainCallbacks(t *testing.T) {
	parallel(t)
	rcv := receive(t, nil)
	s := serve(t, "--callback-https-only")
	refusedURL(t, s, rcv.url)
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	onEach(t, redirectsAreNotFollowed)
}

func redirectsAreNotFollowed(t *testing.T, database string) {
	second := receive(t, nil)
	first := receive(t, func(w http.ResponseWriter, r *http.Request, d delivery) {
		code := http.StatusFound
		if d.n > 1 {
			code = http.StatusPermanentRedirect // which would keep method and body
		}
		http.Redirect(w, r, second.url, code)
	})
	s := serve(t, "--database", database, "--mode", "production", "--insecure-no-auth", "--allow-callback-net", "127.0.0.0/8",
		"--allow-callback-port", first.port+","+second.port, "--callback-attempts", "1")
	for _, code := range []string{"302", "308"} {
		id := s.async(submission{Workload: "wait", Data: data, CallbackURL: first.url})
		rec := s.settled(id)
		if rec.Status != "callback_failed" || show(rec.Callback.LastStatus) != code {
			t.Errorf("the record is %v", rec)
		}
		if all := s.attempts(id); len(all) != 1 || show(all[0].ErrorClass) != "redirect" {
			t.Errorf("the attempts are %v", all)
		}
	}
	if n := len(second.received()); n != 0 {
		t.Errorf("%d callbacks followed the redirect", n)
	}
}

func TestANameThatLeadsInwardIsRefusedWhenItIsDialled(t *testing.T) {
	onEach(t, aNameThatLeadsInwardIsRefusedWhenItIsDialled)
}

func aNameThatLeadsInwardIsRefusedWhenItIsDialled(t *testing.T, database string) {
	rcv := receive(t, nil)
	// An open address on loopback lets the name localhost through the look at
	// the URL; the addresses it resolves to are not that one.
	s := serve(t, "--database", database, "--mode", "production", "--insecure-no-auth", "--allow-callback-net", "127.0.0.77/32",
		"--allow-callback-port", rcv.port, "--callback-attempts", "1")
	id := s.async(submission{Workload: "wait", Data: data, CallbackURL: "http://localhost:" + rcv.port + "/hook?key=abc"})
	rec := s.settled(id)
	all := s.attempts(id)
	if rec.Status != "callback_failed" || len(all) != 1 || show(all[0].ErrorClass) != "denied" || !strings.Contains(show(all[0].Error), "loopback") {
		t.Errorf("the record is %v, the attempts are %v", rec, all)
	}
	if strings.Contains(show(all[0].Error), "abc") {
		t.Errorf("the error quotes the query: %s", show(all[0].Error))
	}
	if n := len(rcv.received()); n != 0 {
		t.Errorf("%d callbacks reached loopback", n)
	}
	refusedURL(t, s, rcv.url) // and the address itself is refused at once
}
