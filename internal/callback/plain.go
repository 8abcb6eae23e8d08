package callback

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"tandem/internal/sock"
)

// plain is an http.RoundTripper for HTTP/1.1 without TLS and small messages.
// Each connection is used by the goroutine that makes the attempt: net/http's
// transport has two more goroutines for every connection, and handing over to
// them and back costs more than the exchange itself.
//
// What goes over the wire is written and read by net/http, so that both agree
// on what is proper HTTP; only the connections are kept here. A message is
// written whole before the answer is looked at, and so must be small enough not
// to wait for a receiver that answers before it has read.
type plain struct {
	dial        DialFunc
	idlePerHost int
	maxIdle     int

	mu    sync.Mutex
	idle  map[string][]*plainConn // by address; the one used last is at the end
	total int                     // of them
}

// smallMessage is what fits into the buffers of any connection.
const smallMessage = 16 << 10

// idleTimeout is how long a connection is kept open for the next attempt. That
// a receiver has closed it is seen only then, so it is not kept for long.
const idleTimeout = 15 * time.Second

func newPlain(dial DialFunc, idlePerHost, maxIdle int) *plain {
	return &plain{dial: dial, idlePerHost: idlePerHost, maxIdle: maxIdle, idle: make(map[string][]*plainConn)}
}

// plainConn is a connection to one address.
type plainConn struct {
	net.Conn
	addr   string
	reader *bufio.Reader
	writer *bufio.Writer
	left   int64       // bytes that may still be read
	expiry *time.Timer // closes it when it was idle for too long; nil before it first was
}

var errLongHeader = fmt.Errorf("the answer's header exceeds %d bytes", MaxAnswer)

// Read is for reader.
func (c *plainConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errLongHeader
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// RoundTrip implements http.RoundTripper. If a connection from before turns out
// to be closed before any of the answer has come, it goes on with another. The
// request must have GetBody.
func (p *plain) RoundTrip(r *http.Request) (*http.Response, error) {
	addr := r.URL.Host
	if r.URL.Port() == "" {
		addr = net.JoinHostPort(r.URL.Hostname(), "80")
	}
	for {
		c := p.take(addr)
		reused := c != nil
		if !reused {
			conn, err := p.dial(r.Context(), "tcp", addr)
			if err != nil {
				return nil, failure(r.Context(), err)
			}
			c = &plainConn{Conn: conn, addr: addr, writer: bufio.NewWriter(conn)}
			c.reader = bufio.NewReader(c)
		}
		res, err := p.exchange(c, r)
		if err == nil || !reused || c.left < MaxAnswer || r.Context().Err() != nil {
			return res, err
		}
		if r.Body, err = r.GetBody(); err != nil {
			return nil, err
		}
	}
}

// exchange sends the request and reads the answer's header. The connection is
// given back, or closed, when the answer's body is closed.
func (p *plain) exchange(c *plainConn, r *http.Request) (*http.Response, error) {
	c.left = MaxAnswer
	// When the attempt ends, so does whatever is read or written.
	unhook := context.AfterFunc(r.Context(), func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	res, err := c.roundTrip(r)
	if err != nil {
		unhook()
		c.Close()
		return nil, failure(r.Context(), err)
	}
	c.left = math.MaxInt64 // the body has its own bound
	answer := &plainBody{ReadCloser: res.Body, ended: res.Body == http.NoBody}
	answer.done = func() {
		if alive := unhook(); alive && answer.ended && !res.Close {
			p.put(c)
		} else {
			c.Close()
		}
	}
	res.Body = answer
	return res, nil
}

func (c *plainConn) roundTrip(r *http.Request) (*http.Response, error) {
	err := r.Write(c.writer)
	if err == nil {
		err = c.writer.Flush()
	}
	// A receiver may answer and close before it has read all: then it is the
	// answer that counts, if there is one.
	res, readErr := http.ReadResponse(c.reader, r)
	for readErr == nil && res.StatusCode < 200 && res.StatusCode != http.StatusSwitchingProtocols {
		res, readErr = http.ReadResponse(c.reader, r) // the one before was informational
	}
	if readErr != nil {
		return nil, cmp.Or(err, readErr)
	}
	if err != nil || res.StatusCode == http.StatusSwitchingProtocols {
		res.Close = true
	}
	return res, nil
}

// failure is why an exchange failed: the end of its attempt, if that has come. A
// dial goes by the deadline itself, and may notice it a moment before the
// context does.
func failure(attempt context.Context, err error) error {
	if end, ok := attempt.Deadline(); ok && !time.Now().Before(end) {
		<-attempt.Done()
	}
	if attempt.Err() != nil {
		return context.Cause(attempt)
	}
	return err
}

// plainBody is the body of an answer, and knows whether it was read to its end.
type plainBody struct {
	io.ReadCloser
	ended bool
	done  func()
}

func (b *plainBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.ended = b.ended || err == io.EOF
	return n, err
}

// Close does not read on to the end of the body, as the one of net/http does.
func (b *plainBody) Close() error {
	b.done()
	return nil
}

// take returns an idle connection to addr, or nil.
func (p *plain) take(addr string) *plainConn {
	for {
		p.mu.Lock()
		all := p.idle[addr]
		if len(all) == 0 {
			p.mu.Unlock()
			return nil
		}
		c := all[len(all)-1]
		p.forget(c, len(all)-1)
		p.mu.Unlock()
		if sock.Quiet(c.Conn) {
			return c
		}
		c.Close()
	}
}

// forget takes the connection at i off the idle ones. The caller holds mu.
func (p *plain) forget(c *plainConn, i int) {
	c.expiry.Stop()
	p.total--
	p.idle[c.addr] = slices.Delete(p.idle[c.addr], i, i+1)
	if len(p.idle[c.addr]) == 0 {
		delete(p.idle, c.addr)
	}
}

// put keeps a connection for the next attempt, if there is room.
func (p *plain) put(c *plainConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.reader.Buffered() > 0 || p.total >= p.maxIdle || len(p.idle[c.addr]) >= p.idlePerHost {
		c.Close()
		return
	}
	p.idle[c.addr] = append(p.idle[c.addr], c)
	p.total++
	if c.expiry == nil {
		c.expiry = time.AfterFunc(idleTimeout, func() { p.expire(c) })
	} else {
		c.expiry.Reset(idleTimeout)
	}
}

// expire closes a connection that was idle for too long.
func (p *plain) expire(c *plainConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.idle[c.addr], c); i >= 0 { // else an attempt has just taken it
		p.forget(c, i)
		c.Close()
	}
}

// closeIdle closes the connections that no attempt is using.
func (p *plain) closeIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, all := range p.idle {
		for _, c := range all {
			c.expiry.Stop()
			c.Close()
		}
	}
	clear(p.idle)
	p.total = 0
}
