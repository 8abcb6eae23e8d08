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
)

// Options say what callbacks may reach. The zero Options are for production:
// public addresses only, over http or https, on ports 80 and 443.
type Options struct {
	// InsecureAllow opens address ranges that are refused otherwise. Whoever
	// may submit a request can then make this machine connect to any address
	// in them. It opens no port: those are judged as everywhere else. Names
	// that are refused because they lead inward pass CheckURL as soon as any
	// range is open, since only the DNS knows whether they lead into it, and
	// Dial decides; localhost passes only if loopback is open.
	InsecureAllow []netip.Prefix

	AllowPorts []uint16 // beside 80 and 443
	HTTPSOnly  bool

	// LoopbackAnyPort opens 127.0.0.0/8, ::1 and the name localhost, on every
	// port: for trying the service out on one machine.
	LoopbackAnyPort bool

	// DNS64 lets addresses in 64:ff9b::/96 through if the IPv4 address in them
	// may be reached: for hosts whose only way to IPv4 is NAT64 (RFC 6146).
	DNS64 bool

	Resolver *net.Resolver // the system's
}

// Denied is why a callback may not go where it wants to. It is an error, and
// the verdict of both looks.
type Denied struct {
	// Rule is what was broken, stable and in snake case. Of the URL: characters,
	// malformed, scheme, host, userinfo, port, zone, address. Of names:
	// host_name, ipv4_form, metadata_host, loopback, private_name, single_label.
	// Of addresses: not_global, ipv4_in_ipv6, and the rules of the table in
	// addresses.go. Of Dial: network.
	Rule   string
	Reason string // the same for people, with the way out if there is one
}

func (d *Denied) Error() string { return d.Reason + " (rule " + d.Rule + ")" }

// EgressDenied marks the error for those who sort errors without importing
// this package.
func (d *Denied) EgressDenied() bool { return true }

func deny(rule, format string, args ...any) *Denied {
	return &Denied{rule, fmt.Sprintf(format, args...)}
}

// Guard decides what callbacks may reach. It is safe for concurrent use.
type Guard struct {
	opts         Options
	ports        []uint16 // sorted
	loopbackOpen bool
	dialer       net.Dialer
}

// CheckRange returns an error for what cannot be one of Options.InsecureAllow.
func CheckRange(prefix netip.Prefix) error {
	switch {
	case !prefix.IsValid():
		return errors.New("a range to allow is not valid; write it as 10.1.0.0/16")
	case prefix.Addr().Is4In6():
		return fmt.Errorf("the range %v is IPv4 in IPv6 and would open nothing; write it as IPv4", prefix)
	default:
		return nil
	}
}

// New returns a Guard. All faults in opts come back joined.
func New(opts Options) (*Guard, error) {
	var faults []error
	for _, prefix := range opts.InsecureAllow {
		faults = append(faults, CheckRange(prefix))
	}
	if slices.Contains(opts.AllowPorts, 0) {
		faults = append(faults, errors.New("port 0 cannot be allowed"))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	opts.InsecureAllow = slices.Clone(opts.InsecureAllow)
	g := &Guard{opts: opts, ports: append([]uint16{80, 443}, opts.AllowPorts...)}
	slices.Sort(g.ports)
	g.ports = slices.Compact(g.ports)
	g.loopbackOpen = opts.LoopbackAnyPort || slices.ContainsFunc(opts.InsecureAllow, func(p netip.Prefix) bool {
		return slices.ContainsFunc(loopbacks, p.Overlaps)
	})
	g.dialer = net.Dialer{
		Resolver: opts.Resolver,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return g.checkSocket(address)
		},
	}
	return g, nil
}

