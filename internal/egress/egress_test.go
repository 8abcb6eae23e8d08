package egress

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// ssrfCase is one line of testdata/ssrf_cases.txt.
type ssrfCase struct {
	allow   bool
	url     string
	reason  string
	answers [][]netip.Addr // of the DNS, in turn; nil if the case has none
}

func readCases(t *testing.T) []ssrfCase {
	t.Helper()
	file, err := os.Open("testdata/ssrf_cases.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var cases []ssrfCase
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "#") || line == "" {
			continue
		}
		fields := strings.SplitN(line, "\t", 3)
		if len(fields) != 3 {
			t.Fatalf("malformed line %q", line)
		}
		c := ssrfCase{allow: fields[0] == "ALLOW", url: fields[1], reason: fields[2]}
		if _, dns, ok := strings.Cut(c.reason, "{dns: "); ok {
			dns, _, _ = strings.Cut(dns, "}")
			c.answers = parseAnswers(t, dns)
		}
		cases = append(cases, c)
	}
	if len(cases) < 127 {
		t.Fatalf("read %d cases, want all 127", len(cases))
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

// errWouldConnect is what a dial ends with in place of a packet.
var errWouldConnect = errors.New("allowed; the test stops before the first packet")

// dial goes as far as the verdict on each address.
func dial(t *testing.T, opts Options, addr string, answers [][]netip.Addr) error {
	t.Helper()
	opts.Resolver = fakeDNS(answers)
	g, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	verdict := g.dialer.ControlContext
	g.dialer.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
		if err := verdict(ctx, network, address, c); err != nil {
			return err
		}
		return errWouldConnect
	}
	conn, err := g.Dial(t.Context(), "tcp", addr)
	if err == nil {
		conn.Close()
		t.Fatalf("connected to %s", addr)
	}
	return err
}

func TestEveryCaseAtSubmission(t *testing.T) {
	g, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range readCases(t) {
		_, err := g.CheckURL(c.url)
		if c.allow && err != nil {
			t.Errorf("%s (%s): refused: %v", c.url, c.reason, err)
		}
		// What only the DNS or a redirect turns inward passes here, and is
		// stopped at the dial or by never following a redirect.
		if !c.allow && err == nil && c.answers == nil && !strings.Contains(c.reason, "REDIRECT") && !strings.Contains(c.reason, "rebinding service") {
			t.Errorf("%s (%s): allowed", c.url, c.reason)
		}
	}
}

func TestEveryCaseAtTheDial(t *testing.T) {
	dialled := 0
	for _, c := range readCases(t) {
		u, err := url.Parse(c.url)
		if err != nil || u.Hostname() == "" || u.User != nil || strings.Contains(c.reason, "REDIRECT") {
			continue // there is no host to dial, or its address is not what is wrong
		}
		answers := c.answers
		if answers == nil { // the worst answer that a name could get
			answers = [][]netip.Addr{{netip.MustParseAddr("127.0.0.1")}}
		}
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		dialled++
		err = dial(t, Options{}, net.JoinHostPort(u.Hostname(), port), answers[:1])
		if len(answers) > 1 && c.answers != nil {
			err = dial(t, Options{}, net.JoinHostPort(u.Hostname(), port), answers[1:])
		}
		if c.allow && !errors.Is(err, errWouldConnect) {
			t.Errorf("%s (%s): not dialled: %v", c.url, c.reason, err)
		}
		if !c.allow && errors.Is(err, errWouldConnect) {
			t.Errorf("%s (%s): dialled", c.url, c.reason)
		}
	}
	if dialled < 90 {
		t.Errorf("only %d cases were dialled", dialled)
	}
}

