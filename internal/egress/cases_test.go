package egress

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
)

// ssrfCase is one line of testdata/ssrf_cases.txt.
type ssrfCase struct {
	allow   bool
	url     string // as it stands in the file: \t is a backslash and a t
	reason  string
	answers [][]netip.Addr // of the DNS, one a lookup; nil if the case has none
}

// passesSubmission says why a case that is to be blocked may pass the first
// look; "" if it may not.
func (c ssrfCase) passesSubmission() string {
	switch {
	case strings.Contains(c.reason, "REDIRECT"):
		return "the address is public, only its answer leads inward; package callback follows no redirect"
	case strings.Contains(c.reason, "rebinding service"), c.answers != nil:
		return "only the DNS knows where the name leads; the dial decides"
	}
	return ""
}

func readCases(t *testing.T) []ssrfCase {
	t.Helper()
	file, err := os.Open("testdata/ssrf_cases.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var cases []ssrfCase
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "#") || line == "" {
			continue
		}
		fields := strings.SplitN(line, "\t", 3)
		if len(fields) != 3 || fields[0] != "ALLOW" && fields[0] != "BLOCK" {
			t.Fatalf("malformed line %q", line)
		}
		c := ssrfCase{allow: fields[0] == "ALLOW", url: fields[1], reason: fields[2]}
		if _, dns, ok := strings.Cut(c.reason, "{dns: "); ok {
			dns, _, _ = strings.Cut(dns, "}")
			c.answers = parseAnswers(t, dns)
		}
		cases = append(cases, c)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if len(cases) != 127 {
		t.Fatalf("read %d cases, want 127", len(cases))
	}
	return cases
}

// parseAnswers reads what the DNS of a case says, such as "A=1.2.3.4 AAAA=::1"
// or "1st=public 2nd=127.0.0.1".
func parseAnswers(t *testing.T, text string) [][]netip.Addr {
	t.Helper()
	named := map[string]string{"public": "93.184.216.34", "private": "10.0.0.7"}
	answers := [][]netip.Addr{nil}
	for _, word := range strings.Fields(strings.ReplaceAll(text, ",", " ")) {
		key, value, ok := strings.Cut(word, "=")
		if !ok {
			value = key
		}
		if address, ok := named[value]; ok {
			value = address
		}
		addr, err := netip.ParseAddr(value)
		if err != nil {
			continue // a remark
		}
		if key == "2nd" {
			answers = append(answers, nil)
		}
		answers[len(answers)-1] = append(answers[len(answers)-1], addr)
	}
	if answers[0] == nil {
		t.Fatalf("no address in %q", text)
	}
	return answers
}

func TestEveryCaseAtSubmission(t *testing.T) {
	g := newGuard(t, Options{})
	for _, c := range readCases(t) {
		u, err := g.CheckURL(c.url)
		switch why := c.passesSubmission(); {
		case c.allow && err != nil:
			t.Errorf("%s (%s): refused: %v", c.url, c.reason, err)
		case c.allow && u.RequestURI() != requestURI(c.url):
			t.Errorf("%s (%s): would ask for %s", c.url, c.reason, u.RequestURI())
		case !c.allow && err == nil && why == "":
			t.Errorf("%s (%s): allowed", c.url, c.reason)
		case !c.allow && err == nil:
			t.Logf("%s passes submission: %s", c.url, why)
		}
	}
}

// requestURI is what follows the host in a well-formed URL, byte for byte.
func requestURI(raw string) string {
	_, rest, _ := strings.Cut(raw, "://")
	return rest[strings.Index(rest, "/"):]
}

// Every case is dialled as if it had passed the first look. A name without an
// answer of its own gets the worst: this machine.
func TestEveryCaseAtTheDial(t *testing.T) {
	for _, c := range readCases(t) {
		u, err := url.Parse(c.url)
		if err != nil || u.Hostname() == "" {
			// There is no host to dial. So it must not have come this far.
			if _, err := newGuard(t, Options{}).CheckURL(c.url); err == nil {
				t.Errorf("%s (%s) has no host, and passes submission", c.url, c.reason)
			}
			continue
		}
		if strings.Contains(c.reason, "REDIRECT") {
			// The first address is public and may be dialled. What counts is
			// that nobody goes on from there (callback: TestSendFollowsNoRedirect)
			// and that the target would be refused as well.
			target := u.Query().Get("url") + u.Query().Get("to")
			if _, err := newGuard(t, Options{}).CheckURL(target); target == "" || err == nil {
				t.Errorf("%s (%s): its target %q is allowed", c.url, c.reason, target)
			}
			continue
		}
		answers := c.answers
		if answers == nil {
			answers = [][]netip.Addr{{netip.MustParseAddr("127.0.0.1")}}
		}
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		stub := &stubDNS{answers: answers}
		g, reached := stoppingGuard(t, Options{Resolver: stub.resolver()})
		for range answers[1:] { // a rebinding name is harmless at first
			if _, err := g.Dial(t.Context(), "tcp", net.JoinHostPort(u.Hostname(), port)); !errors.Is(err, errWouldConnect) {
				t.Errorf("%s (%s): not dialled at first: %v", c.url, c.reason, err)
			}
		}
		*reached = nil
		_, err = g.Dial(t.Context(), "tcp", net.JoinHostPort(u.Hostname(), port))
		switch {
		case c.allow && !errors.Is(err, errWouldConnect):
			t.Errorf("%s (%s): not dialled: %v", c.url, c.reason, err)
		case !c.allow && len(*reached) > 0:
			t.Errorf("%s (%s): dialled %v", c.url, c.reason, *reached)
		case !c.allow && err == nil:
			t.Errorf("%s (%s): connected", c.url, c.reason)
		}
	}
}
