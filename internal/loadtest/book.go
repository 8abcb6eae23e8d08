package loadtest

import (
	"fmt"
	"sync"
	"time"
)

// book joins what the senders saw of async requests with the callbacks that
// came, by the sequence number that both know. A callback may come before the
// 202, or instead of it. What is settled is forgotten but for one bit, which
// tells a second callback from an unexpected one; so memory grows with what is
// outstanding, not with what was sent.
type book struct {
	mu      sync.Mutex
	pages   []*page
	arrived []uint64 // a bit by sequence number: its first good callback has come
	pending int      // acknowledged, and without a callback
	closed  bool

	// noted is called with what each verified callback turned out to be, and
	// completed with each request that was acknowledged and called back. The lock
	// is held meanwhile and nobody has been told yet: so who has been told, or
	// finds nothing pending, finds it recorded, too. They may not ask the book.
	noted     func(arrivalKind)
	completed func(joined)

	// arrival wakes whoever waits for callbacks, after each one that counts.
	arrival chan struct{}
}

const pageSize = 1024

// page holds pageSize consecutive requests until all of them are settled.
type page struct {
	entries [pageSize]entry
	left    int // not settled
}

// entry is an async request whose post or callback is outstanding.
type entry struct {
	state    state
	at       time.Duration // the planned time
	answered time.Duration // when the 202 was read
	id       string        // by the 202
	givenUp  bool          // nobody waits for its callback any more
	early    callback      // what came before the 202
	settled  chan<- struct{}
}

type state uint8

const (
	unseen  state = iota
	posted        // under way
	early         // the callback came, and no answer yet
	owed          // acknowledged; its callback is due
	lost          // errored or timed out: whether a callback is due is not known
	settled       // nothing more is due
)

// callback is a verified callback. Times are run time.
type callback struct {
	first     time.Duration // t3: its first byte was read
	verified  time.Duration // t4: its signature was verified
	id        string        // of the request, as the callback has it
	completed bool          // the work succeeded
}

// joined is an async request that was acknowledged and called back.
type joined struct {
	callback
	at, answered time.Duration
	givenUp      bool // its caller had gone on without it
}

// post notes that a request goes out. settled, if not nil, is sent to when its
// callback is here or none will come.
func (b *book) post(seq int, at time.Duration, settled chan<- struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.pages) <= seq/pageSize {
		b.pages = append(b.pages, &page{left: pageSize})
		b.arrived = append(b.arrived, make([]uint64, pageSize/64)...)
	}
	*b.entry(seq) = entry{state: posted, at: at, settled: settled}
}

// entry is nil if all requests of its page are settled, or not posted.
func (b *book) entry(seq int) *entry {
	if seq < 0 || seq/pageSize >= len(b.pages) || b.pages[seq/pageSize] == nil {
		return nil
	}
	return &b.pages[seq/pageSize].entries[seq%pageSize]
}

// accepted notes the answer that accepted a request. If its callback is here
// already, the request is complete; if that names another request, it is none of
// this one's, and wrongID says so.
func (b *book) accepted(seq int, id string, answered time.Duration) (complete, wrongID bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(seq)
	e.id, e.answered = id, answered
	if e.state == early {
		if sameRequest(e.id, e.early.id) {
			b.completed(e.join(e.early))
			b.settle(seq, e)
			return true, false
		}
		b.clearBit(seq)
		wrongID = true
	}
	e.state = owed
	b.pending++
	return false, wrongID
}

// refused notes an answer that did not accept a request.
func (b *book) refused(seq int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(seq, b.entry(seq))
}

// lost notes that no answer came. It reports whether a callback is here all the
// same.
func (b *book) lost(seq int) (calledBack bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(seq)
	if e.state == early {
		b.settle(seq, e)
		return true
	}
	e.state = lost
	return false
}

// arrivalKind is what a verified callback turned out to be.
type arrivalKind int