func TestAddressRules(t *testing.T) {
	for _, c := range []struct {
		what, addr string
		want       string // the rule; "" allows
	}{
		{"the metadata address is link-local", "169.254.169.254", "link_local"},
		{"just below link-local", "169.253.255.255", ""},
		{"just above link-local", "169.255.0.0", ""},
		{"just below CGNAT", "100.63.255.255", ""},
		{"the first of CGNAT", "100.64.0.0", "shared"},
		{"the last of CGNAT", "100.127.255.255", "shared"},
		{"just above CGNAT", "100.128.0.0", ""},
		{"just below 10/8", "9.255.255.255", ""},
		{"the last of 10/8", "10.255.255.255", "private"},
		{"just above 10/8", "11.0.0.0", ""},
		{"just below 172.16/12", "172.15.255.255", ""},
		{"the last of 172.16/12", "172.31.255.255", "private"},
		{"just above 172.16/12", "172.32.0.0", ""},
		{"just below 192.168/16", "192.167.255.255", ""},
		{"just above 192.168/16", "192.169.0.0", ""},
		{"the last of loopback", "127.255.255.255", "loopback"},
		{"just above loopback", "128.0.0.0", ""},
		{"just below Azure's WireServer", "168.63.129.15", ""},
		{"Azure's WireServer", "168.63.129.16", "cloud"},
		{"just above Azure's WireServer", "168.63.129.17", ""},
		{"just below multicast", "223.255.255.255", ""},
		{"the first of multicast", "224.0.0.0", "multicast"},
		{"class E", "240.0.0.1", "reserved"},
		{"broadcast", "255.255.255.255", "reserved"},
		{"the last of benchmarking", "198.19.255.255", "benchmarking"},
		{"just above benchmarking", "198.20.0.0", ""},
		{"IPv4 in IPv6 is judged as IPv4", "::ffff:10.0.0.1", "private"},
		{"IPv6 loopback", "::1", "loopback"},
		{"IPv6 unspecified", "::", "unspecified"},
		{"a zone changes nothing", "fe80::1%eth0", "link_local"},
		{"the last of link-local", "febf:ffff::", "link_local"},
		{"site-local is not global unicast", "fec0::1", "not_global"},
		{"unique local", "fd00::1", "unique_local"},
		{"just below global unicast", "1fff:ffff::", "not_global"},
		{"just above the protocol assignments", "2001:200::", ""},
		{"just below 6to4", "2001:ffff::", ""},
		{"6to4", "2002::1", "6to4"},
		{"just above 6to4", "2003::", ""},
		{"just below documentation", "2001:db7:ffff::", ""},
		{"documentation", "2001:db8::1", "documentation"},
		{"just above documentation", "2001:db9::", ""},
		{"the last of global unicast's documentation", "3fff:fff::1", "documentation"},
		{"just above global unicast", "4000::", "not_global"},
		{"NAT64", "64:ff9b::808:808", "nat64"},
	} {
		g, _ := New(Options{})
		got := ""
		if denied := g.CheckAddr(netip.AddrPortFrom(netip.MustParseAddr(c.addr), 443)); denied != nil {
			got = denied.Rule
		}
		if got != c.want {
			t.Errorf("%s, %s: got %q, want %q", c.what, c.addr, got, c.want)
		}
	}
}

