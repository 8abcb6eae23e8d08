package callback

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"tandem"
	"tandem/webhook"
)

// What of an answer is read and kept. Header and body are capped apart.
const (
	MaxAnswer = 64 << 10 // bytes of the answer's header, and of its body, that are read
	KeptBody  = 1 << 10  // bytes of the body that are kept
)

// Options of a Sender. Zero means the default.
type Options struct {
	AttemptTimeout time.Duration  // from the start until the answer's body has ended; 10 s
	ConnectTimeout time.Duration  // for resolving and connecting, and again for the TLS handshake; 3 s
	IdlePerHost    int            // connections kept open to each host between attempts; 64
	UserAgent      string         // "Tandem"
	RootCAs        *x509.CertPool // whom to trust; the system's
}

// DialFunc opens a connection, as [net.Dialer.DialContext] does.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Sender makes attempts at delivering callbacks. It may be used by many
// goroutines at once, and keeps connections open between attempts. It does not
// limit the attempts in flight, in all or to a host: its owner does, before the
// attempt's time begins to run.
type Sender struct {
	transport *http.Transport
	plain     *plain
	timeout   time.Duration
	userAgent []string
}

// NewSender returns a Sender whose every connection is opened by dial, which is
// the egress guard's and decides which addresses may be reached. It panics if
// dial is nil, because a dialer of its own would be a way past the guard.
func NewSender(dial DialFunc, opts Options) *Sender {
	if dial == nil {
		panic("callback: NewSender needs a dial function")
	}
	opts.AttemptTimeout = orDefault(opts.AttemptTimeout, 10*time.Second)
	opts.ConnectTimeout = orDefault(opts.ConnectTimeout, 3*time.Second)
	opts.IdlePerHost = orDefault(opts.IdlePerHost, 64)
	opts.UserAgent = orDefault(opts.UserAgent, "Tandem")

	d := dialer{
		dial:    dial,
		timeout: opts.ConnectTimeout,
		tls: &tls.Config{
			RootCAs:    opts.RootCAs,
			MinVersion: tls.VersionTLS12,
			NextProtos: []string{"h2", "http/1.1"},
		},
	}
	maxIdle := max(1024, opts.IdlePerHost)
	return &Sender{
		plain:     newPlain(d.plain, opts.IdlePerHost, maxIdle),
		timeout:   opts.AttemptTimeout,
		userAgent: []string{opts.UserAgent},
		// Used without an http.Client, so that no redirect is followed and no
		// cookie kept. Proxy is nil: the environment's would be a way past the
		// guard. MaxConnsPerHost stays unset: attempts would wait in its queue
		// while their time runs, and the breaker would blame the host.
		transport: &http.Transport{
			DialContext:            d.plain,
			DialTLSContext:         d.secure,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // a body is never unpacked: no decompression bomb
			MaxIdleConns:           maxIdle,
			MaxIdleConnsPerHost:    opts.IdlePerHost,
			IdleConnTimeout:        idleTimeout,
			MaxResponseHeaderBytes: MaxAnswer, // informational answers included
			HTTP2: &http.HTTP2Config{
				// A dead connection would otherwise take every attempt to its
				// host with it, one timeout after the other.
				SendPingTimeout:               15 * time.Second,
				PingTimeout:                   5 * time.Second,
				MaxReceiveBufferPerStream:     MaxAnswer,
				MaxReceiveBufferPerConnection: 1 << 20,
			},
		},
	}
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Close closes the connections that no attempt is using.
func (s *Sender) Close() {
	s.transport.CloseIdleConnections()
	s.plain.closeIdle()
}

// Message is one callback on its way.
type Message struct {
	URL     string // absolute, http or https; a user and password in it become basic authentication
	ID      string // the webhook-id: the request's id, the same on every attempt
	Body    []byte // JSON; must never change after Send was called
	At      time.Time
	Secrets []webhook.Secret
	Timeout time.Duration // zero means the Sender's AttemptTimeout
	Header  http.Header   // further headers; may be nil. Ours win over them
}

// Send makes one attempt: a signed POST of the body, whose webhook-timestamp is
// At, or the present if At is zero. It does not fail: whatever happens is an
// Answer.
//
// The attempt's time includes reading the answer's body. Once the headers have
// come the status decides alone: a 2xx whose body stalls or breaks off is
// delivered, because the receiver said so and a repeat would only be dropped as
// a duplicate. At most MaxAnswer bytes of the body are read. A body that ends
// within them leaves its connection open for the next attempt.
//
// One thing is repeated within an attempt: if a connection kept open from
// before turns out to have been closed by the receiver meanwhile, the message
// goes out again on another one. The receiver may so see it twice, as it may
// anyway.
func (s *Sender) Send(ctx context.Context, m Message) Answer {
	start := time.Now()
	if m.At.IsZero() {
		m.At = start
	}
	a := s.send(ctx, m)
	a.At, a.Duration = start, time.Since(start)
	return a
}

func (s *Sender) send(ctx context.Context, m Message) Answer {
	timeout := orDefault(m.Timeout, s.timeout)
	attempt, cancel := context.WithTimeoutCause(ctx, timeout, deadline{"no answer", timeout})
	defer cancel()

	r, err := s.request(attempt, m)
	if err != nil {
		// Nothing was sent and nothing can be: no host is to blame.
		return Answer{Class: tandem.ClassDenied, Error: tidy(err.Error())}
	}
	res, err := s.way(r).RoundTrip(r)
	if err != nil {
		if ctx.Err() != nil {
			return Answer{Class: tandem.ClassTimeout, Error: "interrupted before the receiver answered", Interrupted: true}
		}
		class, text := ClassifyError(err)
		return Answer{Class: class, Error: text}
	}
	defer res.Body.Close()

	a := Answer{Status: res.StatusCode, Class: Classify(res.StatusCode)}
	if a.Class != tandem.ClassNone {
		a.Error = describe(a.Status)
		a.RetryAfter = ParseRetryAfter(res.Header.Get("Retry-After"), time.Now())
	}
	if a.Status != http.StatusSwitchingProtocols { // whose body is no answer but a connection
		a.Body = readBody(res.Body)
	}
	return a
}

// way is how a message travels. TLS, which may turn out to be HTTP/2, and long
// messages are for net/http's transport.
func (s *Sender) way(r *http.Request) http.RoundTripper {
	if r.URL.Scheme == "http" && r.ContentLength <= smallMessage {
		return s.plain
	}
	return s.transport
}

// request builds the signed POST. Its errors do not quote the URL.
func (s *Sender) request(ctx context.Context, m Message) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, m.URL, bytes.NewReader(m.Body))
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, fmt.Errorf("callback URL: %w", err)
	}
	if scheme := r.URL.Scheme; scheme != "http" && scheme != "https" || r.URL.Host == "" {
		return nil, errors.New("callback URL: must be absolute, with http or https")
	}
	h := make(http.Header, 6+len(m.Header))
	maps.Copy(h, m.Header)
	h["Content-Type"] = contentType
	h["User-Agent"] = s.userAgent
	// This header tells the transport that the message may be repeated on a
	// connection that was closed while idle. With no values it is not sent.
	if _, given := h["Idempotency-Key"]; !given {
		h["Idempotency-Key"] = nil
	}
	webhook.Sign(h, m.ID, m.At, m.Body, m.Secrets...)
	r.Header = h
	if u := r.URL.User; u != nil {
		password, _ := u.Password()
		r.SetBasicAuth(u.Username(), password)
	}
	return r, nil
}

