package loadtest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"tandem/internal/sock"
	"tandem/internal/target"
)

// client speaks HTTP/1.1 to one server, each connection from the goroutine that
// uses it: without net/http's two more goroutines a connection, the stamps are
// taken where the bytes are written and read, and the generator takes less of a
// machine that it shares with the service. Reading answers is net/http's. It
// follows no redirects and uses no proxy.
type client struct {
	address string      // to dial
	host    string      // of the Host header
	path    string      // in front of every path, without a slash at its end
	tls     *tls.Config // nil: plain
	timeout time.Duration
	now     func() time.Duration

	inFlight atomic.Int64 // written and not answered

	mu     sync.Mutex
	idle   []*conn // the one used last is taken first
	open   map[*conn]struct{}
	closed bool
}

type conn struct {
	net.Conn
	reader *bufio.Reader
	writer *bufio.Writer
	body   bytes.Buffer  // of the last answer
	used   time.Duration // when it was put back
}

func newClient(base string, timeout time.Duration, now func() time.Duration) (*client, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("must be like http://127.0.0.1:8000, is %q", u.Redacted())
	}
	c := &client{host: u.Host, path: u.EscapedPath(), timeout: timeout, now: now, open: map[*conn]struct{}{}}
	for len(c.path) > 0 && c.path[len(c.path)-1] == '/' {
		c.path = c.path[:len(c.path)-1]
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	c.address = net.JoinHostPort(u.Hostname(), port)
	if u.Scheme == "https" {
		c.tls = &tls.Config{ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}}
	}
	return c, nil
}

// exchange is a request and its answer. Times are run time.
type exchange struct {
	connecting time.Duration // how long its connection took to be made; 0: there was one
	written    time.Duration // when the request was written; 0: it was not
	answered   time.Duration // when the answer was read whole, or known not to come
	method     string
	status     int
	header     http.Header
	body       []byte // valid until done
	conn       *conn
	err        error
}

// largestAnswer holds a result of 1 MiB and what surrounds it.
const largestAnswer = 2 << 20

// errTooLarge is an answer that is larger than any that was agreed.
var errTooLarge = errors.New("the answer is over 2 MiB")

// write sends one request. Whatever comes of it, the caller gives the exchange
// back with done.
func (c *client) write(m target.Message) (x exchange) {
	if x.conn, x.connecting, x.err = c.get(); x.err != nil {
		return x
	}
	if x.err = x.conn.SetDeadline(time.Now().Add(c.timeout)); x.err != nil {
		return x
	}
	c.buffer(x.conn.writer, m)
	if x.err = x.conn.writer.Flush(); x.err != nil {
		return x
	}
	x.method, x.written = m.Method, c.now()
	c.inFlight.Add(1)
	return x
}

// read reads the answer to a request that was written. The body is valid until
// done.
func (c *client) read(x *exchange) {
	x.err = x.read()
	c.inFlight.Add(-1)
	x.answered = c.now()
}

// uri is the path and query of a message, from the server's root.
func (c *client) uri(m target.Message) string {
	if m.Rooted {
		return m.Path
	}
	return c.path + m.Path
}

// buffer writes the request to a buffer, which keeps its error until it is
// flushed.
func (c *client) buffer(w *bufio.Writer, m target.Message) {
	w.WriteString(m.Method)
	w.WriteString(" ")
	w.WriteString(c.uri(m))
	w.WriteString(" HTTP/1.1\r\nHost: ")
	w.WriteString(c.host)
	w.WriteString("\r\n")
	for name, values := range m.Header {
		for _, value := range values {
			w.WriteString(name)
			w.WriteString(": ")
			w.WriteString(value)
			w.WriteString("\r\n")
		}
	}
	if len(m.Body) > 0 || m.Method != http.MethodGet {
		w.WriteString("Content-Length: ")
		w.Write(strconv.AppendInt(w.AvailableBuffer(), int64(len(m.Body)), 10))
		w.WriteString("\r\n")
	}
	w.WriteString("\r\n")
	w.Write(m.Body)
}

// read reads the whole answer.
func (x *exchange) read() error {
	request := http.Request{Method: x.method}
	answer, err := http.ReadResponse(x.conn.reader, &request)
	for err == nil && answer.StatusCode < 200 { // such as 103 Early Hints
		answer, err = http.ReadResponse(x.conn.reader, &request)
	}
	if err != nil {
		return err
	}
	x.status, x.header = answer.StatusCode, answer.Header
	body := &x.conn.body
	body.Reset()
	if _, err := body.ReadFrom(io.LimitReader(answer.Body, largestAnswer+1)); err != nil {
		return err
	}
	if body.Len() > largestAnswer {
		return errTooLarge
	}
	x.body = body.Bytes()
	if answer.Close {
		x.conn.used = -1
	}
	return nil
}

// done gives the exchange's connection back, or closes it if it is of no more
// use. The body must not be read any more.
func (c *client) done(x exchange) {
	if x.conn == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if x.err != nil || x.conn.used < 0 || c.closed {
		delete(c.open, x.conn)
		x.conn.Close()
		return
	}
	x.conn.used = c.now()
	c.idle = append(c.idle, x.conn)
}

// restless is how long a connection may have been idle to be used without a
// look at whether the server has closed it.
const restless = 50 * time.Millisecond

// get returns an idle connection, or a new one and how long that took.
func (c *client) get() (*conn, time.Duration, error) {
	for {
		cn := c.takeIdle()
		if cn == nil {
			break
		}
		if c.now()-cn.used < restless || sock.Quiet(cn.Conn) {
			return cn, 0, nil
		}
		c.done(exchange{conn: cn, err: io.EOF})
	}
	start := c.now()
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "tcp", c.address)
	if err == nil && c.tls != nil {
		secure := tls.Client(raw, c.tls)
		if err = secure.HandshakeContext(ctx); err != nil {
			raw.Close()
		}
		raw = secure
	}
	if err != nil {
		return nil, c.now() - start, err
	}
	cn := &conn{Conn: raw, reader: bufio.NewReader(raw), writer: bufio.NewWriter(raw)}
	c.mu.Lock()
	c.open[cn] = struct{}{}
	closed := c.closed
	c.mu.Unlock()
	if closed {
		raw.Close()
	}
	return cn, c.now() - start, nil
}

func (c *client) takeIdle() *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.idle) == 0 {
		return nil
	}
	cn := c.idle[len(c.idle)-1]
	c.idle = c.idle[:len(c.idle)-1]
	return cn
}

// closeIn ends all connections after a while.
func (c *client) closeIn(d time.Duration) { time.AfterFunc(d, c.close) }

// close ends all connections, also those in use.
func (c *client) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for cn := range c.open {
		cn.Close()
	}
}

// category sorts an error of an exchange.
func category(err error) string {
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return CategoryTimeout
	}
	if errors.Is(err, errTooLarge) {
		return CategoryBadAnswer
	}
	return CategoryConnect
}
