package loadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tandem/internal/target"
)

// receiver takes the callbacks of one run at a time, at /cb/{run}/{seq}. The
// URL says which request a callback belongs to, so it is joined without the
// service's id, also when it comes before the 202 or instead of it. Only
// callbacks that pass the target's verification count.
type receiver struct {
	target *target.Target
	secret target.Secret
	base   string // of the URLs, without a slash at its end
	server *http.Server
	run    atomic.Pointer[run] // whose callbacks are taken; nil: nobody's
}

// received counts what reached the receiver during a run.
type received struct {
	mu     sync.Mutex
	counts Callbacks
}

// count counts one callback, and says as what.
func (n *received) count(as func(*Callbacks)) {
	n.correct(func(c *Callbacks) { c.Received++; as(c) })
}

// correct changes how callbacks were counted before.
func (n *received) correct(change func(*Callbacks)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(&n.counts)
}

// arrived counts a verified callback.
func (n *received) arrived(kind arrivalKind) {
	n.count(func(c *Callbacks) {
		switch kind {
		case first, beforeAnswer:
			c.Verified++
		case unacknowledged:
			c.Verified++
			c.OfUnacknowledged++
		case duplicate:
			c.Duplicates++
		case wrongRequest:
			c.Malformed++
		case unexpected:
			c.Unknown++
		}
	})
}

// largestCallback holds a result of 1 MiB and what surrounds it.
const largestCallback = 2 << 20

// start listens. Public is the base URL that reaches the address from the
// service; empty, if it is the address itself.
func (rc *receiver) start(address, public string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrListen, err)
	}
	if rc.base = strings.TrimRight(public, "/"); rc.base == "" {
		rc.base = "http://" + listener.Addr().String()
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/cb/{run}/{seq}", rc.receive)
	mux.HandleFunc("/", rc.unknown)
	rc.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // a sender that breaks off is counted by what does not come
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, stampedConn{}, c)
		},
	}
	go rc.server.Serve(stampingListener{listener}) // returns when the server is closed
	return nil
}

// close ends the receiver. Callbacks that come later find nobody.
func (rc *receiver) close() {
	if rc.server != nil {
		_ = rc.server.Close() // its one error is that of a listener that nobody needs any more
	}
}

// callbackURL is where the callback of a request is to go.
func (r *run) callbackURL(seq int) string {
	return r.receiver.base + "/cb/" + r.id + "/" + strconv.Itoa(seq)
}

func (rc *receiver) receive(w http.ResponseWriter, req *http.Request) {
	r := rc.run.Load()
	seq, err := strconv.Atoi(req.PathValue("seq"))
	if r == nil || r.id != req.PathValue("run") || err != nil {
		rc.unknown(w, req)
		return
	}
	c := callback{first: firstByte(req).Sub(r.epoch)}
	body, err := readCallback(w, req)
	if err != nil {
		r.received.count(func(c *Callbacks) { c.Malformed++ })
		http.Error(w, "cannot read the body", http.StatusBadRequest)
		return
	}
	outcome, err := rc.target.ReadCallback(req.Header, body, time.Now(), rc.secret)
	if err != nil {
		refuse(w, &r.received, err)
		return
	}
	c.verified, c.id, c.completed = r.now(), outcome.ID, outcome.Completed
	switch r.book.came(seq, c) {
	case unexpected, tooLate:
		http.Error(w, "no callback is expected here", http.StatusNotFound)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// refuse answers a callback that is not believed.
func refuse(w http.ResponseWriter, n *received, err error) {
	status := http.StatusUnauthorized
	switch {
	case errors.Is(err, target.ErrMalformed):
		n.count(func(c *Callbacks) { c.Malformed++ })
		status = http.StatusBadRequest
	case errors.Is(err, target.ErrLate):
		n.count(func(c *Callbacks) { c.Late++ })
	default:
		n.count(func(c *Callbacks) { c.Forged++ })
	}
	http.Error(w, err.Error(), status)
}

// unknown answers what is for no request of this run.
func (rc *receiver) unknown(w http.ResponseWriter, req *http.Request) {
	if r := rc.run.Load(); r != nil {
		r.received.count(func(c *Callbacks) { c.Unknown++ })
	}
	_, _ = readCallback(w, req) // nobody wants it
	http.Error(w, "no callback is expected here", http.StatusNotFound)
}

// soFar is what was counted so far.
func (n *received) soFar() (counts Callbacks) {
	n.correct(func(c *Callbacks) { counts = *c })
	return counts
}

// stamped notes when the first byte of a message was read from a connection.
// Webhook senders wait for an answer before they send the next message, so one
// stamp a connection is enough.
type stamped struct {
	net.Conn
	first atomic.Int64 // nanoseconds since stampsBegan; 0: nothing of the next message is here
}

var stampsBegan = time.Now()

func (c *stamped) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && c.first.Load() == 0 {
		c.first.Store(int64(time.Since(stampsBegan)))
	}
	return n, err
}

// firstByte is when the first byte of the message was read.
func firstByte(req *http.Request) time.Time {
	return stampsBegan.Add(time.Duration(req.Context().Value(stampedConn{}).(*stamped).first.Load()))
}

// readCallback reads the body, and readies the stamp for the next message.
func readCallback(w http.ResponseWriter, req *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, largestCallback))
	req.Context().Value(stampedConn{}).(*stamped).first.Store(0)
	return body, err
}

// stampedConn is the key of a request's connection in its context.
type stampedConn struct{}

type stampingListener struct{ net.Listener }

func (l stampingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &stamped{Conn: c}, nil
}
