package egress

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func ruleOf(err error) string {
	if denied, ok := errors.AsType[*Denied](err); ok {
		return denied.Rule
	}
	if err != nil {
		return "an error that is no *Denied: " + err.Error()
	}
	return ""
}

// Both edges of every row of the table, and the addresses just outside.
func TestAddressRules(t *testing.T) {
	for _, c := range []struct {
		what        string
		first, last string
		rule        string
		below       string // the rule of the address before; "" if it is allowed
		above       string // the rule of the address after
	}{
		{"this network", "0.0.0.0", "0.255.255.255", "this_network", "none", ""},
		{"10/8", "10.0.0.0", "10.255.255.255", "private", "", ""},
		{"carriers' translation", "100.64.0.0", "100.127.255.255", "shared", "", ""},
		{"loopback", "127.0.0.0", "127.255.255.255", "loopback", "", ""},
		{"Azure's WireServer", "168.63.129.16", "168.63.129.16", "cloud", "", ""},
		{"link-local", "169.254.0.0", "169.254.255.255", "link_local", "", ""},
		{"172.16/12", "172.16.0.0", "172.31.255.255", "private", "", ""},
		{"protocol assignments", "192.0.0.0", "192.0.0.255", "protocol", "", ""},
		{"TEST-NET-1", "192.0.2.0", "192.0.2.255", "documentation", "", ""},
		{"AS112", "192.31.196.0", "192.31.196.255", "as112", "", ""},
		{"AMT", "192.52.193.0", "192.52.193.255", "amt", "", ""},
		{"6to4 relays", "192.88.99.0", "192.88.99.255", "6to4", "", ""},
		{"192.168/16", "192.168.0.0", "192.168.255.255", "private", "", ""},
		{"AS112, delegated", "192.175.48.0", "192.175.48.255", "as112", "", ""},
		{"benchmarking", "198.18.0.0", "198.19.255.255", "benchmarking", "", ""},
		{"TEST-NET-2", "198.51.100.0", "198.51.100.255", "documentation", "", ""},
		{"TEST-NET-3", "203.0.113.0", "203.0.113.255", "documentation", "", ""},
		{"multicast", "224.0.0.0", "239.255.255.255", "multicast", "", "reserved"},
		{"class E", "240.0.0.0", "255.255.255.254", "reserved", "multicast", "broadcast"},
		{"broadcast", "255.255.255.255", "255.255.255.255", "broadcast", "reserved", "none"},

		{"IPv6 unspecified", "::", "::", "unspecified", "none", "loopback"},
		{"IPv6 loopback", "::1", "::1", "loopback", "unspecified", "ipv4_in_ipv6"},
		{"IPv4-compatible", "::2", "::ffff:ffff", "ipv4_in_ipv6", "loopback", "not_global"},
		{"IPv4-translated", "::ffff:0:0:0", "::ffff:0:ffff:ffff", "ipv4_in_ipv6", "not_global", "not_global"},
		{"NAT64", "64:ff9b::", "64:ff9b::ffff:ffff", "nat64", "not_global", "not_global"},
		{"NAT64 for local use", "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "nat64", "not_global", "not_global"},
		{"discard", "100::", "100::ffff:ffff:ffff:ffff", "discard", "not_global", "discard"},
		{"dummy", "100:0:0:1::", "100::1:ffff:ffff:ffff:ffff", "discard", "discard", "not_global"},
		{"segment routing", "5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "segment_routing", "not_global", "not_global"},
		{"unique local", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "private", "not_global", "not_global"},
		{"IPv6 link-local", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link_local", "not_global", "private"},
		{"site-local", "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "private", "link_local", "multicast"},
		{"IPv6 multicast", "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast", "private", "none"},

		{"below global unicast", "101::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "not_global", "not_global", ""},
		{"above global unicast", "4000::", "5eff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "not_global", "", "segment_routing"},
		{"Teredo", "2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "teredo", "", "protocol"},
		{"IPv6 benchmarking", "2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff", "benchmarking", "protocol", "protocol"},
		{"IPv6 AMT", "2001:3::", "2001:3:ffff:ffff:ffff:ffff:ffff:ffff", "amt", "protocol", "protocol"},
		{"IPv6 AS112", "2001:4:112::", "2001:4:112:ffff:ffff:ffff:ffff:ffff", "as112", "protocol", "protocol"},
		{"ORCHID", "2001:10::", "2001:1f:ffff:ffff:ffff:ffff:ffff:ffff", "orchid", "protocol", "orchid"},
		{"ORCHIDv2", "2001:20::", "2001:2f:ffff:ffff:ffff:ffff:ffff:ffff", "orchid", "orchid", "drone_id"},
		{"drone identifiers", "2001:30::", "2001:3f:ffff:ffff:ffff:ffff:ffff:ffff", "drone_id", "orchid", "protocol"},
		{"IPv6 protocol assignments, the rest", "2001:40::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "protocol", "drone_id", ""},
		{"IPv6 documentation", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "documentation", "", ""},
		{"6to4", "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "6to4", "", ""},
		{"IPv6 AS112, delegated", "2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff", "as112", "", ""},
		{"IPv6 documentation, new", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "documentation", "", ""},
	} {
		first, last := netip.MustParseAddr(c.first), netip.MustParseAddr(c.last)
		for _, edge := range []struct {
			where string
			ip    netip.Addr
			want  string
		}{
			{"just below", first.Prev(), c.below},
			{"the first of", first, c.rule},
			{"the last of", last, c.rule},
			{"just above", last.Next(), c.above},
		} {
			if edge.want == "none" {
				if edge.ip.IsValid() {
					t.Errorf("%s %s there is %v", edge.where, c.what, edge.ip)
				}
				continue
			}
			got := ruleOf(newGuard(t, Options{}).CheckAddr(netip.AddrPortFrom(edge.ip, 443)))
			if got != edge.want {
				t.Errorf("%s %s, %v: got %q, want %q", edge.where, c.what, edge.ip, got, edge.want)
			}
		}
	}
}

func TestAddressesInDisguise(t *testing.T) {
	for _, c := range []struct {
		what string
		addr netip.Addr
		want string
	}{
		{"private IPv4 mapped into IPv6 is judged as IPv4", netip.MustParseAddr("::ffff:10.0.0.1"), "private"},
		{"and so is public", netip.MustParseAddr("::ffff:8.8.8.8"), ""},
		{"a zone does not hide link-local", netip.MustParseAddr("fe80::1%eth0"), "link_local"},
		{"nor does it hide loopback", netip.MustParseAddr("::1%lo"), "loopback"},
		{"a mapped address with a zone", netip.MustParseAddr("::ffff:127.0.0.1%lo"), "loopback"},
		{"no address at all", netip.Addr{}, "address"},
	} {
		if got := ruleOf(newGuard(t, Options{}).CheckAddr(netip.AddrPortFrom(c.addr, 443))); got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, got, c.want)
		}
	}
}

func TestURLRules(t *testing.T) {
	long := strings.Repeat("a.", 125) // with com 253 characters
	for _, c := range []struct {
		what, url string
		want      string // the rule; "" allows
	}{
		{"a plain name", "https://example.com/hook", ""},
		{"the scheme in upper case", "HTTPS://example.com/", ""},
		{"another scheme", "gopher://example.com/", "scheme"},
		{"a scheme without a host", "http:example.com", "host"},
		{"no scheme", "example.com/hook", "scheme"},
		{"nothing", "", "scheme"},
		{"only a port", "http://:80/", "host"},
		{"an empty user", "http://@example.com/", "userinfo"},
		{"a tab in the host", "http://127.0.0.1\t/", "characters"},
		{"a line break in the path", "http://example.com/\r\nHost: a", "characters"},
		{"a space in front", " http://example.com/", "characters"},
		{"a backslash", `http://example.com\@127.0.0.1/`, "characters"},
		{"DEL", "http://example.com/\x7f", "characters"},
		{"the first port", "http://example.com:80/", ""},
		{"the other port of the list", "http://example.com:443/", ""},
		{"an empty port", "http://example.com:/", "port"},
		{"a leading zero", "http://example.com:0443/", "port"},
		{"port 0", "http://example.com:0/", "port"},
		{"a port just outside of the range", "http://example.com:65536/", "port"},
		{"a port that overflows into 80", "http://example.com:4294967376/", "port"},
		{"a port of the range that is not in the list", "http://example.com:65535/", "port"},

		{"the longest name", "http://" + long + "com/", ""},
		{"one character more", "http://" + long + "info/", "host_name"},
		{"the longest label", "http://" + strings.Repeat("a", 63) + ".com/", ""},
		{"one character more in it", "http://" + strings.Repeat("a", 64) + ".com/", "host_name"},
		{"an inner hyphen", "http://a-b.com/", ""},
		{"a hyphen in front", "http://-a.com/", "host_name"},
		{"a hyphen behind", "http://a-.com/", "host_name"},
		{"an underscore", "http://a_b.com/", "host_name"},
		{"an empty label", "http://a..com/", "host_name"},
		{"a dot in front", "http://.example.com/", "host_name"},
		{"one dot behind", "http://example.com./", ""},
		{"two dots behind", "http://example.com../", "host_name"},
		{"only a dot", "http://./", "host_name"},
		{"fullwidth digits", "http://１２７.０.０.１/", "host_name"},
		{"ideographic dots in percent code", "http://127%E3%80%820%E3%80%820%E3%80%821/", "host_name"},
		{"the Kelvin sign, whose lower case is k", "http://faceboo\u212a.com/", "host_name"},
		{"a soft hyphen, which IDNA drops", "http://local\u00adhost/", "host_name"},

		{"localhost", "http://localhost/", "loopback"},
		{"LOCALHOST.", "http://LOCALHOST./", "loopback"},
		{"below localhost", "http://a.localhost/", "private_name"},
		{"a name that only ends like it", "http://notlocalhost.com/", ""},
		{".local in upper case, with a dot", "http://Printer.LOCAL./", "private_name"},
		{"local as an inner label", "http://a.local.example.com/", ""},
		{"a label that ends like local", "http://a.nonlocal/", ""},
		{".internal", "http://a.b.internal/", "private_name"},
		{".home.arpa", "http://nas.home.arpa/", "private_name"},
		{"home.arpa itself", "http://home.arpa/", "private_name"},
		{".arpa", "http://example.arpa/", ""},
		{".svc", "http://a.b.svc/", "private_name"},
		{".cluster.local", "http://a.b.svc.cluster.local/", "private_name"},
		{"a single label", "http://intranet/", "single_label"},
		{"a single label with a dot", "http://intranet./", "single_label"},
		{"a metadata host", "http://metadata.google.internal/", "metadata_host"},
		{"a metadata host with a public name", "http://METADATA.tencentyun.com./", "metadata_host"},

		{"a number", "http://2130706433/", "ipv4_form"},
		{"octal", "http://0177.0.0.1/", "ipv4_form"},
		{"one part in octal", "http://127.0.0.01/", "ipv4_form"},
		{"hex", "http://0x7F000001/", "ipv4_form"},
		{"hex without digits", "http://example.0x/", "ipv4_form"},
		{"short", "http://127.1/", "ipv4_form"},
		{"a dot behind", "http://8.8.8.8./", "ipv4_form"},
		{"five parts", "http://1.2.3.4.5/", "ipv4_form"},
		{"a last label that only looks like hex", "http://example.0xg/", ""},
		{"a last label with a digit", "http://example.c0m/", ""},
		{"a number as another label", "http://127.0.0.1.example.com/", ""},

		{"a public address", "http://8.8.8.8/", ""},
		{"a private one", "http://10.0.0.1/", "private"},
		{"a public IPv6 address", "http://[2606:4700:4700::1111]/", ""},
		{"the same in upper case", "http://[2606:4700:4700::ABCD]/", ""},
		{"public IPv4 mapped into IPv6", "http://[::ffff:8.8.8.8]/", "ipv4_in_ipv6"},
		{"public IPv4 behind NAT64", "http://[64:ff9b::8.8.8.8]/", "nat64"},
		{"a zone", "http://[2606:4700::1%25eth0]/", "zone"},
		{"IPv4 in brackets", "http://[8.8.8.8]/", "malformed"},
		{"a name in brackets", "http://[example.com]/", "malformed"},
		{"IPv6 without brackets", "http://2606:4700::1/", "malformed"},
	} {
		if _, err := newGuard(t, Options{}).CheckURL(c.url); ruleOf(err) != c.want {
			t.Errorf("%s, %q: got %q, want %q", c.what, c.url, ruleOf(err), c.want)
		}
	}
}

func TestCheckURLNormalisesTheHostAndNothingElse(t *testing.T) {
	for _, c := range []struct{ raw, want string }{
		{"https://example.com/a/b?x=1&y=%2F#f", "https://example.com/a/b?x=1&y=%2F#f"},
		{"HTTPS://Example.COM./A%2fB?", "https://example.com/A%2fB?"},
		{"https://Example.com.:443/X", "https://example.com:443/X"},
		{"https://[2606:4700::ABCD]:443/X", "https://[2606:4700::abcd]:443/X"},
	} {
		u, err := newGuard(t, Options{}).CheckURL(c.raw)
		if err != nil || u.String() != c.want {
			t.Errorf("%s: got %v, %v, want %s", c.raw, u, err, c.want)
		}
	}
}

func TestOptionsOpenWhatTheySay(t *testing.T) {
	allow := func(prefixes ...string) (o Options) {
		for _, p := range prefixes {
			o.InsecureAllow = append(o.InsecureAllow, netip.MustParsePrefix(p))
		}
		return o
	}
	lan, loop, demo := allow("10.1.0.0/16"), allow("127.0.0.0/8"), Options{LoopbackAnyPort: true}
	lanPort := allow("10.1.0.0/16")
	lanPort.AllowPorts = []uint16{8080}
	dns64 := Options{DNS64: true}
	dns64Lan := allow("10.1.0.0/16")
	dns64Lan.DNS64 = true
	for _, c := range []struct {
		what string
		opts Options
		url  string
		want string // the rule; "" allows
	}{
		{"just below an opened range", lan, "http://10.0.255.255/", "private"},
		{"the first of an opened range", lan, "http://10.1.0.0/", ""},
		{"the last of an opened range", lan, "http://10.1.255.255/", ""},
		{"just above an opened range", lan, "http://10.2.0.0/", "private"},
		{"an opened range opens no port", lan, "http://10.1.2.3:8080/", "port"},
		{"an opened range and an opened port", lanPort, "http://10.1.2.3:8080/", ""},
		{"an opened range does not open its mapped form", lan, "http://[::ffff:10.1.2.3]/", "ipv4_in_ipv6"},
		{"a range with host bits", allow("10.1.2.3/16"), "http://10.1.0.0/", ""},
		{"an opened IPv6 range", allow("fd00::/8"), "http://[fd12::1]/", ""},
		{"a private name may lead into an opened range", lan, "http://db.internal/", ""},
		{"so may a single label", lan, "http://receiver/", ""},
		{"localhost cannot", lan, "http://localhost/", "loopback"},
		{"a metadata host may not", lan, "http://metadata.google.internal/", "metadata_host"},
		{"a malformed name stays one", lan, "http://a_b/", "host_name"},
		{"a number stays one", lan, "http://167837955/", "ipv4_form"},
		{"loopback as a range", loop, "http://127.0.0.1/", ""},
		{"loopback as a range, by name", loop, "http://localhost/", ""},
		{"loopback as a range opens no port", loop, "http://127.0.0.1:9090/", "port"},
		{"nor does its name", loop, "http://localhost:9090/", "port"},
		{"everything that is IPv6 holds loopback", allow("::/0"), "http://localhost/", ""},

		{"an allowed port", Options{AllowPorts: []uint16{8443}}, "https://example.com:8443/", ""},
		{"the usual ports beside it", Options{AllowPorts: []uint16{8443}}, "https://example.com/", ""},
		{"another port", Options{AllowPorts: []uint16{8443}}, "https://example.com:8444/", "port"},
		{"http where https is asked for", Options{HTTPSOnly: true}, "http://example.com/", "scheme"},
		{"https where https is asked for", Options{HTTPSOnly: true}, "https://example.com/", ""},

		{"demo: loopback on any port", demo, "http://127.0.0.1:9090/", ""},
		{"demo: all of loopback", demo, "http://127.255.255.255:1/", ""},
		{"demo: just above loopback", demo, "http://128.0.0.0:9090/", "port"},
		{"demo: IPv6 loopback on any port", demo, "http://[::1]:9090/", ""},
		{"demo: localhost on any port", demo, "http://localhost:9090/", ""},
		{"demo: localhost with a dot", demo, "http://Localhost.:9090/", ""},
		{"demo: below localhost", demo, "http://a.localhost:9090/", "private_name"},
		{"demo: unspecified is not loopback", demo, "http://0.0.0.0:9090/", "this_network"},
		{"demo: mapped loopback", demo, "http://[::ffff:127.0.0.1]:9090/", "ipv4_in_ipv6"},
		{"demo: a number that means loopback", demo, "http://2130706433:9090/", "ipv4_form"},
		{"demo: another address on any port", demo, "http://8.8.8.8:9090/", "port"},
		{"demo: a name on any port", demo, "http://example.com:9090/", "port"},
		{"demo: a private address", demo, "http://192.168.1.1/", "private"},
		{"demo: a private name", demo, "http://printer.local/", "private_name"},

		{"DNS64 of a public address", dns64, "http://[64:ff9b::808:808]/", ""},
		{"DNS64 of a private address", dns64, "http://[64:ff9b::a00:1]/", "private"},
		{"DNS64 of loopback", dns64, "http://[64:ff9b::7f00:1]/", "loopback"},
		{"DNS64 of loopback in demo mode", Options{DNS64: true, LoopbackAnyPort: true}, "http://[64:ff9b::7f00:1]/", "loopback"},
		{"DNS64 of an address in an opened range", dns64Lan, "http://[64:ff9b::a01:1]/", ""},
		{"DNS64 opens no port", dns64, "http://[64:ff9b::808:808]:22/", "port"},
		{"just above the prefix of DNS64", dns64, "http://[64:ff9b::1:0:0]/", "not_global"},
		{"the prefix for local use", dns64, "http://[64:ff9b:1::808:808]/", "nat64"},
	} {
		if _, err := newGuard(t, c.opts).CheckURL(c.url); ruleOf(err) != c.want {
			t.Errorf("%s, %s: got %q (%v), want %q", c.what, c.url, ruleOf(err), err, c.want)
		}
	}
}

func TestBadOptionsComeBackJoined(t *testing.T) {
	g, err := New(Options{
		InsecureAllow: []netip.Prefix{{}, netip.MustParsePrefix("::ffff:10.0.0.0/104")},
		AllowPorts:    []uint16{0},
	})
	if g != nil || err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("got %v, %v, want three faults", g, err)
	}
}

func TestDeniedSaysWhatAndWhichRule(t *testing.T) {
	_, err := newGuard(t, Options{}).CheckURL("http://169.254.169.254/")
	want := "the address 169.254.169.254 is link-local, where metadata services live (RFC 3927); callbacks may not go there (rule link_local)"
	if err == nil || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	if marked, ok := errors.AsType[interface {
		error
		EgressDenied() bool
	}](fmt.Errorf("dial: %w", err)); !ok || !marked.EgressDenied() {
		t.Errorf("%v does not say that the guard denied it", err)
	}
}

// The dial is judged address by address, whatever the name said before.
func TestDialOfNames(t *testing.T) {
	addrs := func(texts ...string) (all []netip.Addr) {
		for _, text := range texts {
			all = append(all, netip.MustParseAddr(text))
		}
		return all
	}
	const public, public6 = "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"
	lan := Options{InsecureAllow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
	for _, c := range []struct {
		what    string
		opts    Options
		addr    string
		answer  []netip.Addr
		reached []string
		rule    string // of the error, if nothing is reached
	}{
		{"a public name", Options{}, "a.example:443", addrs(public), []string{public + ":443"}, ""},
		{"a private answer", Options{}, "a.example:443", addrs("10.1.0.1"), nil, "private"},
		{"a port that no list has", Options{}, "a.example:22", addrs(public), nil, "port"},
		{"a private answer beside a public one", Options{}, "a.example:443", addrs("127.0.0.1", public), []string{public + ":443"}, ""},
		{"a private answer of the other family", Options{}, "a.example:443", addrs(public, "::1"), []string{public + ":443"}, ""},
		{"both families private", Options{}, "a.example:443", addrs("10.0.0.1", "fd00::1"), nil, "private"},
		{"both families public", Options{}, "a.example:443", addrs(public, public6), []string{"[" + public6 + "]:443", public + ":443"}, ""},
		{"an IPv4-mapped answer", Options{}, "a.example:443", addrs("::ffff:127.0.0.1"), nil, "loopback"},
		{"a NAT64 answer", Options{}, "a.example:443", addrs("64:ff9b::7f00:1"), nil, "nat64"},
		{"an opened range", lan, "db.internal:80", addrs("10.1.0.1"), []string{"10.1.0.1:80"}, ""},
		{"a private name that leads elsewhere", lan, "db.internal:80", addrs("10.2.0.1"), nil, "private"},
		{"demo: any port on loopback", Options{LoopbackAnyPort: true}, "a.example:9090", addrs("127.0.0.1"), []string{"127.0.0.1:9090"}, ""},
		{"demo: any port elsewhere", Options{LoopbackAnyPort: true}, "a.example:9090", addrs(public), nil, "port"},
	} {
		c.opts.Resolver = (&stubDNS{answers: [][]netip.Addr{c.answer}}).resolver()
		g, reached := stoppingGuard(t, c.opts)
		_, err := g.Dial(t.Context(), "tcp", c.addr)
		slices.Sort(*reached)
		slices.Sort(c.reached)
		if !slices.Equal(*reached, c.reached) {
			t.Errorf("%s: reached %v, want %v", c.what, *reached, c.reached)
		}
		if c.reached == nil && ruleOf(err) != c.rule {
			t.Errorf("%s: got %v, want rule %q", c.what, err, c.rule)
		}
	}
}

func TestDialOfWhatIsNoHost(t *testing.T) {
	g, reached := stoppingGuard(t, Options{})
	for _, c := range []struct {
		what, network, addr string
		want                string // the rule; "" for any other error
	}{
		{"no host, which means this machine", "tcp", ":80", "this machine"},
		{"unspecified", "tcp4", "0.0.0.0:80", "this_network"},
		{"a zone", "tcp6", "[::1%lo]:80", "loopback"},
		{"a socket file", "unix", "/run/docker.sock", "network"},
		{"UDP", "udp", "8.8.8.8:443", "network"},
	} {
		_, err := g.Dial(t.Context(), c.network, c.addr)
		if got := ruleOf(err); got != c.want && (c.want != "this machine" || err == nil) {
			t.Errorf("%s: got %v, want rule %q", c.what, err, c.want)
		}
	}
	if len(*reached) > 0 {
		t.Errorf("reached %v", *reached)
	}
}

// No stub here: real sockets, and a client as package callback has one.
func TestDialConnectsToWhatIsAllowedOnly(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "localhost"} {
		get := func(opts Options) error {
			client := &http.Client{Transport: &http.Transport{DialContext: newGuard(t, opts).Dial, DisableKeepAlives: true}}
			answer, err := client.Get("http://" + net.JoinHostPort(host, port) + "/")
			if err == nil {
				answer.Body.Close()
			}
			return err
		}
		asked = 0
		if err := get(Options{}); ruleOf(err) != "loopback" || asked != 0 {
			t.Errorf("%s in production: got %v and %d requests, want a denial", host, err, asked)
		}
		if err := get(Options{LoopbackAnyPort: true}); err != nil || asked != 1 {
			t.Errorf("%s in demo mode: got %v and %d requests, want one", host, err, asked)
		}
	}
}
