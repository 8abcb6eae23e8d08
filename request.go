package tandem

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"time"
)

// Limits of one request. They are part of the API's contract and are the same
// for both modes and every backend.
const (
	MaxData       = 10_000   // encoded bytes of a request's data
	MaxDepth      = 10       // levels of nesting in data, the object itself being the first
	MaxBody       = 64 << 10 // bytes of a submitted body
	MaxResult     = 1 << 20  // bytes of a result
	MaxComplexity = 10
	MaxStarts     = 3 // interrupted starts after which a request fails as crashed_worker
)

// Mode says which of the two patterns a request was submitted through.
type Mode string

const (
	Sync  Mode = "sync"
	Async Mode = "async"
)

// Modes lists both patterns in the order reports show them.
var Modes = []Mode{Sync, Async}

// Request is one unit of submitted work and everything known about it.
// Times are UTC with microsecond precision; a zero time means "not yet".
type Request struct {
	ID         string
	Seq        int64  // the backend's own key, in the order of acceptance; 0 if it is not known
	Owner      string // whose request it is; empty when callers are not told apart
	Mode       Mode
	Status     Status
	Workload   string
	Lane       string          // the slots its work takes: "cpu" or "io"
	Complexity int             // 1..MaxComplexity
	Data       json.RawMessage // a JSON object, kept as it was sent
	Result     json.RawMessage // nil until completed
	Failure    *Failure        // nil unless failed
	Callback   Callback

	NotBefore time.Time // the work begins no earlier
	ExpiresAt time.Time // and not at all from then on

	// Waited: a caller waits for the outcome, as that of a sync request does.
	// Until Release makes the request a promise, a restart fails it and no
	// callback is owed.
	Waited bool

	CreatedAt time.Time
	StartedAt time.Time // when the last start of the work began
	WorkedAt  time.Time // when the work ended, well or not

	Starts int // starts of the work counted so far, this one included
	Epoch  int // raised by every start; fences a late worker's outcome
}

// QueueTime is how long the request waited for its work to begin, once that was
// allowed to, or zero if it has not begun.
func (r *Request) QueueTime() time.Duration {
	if r.StartedAt.IsZero() {
		return 0
	}
	waits := r.CreatedAt
	if r.NotBefore.After(waits) {
		waits = r.NotBefore
	}
	return max(0, r.StartedAt.Sub(waits))
}

// ProcessingTime is how long the work ran, or zero if it has not ended or
// never began.
func (r *Request) ProcessingTime() time.Duration {
	if r.WorkedAt.IsZero() || r.StartedAt.IsZero() {
		return 0
	}
	return max(0, r.WorkedAt.Sub(r.StartedAt))
}

// NewID returns a fresh request id: "req_" and a UUID version 7 (RFC 9562,
// section 5.7) of the given time, in hex without dashes. Ids of different
// milliseconds sort by time.
func NewID(now time.Time) string {
	var u [16]byte
	rand.Read(u[6:]) // never fails: crypto/rand ends the program instead
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(u[:6], ms[2:])
	u[6] = u[6]&0x0f | 0x70
	u[8] = u[8]&0x3f | 0x80
	return IDPrefix + hex.EncodeToString(u[:])
}

// IDPrefix starts every request id.
const IDPrefix = "req_"

// ValidID reports whether s has the form NewID gives: the prefix and 32
// lower-case hex digits.
func ValidID(s string) bool {
	if len(s) != len(IDPrefix)+32 || s[:len(IDPrefix)] != IDPrefix {
		return false
	}
	for i := len(IDPrefix); i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