func TestOptionsOpenWhatTheySay(t *testing.T) {
	lan := Options{InsecureAllow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
	local := Options{LoopbackAnyPort: true}
	for _, c := range []struct {
		what string
		opts Options
		url  string
		want string // the rule; "" allows
	}{
		{"an opened range", lan, "http://10.1.2.3/", ""},
		{"just outside of an opened range", lan, "http://10.2.0.0/", "private"},
		{"an opened range opens no port", lan, "http://10.1.2.3:8080/", "port"},
		{"an allowed port", Options{AllowPorts: []uint16{8443}}, "https://example.com:8443/", ""},
		{"another port", Options{AllowPorts: []uint16{8443}}, "https://example.com:8444/", "port"},
		{"http where https is asked for", Options{HTTPSOnly: true}, "http://example.com/", "scheme"},
		{"loopback on any port", local, "http://127.0.0.1:9090/", ""},
		{"IPv6 loopback on any port", local, "http://[::1]:9090/", ""},
		{"localhost on any port", local, "http://localhost:9090/", ""},
		{"below localhost", local, "http://a.localhost:9090/", "private_name"},
		{"another address on any port", local, "http://8.8.8.8:9090/", "port"},
		{"a private address in demo mode", local, "http://192.168.1.1/", "private"},
		{"DNS64 of a public address", Options{DNS64: true}, "http://[64:ff9b::808:808]/", ""},
		{"DNS64 of a private address", Options{DNS64: true}, "http://[64:ff9b::a00:1]/", "private"},
	} {
		g, err := New(c.opts)
		if err != nil {
			t.Fatal(err)
		}
		_, err = g.CheckURL(c.url)
		got := ""
		if denied, ok := errors.AsType[*Denied](err); ok {
			got = denied.Rule
		}
		if got != c.want {
			t.Errorf("%s, %s: got %q (%v), want %q", c.what, c.url, got, err, c.want)
		}
	}
}

func TestBadOptionsComeBackJoined(t *testing.T) {
	_, err := New(Options{
		InsecureAllow: []netip.Prefix{{}, netip.MustParsePrefix("::ffff:10.0.0.0/104")},
		AllowPorts:    []uint16{0},
	})
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("got %v, want three faults", err)
	}
}

func TestDialReachesWhatIsAllowedAndOnlyThat(t *testing.T) {
	reached := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached <- struct{}{} }))
	defer server.Close()
	addr := server.Listener.Addr().String()

	strict, _ := New(Options{})
	_, err := strict.Dial(t.Context(), "tcp", addr)
	denied, ok := errors.AsType[*Denied](err)
	if !ok || denied.Rule != "port" {
		t.Errorf("got %v, want a denial for the port", err)
	}
	open, _ := New(Options{LoopbackAnyPort: true})
	client := &http.Client{Transport: &http.Transport{DialContext: open.Dial}}
	answer, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	<-reached
}

// FuzzCheckURL: what passes the URL rules as a literal address passes the
// address rules too, and nothing makes the parser panic.
func FuzzCheckURL(f *testing.F) {
	file, err := os.ReadFile("testdata/ssrf_cases.txt")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(file)) {
		if fields := strings.Split(line, "\t"); len(fields) > 1 {
			f.Add(fields[1])
		}
	}
	g, _ := New(Options{})
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := g.CheckURL(raw)
		if err != nil {
			if _, ok := errors.AsType[*Denied](err); !ok {
				t.Errorf("%q: the refusal is no *Denied: %v", raw, err)
			}
			return
		}
		ip, err := netip.ParseAddr(strings.TrimSuffix(u.Hostname(), "."))
		if err != nil {
			return // a name: the dial judges what it resolves to
		}
		if denied := judge(ip.Unmap().WithZone("")); denied != nil {
			t.Errorf("%q passes the URL rules, and %v", raw, denied)
		}
	})
}

// fakeDNS answers every question with the addresses, in this process.
func fakeDNS(answers [][]netip.Addr) *net.Resolver {
	return &net.Resolver{
		PreferGo: true,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go serveDNS(server, answers[0])
			return client, nil
		},
	}
}

// serveDNS answers one question as DNS over TCP does.
func serveDNS(conn net.Conn, addrs []netip.Addr) {
	defer conn.Close()
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return
	}
	packed := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, packed); err != nil {
		return
	}
	var query dnsmessage.Message
	if err := query.Unpack(packed); err != nil || len(query.Questions) == 0 {
		return
	}
	q := query.Questions[0]
	answer := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: query.ID, Response: true, RecursionAvailable: true},
		Questions: query.Questions[:1],
	}
	for _, addr := range addrs {
		header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
		if addr.Is4() && q.Type == dnsmessage.TypeA {
			answer.Answers = append(answer.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: addr.As4()}})
		}
		if addr.Is6() && q.Type == dnsmessage.TypeAAAA {
			answer.Answers = append(answer.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	out, err := answer.Pack()
	if err != nil {
		return
	}
	binary.BigEndian.PutUint16(length[:], uint16(len(out)))
	_, _ = conn.Write(append(length[:], out...)) // the resolver times out if this fails
}
