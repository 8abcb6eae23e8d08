package callback

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
	"unicode/utf8"

	"tandem"
)

// Classify sorts the HTTP status of an answer (RFC 9110, section 15). It knows
// every number: what is no final status of HTTP, such as 101 to a request that
// asked for no other protocol, or 600, is a protocol error.
func Classify(status int) tandem.ErrorClass {
	switch {
	case status < 200:
		return tandem.ClassProtocol
	case status < 300:
		return tandem.ClassNone
	case status < 400:
		return tandem.ClassRedirect
	case status == 410:
		return tandem.ClassGone
	case status == 429:
		return tandem.ClassLimited
	case status < 500:
		return tandem.ClassClient
	case status < 600:
		return tandem.ClassServer
	default:
		return tandem.ClassProtocol
	}
}

// deadline is the cause of a time limit of ours; it names itself.
type deadline struct {
	what  string
	after time.Duration
}

func (d deadline) Error() string { return d.what + " within " + d.after.String() }
func (d deadline) Timeout() bool { return true }

// A dial and a handshake mark their errors, because the same io.EOF means
// another thing in each phase.
type (
	dialError struct{ error }
	tlsError  struct{ error }
)

func (e dialError) Unwrap() error { return e.error }
func (e tlsError) Unwrap() error  { return e.error }

// denial is the refusal of an address by the egress guard, wherever it stands
// in a chain of errors. It is an interface so that this package needs no guard.
type denial interface {
	error
	EgressDenied() bool
}

// timeout is a net.Error without its deprecated half.
type timeout interface {
	error
	Timeout() bool
}

// ClassifyError sorts an attempt that brought no answer, and says what went
// wrong in words for people, which hold nothing of the URL but its host.
func ClassifyError(err error) (tandem.ErrorClass, string) {
	if d, ok := errors.AsType[denial](err); ok && d.EgressDenied() {
		return tandem.ClassDenied, tidy(d.Error())
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		// Not e itself: it names the resolver, which is nobody's business.
		return tandem.ClassDNS, tidy(fmt.Sprintf("resolve %s: %s", e.Name, e.Err))
	}
	if e, ok := errors.AsType[dialError](err); ok {
		return tandem.ClassConnect, tidy(e.Error())
	}
	if e, ok := errors.AsType[tlsError](err); ok {
		return tandem.ClassTLS, tidy("TLS handshake: " + e.Error())
	}
	// A server of TLS 1.3 that misses a client certificate says so only after
	// the handshake, in an alert that crypto/tls gives no type.
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "remote error" {
		return tandem.ClassTLS, tidy(e.Error())
	}
	if e, ok := errors.AsType[timeout](err); ok && e.Timeout() {
		return tandem.ClassTimeout, tidy(err.Error())
	}
	if isHangUp(err) {
		return tandem.ClassConnect, tidy("the connection ended before the answer: " + err.Error())
	}
	return tandem.ClassProtocol, tidy("no proper HTTP answer: " + err.Error())
}

// isHangUp reports whether the other side, or the way to it, ended an open
// connection.
func isHangUp(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return true
	}
	if _, ok := errors.AsType[*net.OpError](err); ok { // resets come in one on every platform
		return true
	}
	// net/http does not export this one; it comes when the receiver closes
	// without reading the request.
	return strings.Contains(err.Error(), "server closed idle connection")
}

// tidy bounds a message that may quote what a stranger sent, and keeps it text.
func tidy(s string) string {
	const limit = 300
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "..."
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return s
}
