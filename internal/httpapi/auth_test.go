package httpapi

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

func TestCallersAreToldApartByTheirAddress(t *testing.T) {
	for _, row := range []struct {
		name, a, b string
		same       bool
	}{
		{"ports of one address", "192.0.2.1:1000", "192.0.2.1:2000", true},
		{"two addresses", "192.0.2.1:1000", "192.0.2.2:1000", false},
		{"two addresses of one IPv6 network", "[2001:db8::1]:1000", "[2001:db8::ffff:1]:1000", true},
		{"the last of a /64 and the first of the next", "[2001:db8::ffff:ffff:ffff:ffff]:1", "[2001:db8:0:1::]:1", false},
		{"two of IPv4 in IPv6", "[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:1", false},
		{"IPv4 in IPv6 is IPv4", "[::ffff:192.0.2.1]:1", "192.0.2.1:9", true},
		{"zones of one network", "[fe80::1%eth0]:1", "[fe80::2%eth1]:1", true},
		{"no port", "pipe", "pipe", true},
	} {
		var api API
		a, b := api.address(&http.Request{RemoteAddr: row.a}), api.address(&http.Request{RemoteAddr: row.b})
		if (a == b) != row.same {
			t.Errorf("%s: %s counts as %s, %s as %s", row.name, row.a, a, row.b, b)
		}
	}
}

func TestXForwardedForIsBelievedOfTrustedProxiesOnly(t *testing.T) {
	api := API{opts: Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:1::/48")}}}
	for _, row := range []struct {
		name, remote string
		forwarded    []string
		want         string
	}{
		{"a stranger's word is nothing", "192.0.2.1:1", []string{"198.51.100.7"}, "192.0.2.1"},
		{"a proxy tells of its client", "10.0.0.1:1", []string{"198.51.100.7"}, "198.51.100.7"},
		{"what the client wrote itself does not count", "10.0.0.1:1", []string{"203.0.113.1, 198.51.100.7"}, "198.51.100.7"},
		{"two proxies in a row", "10.0.0.1:1", []string{"198.51.100.7, 10.0.0.2"}, "198.51.100.7"},
		{"in two header lines", "10.0.0.1:1", []string{"198.51.100.7", "10.0.0.2"}, "198.51.100.7"},
		{"a client within IPv6 counts by its /64", "[2001:db8:1::1]:1", []string{"2001:db8:2:3:4:5:6:7"}, "2001:db8:2:3::/64"},
		{"IPv4 in IPv6", "10.0.0.1:1", []string{"::ffff:198.51.100.7"}, "198.51.100.7"},
		{"nonsense ends it", "10.0.0.1:1", []string{"198.51.100.7, unknown"}, "10.0.0.1"},
		{"nothing", "10.0.0.1:1", nil, "10.0.0.1"},
		{"all of them proxies", "10.0.0.1:1", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
	} {
		r := &http.Request{RemoteAddr: row.remote, Header: http.Header{"X-Forwarded-For": row.forwarded}}
		if got := api.address(r); got != row.want {
			t.Errorf("%s: %s with %s counts as %s, want %s", row.name, row.remote, strings.Join(row.forwarded, " | "), got, row.want)
		}
	}
}
