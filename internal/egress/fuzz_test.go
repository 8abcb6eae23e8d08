package egress

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
)

// FuzzCheckURL: nothing makes the URL rules panic, and what passes them keeps
// their promises: a literal address passes the address rules, the host is what
// net/http would connect to, and the result passes again unchanged.
func FuzzCheckURL(f *testing.F) {
	file, err := os.ReadFile("testdata/ssrf_cases.txt")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(file)) {
		if fields := strings.Split(line, "\t"); len(fields) > 1 && line[0] != '#' {
			f.Add(fields[1])
		}
	}
	g := newGuard(f, Options{})
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := g.CheckURL(raw)
		if err != nil {
			if _, ok := errors.AsType[*Denied](err); !ok {
				t.Fatalf("%q: the refusal is no *Denied: %v", raw, err)
			}
			return
		}
		// Both the text as it was given and as it was returned may be sent.
		for _, text := range []string{raw, u.String()} {
			r, err := http.NewRequest(http.MethodPost, text, nil)
			if err != nil {
				t.Fatalf("%q passes, and net/http refuses it: %v", text, err)
			}
			host := strings.TrimSuffix(r.URL.Hostname(), ".")
			if ip, err := netip.ParseAddr(host); err == nil {
				if err := g.CheckAddr(netip.AddrPortFrom(ip, 443)); err != nil || ip.Is4In6() || ip.Zone() != "" {
					t.Errorf("%q passes, and its address does not: %v", text, err)
				}
			} else if !strings.Contains(host, ".") || strings.Trim(host, "0123456789.") == "" {
				t.Errorf("%q passes with the host %q", text, host)
			}
			if !strings.EqualFold(host, u.Hostname()) || r.URL.Port() != u.Port() || !slices.Contains([]string{"", "80", "443"}, u.Port()) {
				t.Errorf("%q: net/http would connect to %s, and %s was judged", text, r.URL.Host, u.Host)
			}
			if r.URL.User != nil {
				t.Errorf("%q passes with a user", text)
			}
		}
		again, err := g.CheckURL(u.String())
		if err != nil || again.String() != u.String() {
			t.Errorf("%q: passes as %q, which comes back as %v, %v", raw, u, again, err)
		}
	})
}

// FuzzNumbersAsHosts: however an IPv4 address is written, it passes as four
// decimal numbers that lead outward, or not at all.
func FuzzNumbersAsHosts(f *testing.F) {
	f.Add(uint32(0x7f000001), uint8(0))
	f.Add(uint32(0x08080808), uint8(1))
	g := newGuard(f, Options{})
	f.Fuzz(func(t *testing.T, n uint32, form uint8) {
		a, b, c, d := n>>24, n>>16&0xff, n>>8&0xff, n&0xff
		forms := []string{
			"%[1]d.%[2]d.%[3]d.%[4]d", "%[5]d", "0x%[5]x", "0%[5]o", "%[1]d.%[6]d", "0x%[1]x.%[2]d.%[7]d",
			"0%[1]o.0%[2]o.0%[3]o.0%[4]o", "%[1]d.%[2]d.%[3]d.%[4]d.", "%[1]d.%[2]d.%[3]d.0x%[4]x", "%[1]d.%[2]d.%[3]d.0%[4]d",
			"[::ffff:%[1]d.%[2]d.%[3]d.%[4]d]", "[::%[1]d.%[2]d.%[3]d.%[4]d]", "[64:ff9b::%[1]d.%[2]d.%[3]d.%[4]d]", "[2002:%[8]x:%[7]x::]",
		}
		host := fmt.Sprintf(forms[int(form)%len(forms)]+"%.0[9]s", a, b, c, d, n, n&0xffffff, n&0xffff, n>>16, "")
		u, err := g.CheckURL((&url.URL{Scheme: "http", Host: host, Path: "/"}).String())
		if err != nil {
			return
		}
		if ip := netip.AddrFrom4([4]byte{byte(a), byte(b), byte(c), byte(d)}); u.Host != ip.String() || judge(ip) != nil {
			t.Errorf("%s passes", host)
		}
	})
}