const (
	unexpected arrivalKind = iota // for no request that was sent, or for one that was refused
	first                         // of an acknowledged request: it is complete
	beforeAnswer
	duplicate
	unacknowledged // of a post that got no answer
	wrongRequest   // it names another request than the 202 did
	tooLate        // the book is closed: what it is for is accounted for already
)

// came notes a verified callback.
func (b *book) came(seq int, c callback) arrivalKind {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return tooLate
	}
	e := b.entry(seq)
	kind := b.kind(seq, e, c)
	b.noted(kind)
	switch kind {
	case beforeAnswer:
		e.state, e.early = early, c
		b.setBit(seq)
	case unacknowledged:
		b.setBit(seq)
		b.settle(seq, e)
	case first:
		b.setBit(seq)
		b.pending--
		b.completed(e.join(c))
		b.settle(seq, e)
		select {
		case b.arrival <- struct{}{}:
		default: // somebody is about to look anyway
		}
	}
	return kind
}

// kind says what a verified callback is, for an entry that may be nil.
func (b *book) kind(seq int, e *entry, c callback) arrivalKind {
	switch {
	case seq >= 0 && seq/64 < len(b.arrived) && b.bit(seq):
		return duplicate
	case e == nil || e.state == unseen || e.state == settled:
		return unexpected
	case e.state == posted:
		return beforeAnswer
	case e.state == lost:
		return unacknowledged
	case !sameRequest(e.id, c.id):
		return wrongRequest
	}
	return first
}

func (e *entry) join(c callback) joined { return joined{c, e.at, e.answered, e.givenUp} }

// sameRequest reports whether two ids can be of one request. An API may leave
// one of them out.
func sameRequest(a, b string) bool { return a == b || a == "" || b == "" }

func (b *book) settle(seq int, e *entry) {
	if e.settled != nil {
		e.settled <- struct{}{} // has room
	}
	*e = entry{state: settled}
	p := b.pages[seq/pageSize]
	if p.left--; p.left == 0 {
		b.pages[seq/pageSize] = nil
	}
}

func (b *book) bit(seq int) bool { return b.arrived[seq/64]>>(seq%64)&1 == 1 }
func (b *book) setBit(seq int)   { b.arrived[seq/64] |= 1 << (seq % 64) }
func (b *book) clearBit(seq int) { b.arrived[seq/64] &^= 1 << (seq % 64) }

// unwatch ends the wish to be told when a request is settled; givenUp says that
// its caller lost patience with it. It reports whether that came too late, and the
// caller has been told.
func (b *book) unwatch(seq int, givenUp bool) (told bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.entry(seq)
	if e == nil || e.settled == nil {
		return true
	}
	e.settled, e.givenUp = nil, givenUp
	return false
}

// backlog is how many requests are acknowledged and without a callback.
func (b *book) backlog() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pending
}

// close ends the book: it lists the acknowledged requests without a callback as
// missing, and takes no callback any more. So each request is either complete or
// missing, also one whose callback comes at this moment.
func (b *book) close(m *missing) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for n, p := range b.pages {
		if p == nil {
			continue
		}
		for i := range p.entries {
			if p.entries[i].state == owed {
				m.add(p.entries[i].id, n*pageSize+i)
			}
		}
	}
}

// missing are accepted requests without an outcome: all are counted, the first
// maxMissingIDs listed.
type missing struct {
	mu    sync.Mutex
	count int
	ids   []string
}

// add lists a request by its id, or by its sequence number if it has none.
func (m *missing) add(id string, seq int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.count++
	if id == "" {
		id = fmt.Sprintf("#%d", seq)
	}
	if len(m.ids) < maxMissingIDs {
		m.ids = append(m.ids, id)
	}
}

// await returns when no callback is due any more, when none has come for as
// long as quiet, or when done is closed.
func (b *book) await(quiet time.Duration, done <-chan struct{}) {
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for b.backlog() > 0 {
		select {
		case <-b.arrival:
			timer.Reset(quiet)
		case <-timer.C:
			return
		case <-done:
			return
		}
	}
}
