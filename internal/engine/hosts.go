package engine

import (
	"sync"
	"time"

	"tandem/internal/callback"
)

// maxIdleHosts bounds the hosts that are remembered for their failures alone.
const maxIdleHosts = 10_000

// hosts is what is known of each callback host: the attempts in flight and the
// breaker. A host with neither attempts nor failures takes no memory.
type hosts struct {
	perHost int

	mu    sync.Mutex
	known map[string]*host
}

type host struct {
	inFlight int
	breaker  callback.Breaker
}

func newHosts(perHost int) hosts {
	return hosts{perHost: perHost, known: make(map[string]*host)}
}

// admit takes a place for one attempt to the host, if its limit and its
// breaker allow.
func (h *hosts) admit(name string, now time.Time) Admission {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.known[name]
	if known == nil {
		known = &host{}
		h.known[name] = known
	}
	if known.inFlight >= h.perHost {
		return Admission{}
	}
	breaker, ok, until := known.breaker.Admit(now)
	if !ok {
		return Admission{Until: until}
	}
	known.breaker = breaker
	known.inFlight++
	return Admission{OK: true}
}

// leave ends an attempt that was admitted, with what it has told of the host.
func (h *hosts) leave(name string, now time.Time, sign callback.Sign) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.known[name]
	known.inFlight--
	known.breaker = known.breaker.Record(now, sign)
	if known.inFlight == 0 && known.breaker == (callback.Breaker{}) {
		delete(h.known, name)
	}
	if len(h.known) > maxIdleHosts {
		h.forgetOne()
	}
}

// breaker returns the breaker of a host.
func (h *hosts) breaker(name string) callback.Breaker {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known := h.known[name]; known != nil {
		return known.breaker
	}
	return callback.Breaker{}
}

// setBreaker replaces the breaker of a host.
func (h *hosts) setBreaker(name string, b callback.Breaker) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.known[name]
	switch {
	case known != nil:
		known.breaker = b
		if known.inFlight == 0 && b == (callback.Breaker{}) {
			delete(h.known, name)
		}
	case b != (callback.Breaker{}):
		h.known[name] = &host{breaker: b}
		if len(h.known) > maxIdleHosts {
			h.forgetOne()
		}
	}
}

// forgetOne forgets the failures of some host without attempts in flight.
func (h *hosts) forgetOne() {
	for name, known := range h.known { // in no order
		if known.inFlight == 0 {
			delete(h.known, name)
			return
		}
	}
}

// HostState is one host as /stats shows it.
type HostState struct {
	Host     string
	InFlight int
	Breaker  string // closed, open or half_open
}

// states returns the hosts that have attempts in flight or failures to their
// name, at most limit of them.
func (h *hosts) states(now time.Time, limit int) []HostState {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []HostState
	for name, known := range h.known {
		if len(all) == limit {
			break
		}
		all = append(all, HostState{Host: name, InFlight: known.inFlight, Breaker: string(known.breaker.State(now))})
	}
	return all
}

// byBreaker counts the known hosts by the state of their breaker.
func (h *hosts) byBreaker(now time.Time) map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := map[string]int{"closed": 0, "open": 0, "half_open": 0}
	for _, known := range h.known {
		n[string(known.breaker.State(now))]++
	}
	return n
}
