package egress

import "strings"

// privateSuffixes are names that lead inward by convention: what begins with a
// dot ends the name, anything else is the whole of it.
var privateSuffixes = []string{
	"localhost", ".localhost", // RFC 6761
	".local",                 // RFC 6762, multicast DNS
	".internal",              // reserved by ICANN for private use, 2024
	".home.arpa",             // RFC 8375
	".svc", ".cluster.local", // Kubernetes
	"metadata.tencentyun.com", "metadata.packet.net", "metadata.platformequinix.com",
	"metadata.google.internal", "instance-data.ec2.internal",
}

// checkName judges a host that is no address: lower-case, as a DNS name in
// ASCII, with a dot, not private, and not mistakable for an IPv4 address.
func checkName(host string) *Denied {
	host = strings.TrimSuffix(host, ".")
	if len(host) > 253 {
		return deny("name", "the host name is too long")
	}
	labels := strings.Split(host, ".")
	for _, label := range labels {
		if !isLabel(label) {
			return deny("name", "the host must be a DNS name in ASCII (write others in punycode) or an address")
		}
	}
	for _, suffix := range privateSuffixes {
		if host == suffix || suffix[0] == '.' && (strings.HasSuffix(host, suffix) || host == suffix[1:]) {
			return deny("private_name", "the host name is for private use")
		}
	}
	if len(labels) == 1 && !endsInNumber(host) {
		return deny("single_label", "the host name must have a dot: short names lead inward")
	}
	if endsInNumber(labels[len(labels)-1]) {
		return deny("ipv4_form", "write an IPv4 address as four decimal numbers without leading zeros")
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
	digits, hex := strings.CutPrefix(label, "0x")
	for _, c := range []byte(digits) {
		if (c < '0' || c > '9') && (!hex || c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
