package egress

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func newGuard(t testing.TB, opts Options) *Guard {
	t.Helper()
	g, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// errWouldConnect is what a dial ends with in place of a packet.
var errWouldConnect = errors.New("allowed; the test stops before the first packet")

// stoppingGuard returns a guard whose dials go as far as the verdict on each
// address, and the addresses that would have been connected to.
func stoppingGuard(t testing.TB, opts Options) (*Guard, *[]string) {
	t.Helper()
	g := newGuard(t, opts)
	var mu sync.Mutex // both families are dialled at once
	reached := new([]string)
	verdict := g.dialer.ControlContext
	g.dialer.ControlContext = func(ctx context.Context, network, address string, c syscall.RawConn) error {
		if err := verdict(ctx, network, address, c); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		*reached = append(*reached, address)
		return errWouldConnect
	}
	return g, reached
}

// stubDNS answers every question in this process: the first lookup of each
// type with the first list of addresses, and so on; the last stays.
type stubDNS struct {
	answers [][]netip.Addr

	mu      sync.Mutex
	lookups map[dnsmessage.Type]int
}

func (s *stubDNS) resolver() *net.Resolver {
	return &net.Resolver{
		PreferGo: true,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe()
			go s.serve(server)
			return client, nil
		},
	}
}

// serve answers one question as DNS over TCP does. If it cannot, the resolver
// finds the connection closed.
func (s *stubDNS) serve(conn net.Conn) {
	defer conn.Close()
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return
	}
	packed := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, packed); err != nil {
		return
	}
	var query dnsmessage.Message
	if err := query.Unpack(packed); err != nil || len(query.Questions) == 0 {
		return
	}
	q := query.Questions[0]
	answer := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: query.ID, Response: true, RecursionAvailable: true},
		Questions: query.Questions[:1],
	}
	for _, addr := range s.next(q.Type) {
		header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
		if addr.Is4() && q.Type == dnsmessage.TypeA {
			answer.Answers = append(answer.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: addr.As4()}})
		}
		if addr.Is6() && q.Type == dnsmessage.TypeAAAA {
			answer.Answers = append(answer.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	out, err := answer.Pack()
	if err != nil {
		return
	}
	binary.BigEndian.PutUint16(length[:], uint16(len(out)))
	_, _ = conn.Write(append(length[:], out...)) // the resolver gives up by itself if this fails
}

func (s *stubDNS) next(kind dnsmessage.Type) []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lookups == nil {
		s.lookups = make(map[dnsmessage.Type]int)
	}
	n := min(s.lookups[kind], len(s.answers)-1)
	s.lookups[kind]++
	return s.answers[n]
}
