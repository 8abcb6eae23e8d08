package egress

import "net/netip"

// refused is one range of addresses that a callback may not go to.
type refused struct {
	prefix netip.Prefix
	rule   string
	what   string // completes "the address ... is"
	source string
}

func row(prefix, rule, what, source string) refused {
	return refused{netip.MustParsePrefix(prefix), rule, what, source}
}

// refusedRanges are the IANA special-purpose address registries for IPv4 and
// IPv6 as of 2025 (RFC 6890), multicast, class E, and addresses that look
// public and are a cloud provider's own. Entries that the registries call
// globally reachable are refused with their block: they are protocols, not
// receivers. The first row that contains an address names the rule, so parts
// stand before their block.
var refusedRanges = []refused{
	row("0.0.0.0/8", "this_network", "of this network", "RFC 791, section 3.2"),
	row("10.0.0.0/8", "private", "for private use", "RFC 1918"),
	row("100.64.0.0/10", "shared", "for carriers' address translation", "RFC 6598"),
	row("127.0.0.0/8", "loopback", "loopback", "RFC 1122, section 3.2.1.3"),
	row("168.63.129.16/32", "cloud", "a cloud provider's own", "Azure WireServer; in no registry"),
	row("169.254.0.0/16", "link_local", "link-local, where metadata services live", "RFC 3927"),
	row("172.16.0.0/12", "private", "for private use", "RFC 1918"),
	row("192.0.0.0/24", "protocol", "for protocol assignments", "RFC 6890, section 2.1"),
	row("192.0.2.0/24", "documentation", "for documentation", "RFC 5737"),
	row("192.31.196.0/24", "as112", "for AS112", "RFC 7535"),
	row("192.52.193.0/24", "amt", "for multicast tunnels", "RFC 7450"),
	row("192.88.99.0/24", "6to4", "for 6to4 relays", "RFC 7526"),
	row("192.168.0.0/16", "private", "for private use", "RFC 1918"),
	row("192.175.48.0/24", "as112", "for AS112", "RFC 7534"),
	row("198.18.0.0/15", "benchmarking", "for benchmarking", "RFC 2544"),
	row("198.51.100.0/24", "documentation", "for documentation", "RFC 5737"),
	row("203.0.113.0/24", "documentation", "for documentation", "RFC 5737"),
	row("224.0.0.0/4", "multicast", "multicast", "RFC 5771"),
	row("255.255.255.255/32", "broadcast", "broadcast", "RFC 919, section 7"),
	row("240.0.0.0/4", "reserved", "reserved", "RFC 1112, section 4"),

	// Outside of 2000::/3, where everything is refused anyway: these rows only
	// say what it is.
	row("::/128", "unspecified", "unspecified", "RFC 4291, section 2.5.2"),
	row("::1/128", "loopback", "loopback", "RFC 4291, section 2.5.3"),
	row("::/96", "ipv4_in_ipv6", "an IPv4 address written as IPv6", "RFC 4291, section 2.5.5.1, IPv4-compatible"),
	row("::ffff:0:0:0/96", "ipv4_in_ipv6", "an IPv4 address written as IPv6", "RFC 2765, section 2.1, IPv4-translated"),
	row("64:ff9b::/96", "nat64", "an IPv4 address behind NAT64", "RFC 6052, section 2.1"),
	row("64:ff9b:1::/48", "nat64", "an IPv4 address behind NAT64", "RFC 8215"),
	row("100::/64", "discard", "for discarding", "RFC 6666"),
	row("100:0:0:1::/64", "discard", "a dummy", "RFC 9780"),
	row("5f00::/16", "segment_routing", "for segment routing", "RFC 9602"),
	row("fc00::/7", "private", "for private use", "RFC 4193, unique local"),
	row("fe80::/10", "link_local", "link-local", "RFC 4291, section 2.5.6"),
	row("fec0::/10", "private", "for private use", "RFC 3879, site-local"),
	row("ff00::/8", "multicast", "multicast", "RFC 4291, section 2.7"),

	// The special blocks inside of it.
	row("2001::/32", "teredo", "an IPv4 address behind Teredo", "RFC 4380"),
	row("2001:2::/48", "benchmarking", "for benchmarking", "RFC 5180"),
	row("2001:3::/32", "amt", "for multicast tunnels", "RFC 7450"),
	row("2001:4:112::/48", "as112", "for AS112", "RFC 7535"),
	row("2001:10::/28", "orchid", "an identifier, not a place", "RFC 4843"),
	row("2001:20::/28", "orchid", "an identifier, not a place", "RFC 7343"),
	row("2001:30::/28", "drone_id", "an identifier, not a place", "RFC 9374"),
	row("2001::/23", "protocol", "for protocol assignments", "RFC 2928"),
	row("2001:db8::/32", "documentation", "for documentation", "RFC 3849"),
	row("2002::/16", "6to4", "an IPv4 address behind 6to4", "RFC 3056"),
	row("2620:4f:8000::/48", "as112", "for AS112", "RFC 7534"),
	row("3fff::/20", "documentation", "for documentation", "RFC 9637"),
}

var (
	globalUnicast = netip.MustParsePrefix("2000::/3") // all that IANA gives out (RFC 3513, section 4)
	nat64         = netip.MustParsePrefix("64:ff9b::/96")
	loopbacks     = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
)

// judge decides on an address that no option has opened. IPv6 is refused
// outside of global unicast: what is not assigned cannot be a receiver. The
// address is without a zone and not IPv4-mapped.
func judge(ip netip.Addr) *Denied {
	if !ip.IsValid() || ip.Is4In6() || ip.Zone() != "" {
		return deny("address", "the address cannot be read")
	}
	for _, r := range refusedRanges {
		if r.prefix.Contains(ip) {
			return deny(r.rule, "the address %v is %s (%s); callbacks may not go there", ip, r.what, r.source)
		}
	}
	if ip.Is6() && !globalUnicast.Contains(ip) {
		return deny("not_global", "the address %v is not global unicast; callbacks may not go there", ip)
	}
	return nil
}
