package egress

import "strings"

// privateSuffixes end names that lead inward by convention. Unless an operator
// has opened a range they are refused before anyone asks the DNS.
var privateSuffixes = []string{
	".localhost",     // RFC 6761, section 6.3
	".local",         // RFC 6762, multicast DNS
	".internal",      // ICANN board resolution 2024.07.29.06
	".home.arpa",     // RFC 8375
	".svc",           // Kubernetes, within a cluster
	".cluster.local", // Kubernetes, in full
}

// metadataHosts answer with the secrets of the machine they are asked from.
// They are refused whatever is open, as they are never a receiver.
var metadataHosts = []string{
	"instance-data.ec2.internal",
	"metadata.google.internal",
	"metadata.packet.net",
	"metadata.platformequinix.com",
	"metadata.tencentyun.com",
}

// checkName judges a host that is no address. It is in lower case, without the
// trailing dot. What may pass is a DNS name in ASCII with a dot that is not
// private and that nothing could take for an IPv4 address.
func (g *Guard) checkName(host string) *Denied {
	if len(host) > 253 { // RFC 1035, section 2.3.4
		return deny("host_name", "the host name is longer than 253 characters")
	}
	labels := strings.Split(host, ".")
	for _, label := range labels {
		if !isLabel(label) {
			return deny("host_name", "the host must be an address, or a DNS name of letters, digits and hyphens")
		}
	}
	if endsInNumber(labels[len(labels)-1]) {
		return deny("ipv4_form", "the host ends in a number; write an IPv4 address as four decimal numbers without leading zeros")
	}
	for _, name := range metadataHosts {
		if host == name {
			return deny("metadata_host", "the host is a metadata service; callbacks may not go there")
		}
	}
	if host == "localhost" {
		if g.loopbackOpen {
			return nil
		}
		return deny("loopback", "the host is loopback; callbacks may not go there")
	}
	if len(g.opts.InsecureAllow) > 0 {
		return nil // a private name may lead to an opened range: the dial decides
	}
	for _, suffix := range privateSuffixes {
		if strings.HasSuffix("."+host, suffix) {
			return deny("private_name", "names under %s are for private use; callbacks go to public names", suffix)
		}
	}
	if len(labels) == 1 {
		return deny("single_label", "the host name has no dot, and such names lead inward; callbacks go to public names")
	}
	return nil
}

// isLabel reports whether s is letters, digits and inner hyphens (RFC 1123,
// section 2.1), at most 63 of them.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// endsInNumber reports whether a host with this last label would be read as an
// IPv4 address in one of its many forms (WHATWG URL, "ends in a number").
func endsInNumber(label string) bool {
	if label == "" {
		return false
	}
	digits, hex := strings.CutPrefix(label, "0x")
	for _, c := range []byte(digits) {
		if (c < '0' || c > '9') && (!hex || c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