var contentType = []string{"application/json"}

func describe(status int) string {
	s := "answered " + strconv.Itoa(status)
	if text := http.StatusText(status); text != "" {
		s += " " + text
	}
	return s
}

// readBody reads body to its end, but no more than MaxAnswer bytes, and returns
// a copy of the first KeptBody. An error ends it like the end: what was read
// until then is kept, and the status has said what matters.
func readBody(body io.Reader) []byte {
	if body == http.NoBody {
		return nil
	}
	buf := buffers.Get().(*[8 << 10]byte)
	defer buffers.Put(buf)

	n, err := io.ReadFull(body, buf[:KeptBody])
	kept := bytes.Clone(buf[:n])
	for total := n; err == nil && total < MaxAnswer; total += n {
		n, err = body.Read(buf[:min(len(buf), MaxAnswer-total)])
	}
	if len(kept) == 0 {
		return nil
	}
	return kept
}

var buffers = sync.Pool{New: func() any { return new([8 << 10]byte) }}

// dialer opens connections with limits of its own: the transport detaches a
// dial from the attempt that asked for it, so no other deadline ends it.
type dialer struct {
	dial    DialFunc
	timeout time.Duration
	tls     *tls.Config
}

func (d dialer) plain(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	conn, err := d.dial(ctx, network, addr)
	if err != nil {
		return nil, dialError{err}
	}
	return conn, nil
}

func (d dialer) secure(ctx context.Context, network, addr string) (net.Conn, error) {
	plain, err := d.plain(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	config := d.tls.Clone()
	if config.ServerName, _, err = net.SplitHostPort(addr); err != nil {
		plain.Close()
		return nil, dialError{err}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.timeout, deadline{"not finished", d.timeout})
	defer cancel()
	conn := tls.Client(plain, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		plain.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, tlsError{err}
	}
	return conn, nil
}
