package server

import (
	"io"
	"net"
	"sync"
	"time"

	"tandem/internal/httpapi"
)

// listener opens at most so many connections at once. Further ones wait in the
// system's queue.
type listener struct {
	net.Listener
	open   chan struct{} // holds one for each connection that is open
	closed chan struct{}
	once   sync.Once
}

func limitListener(l net.Listener, most int) *listener {
	return &listener{Listener: l, open: make(chan struct{}, most), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.open <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.open
		return nil, err
	}
	return &conn{Conn: c, left: sync.OnceFunc(func() { <-l.open })}, nil
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// conn is a connection of a client.
type conn struct {
	net.Conn
	left func() // gives its place to another
}

// Write makes problem documents of what net/http refuses by itself.
func (c *conn) Write(b []byte) (int, error) {
	refusal := httpapi.RewriteRefusal(b)
	if refusal == nil {
		return c.Conn.Write(b)
	}
	if _, err := c.Conn.Write(refusal); err != nil {
		return 0, err
	}
	return len(b), nil
}

// lingering is how long a client may go on sending what is not wanted.
const lingering = 2 * time.Second

// CloseWrite tells the client that nothing follows, and waits until it has
// understood. net/http calls it after the answer to a message that it does not
// read to the end, such as one that is too large. Closed at once, a connection
// with unread bytes is reset, and the client would lose that answer.
func (c *conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return nil
	}
	if err := half.CloseWrite(); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(lingering)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, c.Conn)
	return err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	defer c.left()
	return c.Conn.Close()
}
