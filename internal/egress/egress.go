package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Options say what callbacks may reach. The zero Options are for production:
// public addresses only, over http or https, on ports 80 and 443.
type Options struct {
	// InsecureAllow opens address ranges that are refused otherwise. Whoever
	// may submit a request can then make this machine connect to any address
	// in them. Ports are judged as everywhere else.
	InsecureAllow []netip.Prefix

	AllowPorts []uint16 // beside 80 and 443
	HTTPSOnly  bool

	// LoopbackAnyPort opens loopback, by address and as localhost, on every
	// port: for trying the service out on one machine.
	LoopbackAnyPort bool

	// DNS64 lets addresses in 64:ff9b::/96 through if the IPv4 address in them
	// may be reached: for hosts whose only way to IPv4 is NAT64 (RFC 6146).
	DNS64 bool

	Resolver *net.Resolver // the system's
}

// Denied is why a callback may not go where it wants to. It is an error.
type Denied struct {
	Rule   string // what is refused, such as "loopback"; stable
	Reason string // the same for people, with the way out
}

func (d *Denied) Error() string { return d.Reason }

// EgressDenied marks the error for those who sort errors without importing
// this package.
func (d *Denied) EgressDenied() bool { return true }

func deny(rule, format string, args ...any) *Denied {
	return &Denied{rule, fmt.Sprintf(format, args...)}
}

// Guard decides what callbacks may reach. It is safe for concurrent use.
type Guard struct {
	opts   Options
	ports  []uint16
	dialer net.Dialer
}

// New returns a Guard. All faults in opts come back joined.
func New(opts Options) (*Guard, error) {
	var faults []error
	for _, prefix := range opts.InsecureAllow {
		if !prefix.IsValid() {
			faults = append(faults, errors.New("a range to allow is not valid; write it as 10.1.0.0/16"))
		} else if prefix.Addr().Is4In6() {
			faults = append(faults, fmt.Errorf("the range %v is IPv4 in IPv6; write it as IPv4", prefix))
		}
	}
	if slices.Contains(opts.AllowPorts, 0) {
		faults = append(faults, errors.New("port 0 cannot be allowed"))
	}
	g := &Guard{opts: opts, ports: append([]uint16{80, 443}, opts.AllowPorts...)}
	g.dialer = net.Dialer{
		Resolver: opts.Resolver,
		Timeout:  10 * time.Second,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return g.control(address)
		},
	}
	return g, errors.Join(faults...)
}

// Dial connects like net.Dialer.DialContext, to an address that the guard
// allows. It judges every address as it is about to be connected to, and its
// error wraps a *Denied if it was for that that no connection came about.
func (g *Guard) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return g.dialer.DialContext(ctx, network, addr)
}

// control judges an address that a socket is about to be connected to.
func (g *Guard) control(address string) error {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return deny("address", "the address cannot be read")
	}
	if denied := g.CheckAddr(addr); denied != nil {
		return denied
	}
	return nil
}

// CheckAddr judges an address and port. It returns nil if it may be reached.
func (g *Guard) CheckAddr(addr netip.AddrPort) *Denied {
	ip := addr.Addr().Unmap().WithZone("")
	if g.opts.LoopbackAnyPort && ip.IsLoopback() {
		return nil
	}
	if denied := g.checkPort(addr.Port()); denied != nil {
		return denied
	}
	return g.checkIP(ip)
}

func (g *Guard) checkIP(ip netip.Addr) *Denied {
	for _, prefix := range g.opts.InsecureAllow {
		if prefix.Contains(ip) {
			return nil
		}
	}
	if g.opts.DNS64 && nat64.Contains(ip) {
		bytes := ip.As16()
		return g.checkIP(netip.AddrFrom4([4]byte(bytes[12:])))
	}
	return judge(ip)
}

func (g *Guard) checkPort(port uint16) *Denied {
	if !slices.Contains(g.ports, port) {
		return deny("port", "port %d is not allowed; callbacks go to ports %s", port, strings.Trim(fmt.Sprint(g.ports), "[]"))
	}
	return nil
}

// CheckURL judges a callback URL by its text, without asking the DNS. It
// returns the parsed URL, or a *Denied that names the rule it breaks. A URL
// that passes may still be refused when its host has been resolved.
func (g *Guard) CheckURL(raw string) (*url.URL, error) {
	for _, c := range []byte(raw) {
		if c <= ' ' || c == '\\' || c == 0x7f {
			return nil, deny("characters", "the URL has spaces, control characters or backslashes in it")
		}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, deny("malformed", "not a URL")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, deny("scheme", "the URL must begin with https:// or http://")
	case g.opts.HTTPSOnly && u.Scheme != "https":
		return nil, deny("scheme", "the URL must begin with https://")
	case u.Opaque != "" || u.Host == "":
		return nil, deny("host", "the URL has no host")
	case u.User != nil:
		return nil, deny("userinfo", "the URL must not carry a user name or password")
	}
	host, port, denied := splitHost(u)
	if denied == nil {
		denied = g.checkHost(host, port)
	}
	if denied != nil {
		return nil, denied
	}
	return u, nil
}

// splitHost returns the host, in lower case and without a trailing dot or
// brackets, and the port.
func splitHost(u *url.URL) (host string, port uint16, denied *Denied) {
	host = strings.ToLower(u.Hostname())
	port = 80
	if u.Scheme == "https" {
		port = 443
	}
	if text := u.Port(); text != "" || strings.HasSuffix(u.Host, ":") {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 || text[0] == '0' {
			return "", 0, deny("port", "the port must be a number from 1 to 65535, without leading zeros")
		}
		port = uint16(n)
	}
	return host, port, nil
}

func (g *Guard) checkHost(host string, port uint16) *Denied {
	if strings.Contains(host, ":") { // in brackets: url.Parse allows colons nowhere else
		if strings.Contains(host, "%") {
			return deny("zone", "the address must not have a zone")
		}
		ip, err := netip.ParseAddr(host)
		if err != nil {
			return deny("address", "not an IPv6 address")
		}
		if ip.Is4In6() {
			return deny("ipv4_in_ipv6", "write an IPv4 address as such, not inside of an IPv6 address")
		}
		return g.CheckAddr(netip.AddrPortFrom(ip, port))
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return g.CheckAddr(netip.AddrPortFrom(ip, port))
	}
	if g.opts.LoopbackAnyPort && host == "localhost" {
		return nil
	}
	if denied := checkName(host); denied != nil {
		return denied
	}
	return g.checkPort(port)
}
