package probe

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// inward are URLs that lead inward, or may, each in a form of its own: what a
// deployment refuses here it refuses by rule and not by list.
var inward = []struct{ what, url string }{
	{"loopback", "http://127.0.0.1/"},
	{"all of loopback", "http://127.8.8.8/"},
	{"the name of loopback", "http://localhost/"},
	{"a name under localhost", "http://a.localhost/"},
	{"loopback, IPv6", "http://[::1]/"},
	{"the unspecified address", "http://0.0.0.0/"},
	{"the unspecified address, IPv6", "http://[::]/"},
	{"private, 10/8", "http://10.0.0.1/"},
	{"private, 172.16/12", "http://172.16.0.1/"},
	{"private, 192.168/16", "http://192.168.0.1/"},
	{"carriers' address translation", "http://100.64.0.1/"},
	{"metadata service", "http://169.254.169.254/latest/meta-data/"},
	{"metadata service by name", "http://metadata.google.internal/"},
	{"Azure's WireServer", "http://168.63.129.16/"},
	{"multicast", "http://224.0.0.1/"},
	{"broadcast", "http://255.255.255.255/"},
	{"decimal form", "http://2130706433/"},
	{"octal form", "http://0177.0.0.1/"},
	{"hexadecimal form", "http://0x7f.0.0.1/"},
	{"short form", "http://127.1/"},
	{"trailing dot behind an address", "http://127.0.0.1./"},
	{"trailing dot behind a name", "http://localhost./"},
	{"upper case", "http://LOCALHOST/"},
	{"full-width digits", "http://１２７.0.0.1/"},
	{"IPv4-mapped IPv6", "http://[::ffff:127.0.0.1]/"},
	{"IPv4-compatible IPv6", "http://[::127.0.0.1]/"},
	{"NAT64", "http://[64:ff9b::7f00:1]/"},
	{"6to4", "http://[2002:7f00:1::1]/"},
	{"Teredo", "http://[2001:0:7f00:1::1]/"},
	{"unique local IPv6", "http://[fd00::1]/"},
	{"link-local IPv6", "http://[fe80::1]/"},
	{"address with a zone", "http://[fe80::1%25eth0]/"},
	{"single label", "http://database/"},
	{"mDNS name", "http://printer.local/"},
	{"internal name", "http://vault.internal/"},
	{"home network name", "http://router.home.arpa/"},
	{"credentials", "http://user:password@example.com/"},
	{"host in credentials", "http://example.com@127.0.0.1/"},
	{"backslash", `http://example.com\@127.0.0.1/`},
	{"port of another service", "http://example.com:6379/"},
	{"port with leading zeros", "http://example.com:00080/"},
	{"another scheme", "file:///etc/passwd"},
	{"gopher", "gopher://127.0.0.1:6379/_FLUSHALL"},
	{"no scheme", "//127.0.0.1/"},
	{"line break", "http://example.com/\r\nX-Injected: 1"},
	{"tab in the host", "http://127.0.0.1\t.example.com/"},
}

func callbackURLs(ctx context.Context, c *client) error {
	var faults []error
	for _, u := range inward {
		body := submission(`"callback_url":` + jsonString(u.url))
		faults = append(faults, c.refused(ctx, u.what+", "+strconv.Quote(u.url), exchange{method: "POST", path: "/async", body: body}, 422))
	}
	return errors.Join(faults...)
}

func callbackHeaders(ctx context.Context, c *client) error {
	var faults []error
	for _, h := range []struct{ what, name, value string }{
		{"line break in a value", "X-Probe", "a\r\nX-Injected: 1"},
		{"line break in a name", "X-Probe\r\nX-Injected", "1"},
		{"NUL in a value", "X-Probe", "a\x00b"},
		{"the signature", "webhook-signature", "v1,AAAA"},
		{"the message's id", "Webhook-Id", "other"},
		{"the host", "Host", "internal.example"},
		{"the length", "Content-Length", "0"},
		{"the framing", "Transfer-Encoding", "chunked"},
		{"the connection", "Connection", "upgrade"},
		{"a proxy's credentials", "Proxy-Authorization", "Basic AAAA"},
		{"the claimed origin", "X-Forwarded-For", "127.0.0.1"},
		{"no name", "", "1"},
	} {
		body := submission(fmt.Sprintf(`"callback_url":"https://example.com/","callback":{"headers":{%s:%s}}`, jsonString(h.name), jsonString(h.value)))
		faults = append(faults, c.refused(ctx, h.what, exchange{method: "POST", path: "/async", body: body}, 422))
	}
	return errors.Join(faults...)
}
