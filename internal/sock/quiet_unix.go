//go:build unix

// Package sock looks at connections below net.
package sock

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Quiet reports, without waiting, that an idle connection is still open and
// nothing has come on it. Otherwise the other side has closed it, or sent bytes
// that nobody asked for: what is written into such a connection may be lost
// unseen, and what is read from it answers nothing. Where the system cannot be
// asked, Quiet reports true.
func Quiet(c net.Conn) bool {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	socket, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = errors.Is(err, unix.EAGAIN)
		return true
	})
	return err == nil && quiet
}
