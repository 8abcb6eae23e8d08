package store

import (
	"sync"
	"sync/atomic"
)

// Notes are the beginnings of sync requests that may not be written yet. Each
// is dropped if the request's own outcome comes first: that writes the whole
// row. The zero value is empty; its methods may be called at once.
type Notes struct{ byID sync.Map }

// Note is one of them.
type Note struct{ state atomic.Int32 }

const (
	noteWaits int32 = iota
	noteWritten
	noteDropped
)

// Add returns the note that a request has begun.
func (s *Notes) Add(id string) *Note {
	n := &Note{}
	s.byID.Store(id, n)
	return n
}

// Drop forgets the note of a request, and reports whether that keeps it from
// being written. It does not if a transaction has taken it before.
func (s *Notes) Drop(id string) bool {
	n, ok := s.byID.LoadAndDelete(id)
	return ok && n.(*Note).state.CompareAndSwap(noteWaits, noteDropped)
}

// Take reports whether the note is to be written; from then on it cannot be
// dropped. A transaction that is tried again takes it again.
func (n *Note) Take() bool {
	n.state.CompareAndSwap(noteWaits, noteWritten)
	return n.state.Load() == noteWritten
}
