package egress

import "net/netip"

// A range is refused for what it is.
type refused struct {
	prefix netip.Prefix
	rule   string
	what   string
}

func ranges(rule, what string, prefixes ...string) []refused {
	var all []refused
	for _, p := range prefixes {
		all = append(all, refused{netip.MustParsePrefix(p), rule, what})
	}
	return all
}

// refusedRanges are the IANA special-purpose registries for IPv4 and IPv6 as
// of 2025, multicast and class E, and public-looking addresses that cloud
// providers use inside. The first that contains an address names its rule.
var refusedRanges = join(
	ranges("this_network", "this network (RFC 791)", "0.0.0.0/8"),
	ranges("loopback", "loopback (RFC 1122)", "127.0.0.0/8", "::1/128"),
	ranges("private", "for private use (RFC 1918)", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
	ranges("cloud", "a cloud provider's own (Azure WireServer)", "168.63.129.16/32"),
	ranges("link_local", "link-local (RFC 3927, RFC 4291), where metadata services live", "169.254.0.0/16", "fe80::/10"),
	ranges("shared", "shared address space (RFC 6598)", "100.64.0.0/10"),
	ranges("protocol", "for protocol assignments (RFC 6890)", "192.0.0.0/24"),
	ranges("documentation", "for documentation (RFC 5737, RFC 3849, RFC 9637)",
		"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"),
	ranges("as112", "for AS112 (RFC 7534, RFC 7535)", "192.31.196.0/24", "192.175.48.0/24", "2001:4:112::/48", "2620:4f:8000::/48"),
	ranges("amt", "for AMT (RFC 7450)", "192.52.193.0/24"),
	ranges("6to4", "for 6to4 (RFC 7526, RFC 3056)", "192.88.99.0/24", "2002::/16"),
	ranges("benchmarking", "for benchmarking (RFC 2544)", "198.18.0.0/15"),
	ranges("multicast", "multicast", "224.0.0.0/4", "ff00::/8"),
	ranges("reserved", "reserved (RFC 1112)", "240.0.0.0/4"),
	ranges("unspecified", "unspecified", "::/128"),
	ranges("nat64", "an IPv4 address in IPv6 (RFC 6052, RFC 8215)", "64:ff9b::/96", "64:ff9b:1::/48"),
	ranges("protocol", "for protocol assignments (RFC 2928): Teredo, ORCHID and others", "2001::/23"),
	ranges("unique_local", "for private use (RFC 4193)", "fc00::/7"),
)

var (
	globalUnicast = netip.MustParsePrefix("2000::/3")
	nat64         = netip.MustParsePrefix("64:ff9b::/96")
)

// judge decides on an address that no option has opened. IPv6 is refused
// outside of global unicast: what is not assigned cannot be a receiver.
func judge(ip netip.Addr) *Denied {
	for _, r := range refusedRanges {
		if r.prefix.Contains(ip) {
			return deny(r.rule, "the address %v is %s; callbacks may not go there", ip, r.what)
		}
	}
	if ip.Is6() && !globalUnicast.Contains(ip) {
		return deny("not_global", "the address %v is not global unicast; callbacks may not go there", ip)
	}
	return nil
}

func join(lists ...[]refused) []refused {
	var all []refused
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}