// CheckURL judges a callback URL by its text, without asking the DNS. It
// returns the parsed URL with its host in lower case and without a trailing
// dot, all else as it was written, or a *Denied that names the rule it breaks.
// A URL that passes may still be refused when its host has been resolved.
func (g *Guard) CheckURL(raw string) (*url.URL, error) {
	for _, c := range []byte(raw) {
		if c <= ' ' || c == '\\' || c == 0x7f { // what parsers of URLs disagree about
			return nil, deny("characters", "the URL has spaces, control characters or backslashes in it")
		}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, deny("malformed", "the URL cannot be parsed")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, deny("scheme", "the URL must begin with https:// or http://")
	case g.opts.HTTPSOnly && u.Scheme != "https":
		return nil, deny("scheme", "the URL must begin with https://")
	case u.User != nil: // even an empty one
		return nil, deny("userinfo", "the URL must not carry a user name or password")
	case u.Hostname() == "":
		return nil, deny("host", "the URL has no host")
	}
	for _, c := range []byte(u.Host) {
		if c >= 0x80 { // before lower case: that of the Kelvin sign is k
			return nil, deny("host_name", "the host must be in ASCII; write other names in punycode")
		}
	}
	u.Host = strings.ToLower(u.Host)
	port, denied := portOf(u)
	if denied == nil {
		denied = g.checkHost(u, port)
	}
	if denied != nil {
		return nil, denied
	}
	return u, nil
}

func portOf(u *url.URL) (uint16, *Denied) {
	text := u.Port()
	if text == "" && !strings.HasSuffix(u.Host, ":") {
		if u.Scheme == "https" {
			return 443, nil
		}
		return 80, nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || text[0] == '0' {
		return 0, deny("port", "the port must be a number from 1 to 65535, without leading zeros")
	}
	return uint16(n), nil
}

// checkHost judges the host and port of a URL, and takes a name's trailing dot
// away.
func (g *Guard) checkHost(u *url.URL, port uint16) *Denied {
	host := u.Hostname()
	ip, err := netip.ParseAddr(host)
	switch bracketed := strings.HasPrefix(u.Host, "["); {
	case strings.Contains(host, "%"):
		return deny("zone", "the address must not have a zone")
	case bracketed && (err != nil || !ip.Is6()), !bracketed && err == nil && !ip.Is4():
		return deny("address", "an IPv6 address stands in brackets, and nothing else does")
	case ip.Is4In6():
		return deny("ipv4_in_ipv6", "write an IPv4 address as such, not inside of an IPv6 address")
	case err == nil:
		return g.verdict(ip, port)
	}
	if name, dotted := strings.CutSuffix(host, "."); dotted {
		if endsInNumber(name[strings.LastIndexByte(name, '.')+1:]) {
			return deny("ipv4_form", "an IPv4 address has no dot at its end")
		}
		u.Host = name + strings.TrimPrefix(u.Host, host)
		host = name
	}
	if denied := g.checkName(host); denied != nil {
		return denied
	}
	if g.opts.LoopbackAnyPort && host == "localhost" {
		return nil
	}
	return g.checkPort(port)
}

// CheckAddr judges an address and port. It returns a *Denied, or nil if they
// may be reached. An IPv4-mapped address is judged as the IPv4 address that a
// socket would connect to, and a zone changes nothing.
func (g *Guard) CheckAddr(addr netip.AddrPort) error {
	if denied := g.verdict(addr.Addr(), addr.Port()); denied != nil {
		return denied
	}
	return nil
}

func (g *Guard) verdict(ip netip.Addr, port uint16) *Denied {
	ip = ip.Unmap().WithZone("")
	if g.opts.LoopbackAnyPort && ip.IsLoopback() {
		return nil
	}
	if denied := g.checkIP(ip); denied != nil {
		return denied
	}
	return g.checkPort(port)
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

// Dial connects over TCP like net.Dialer.DialContext, to an address that the
// guard allows. Every address that a name resolves to is judged as a socket is
// about to be connected to it, and those that are refused get no packet. If
// none connects and the first was refused, the error wraps a *Denied.
func (g *Guard) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
		return g.dialer.DialContext(ctx, network, addr)
	}
	return nil, deny("network", "callbacks go over TCP, not %s", network)
}

// checkSocket judges an address that a socket is about to be connected to.
func (g *Guard) checkSocket(address string) error {
	addr, err := netip.ParseAddrPort(address)
	if err != nil { // such as ":80", which would be this machine
		return deny("address", "the address cannot be read")
	}
	return g.CheckAddr(addr)
}
