package engine

import (
	"time"

	"tandem"
)

// IdempotencyKey is what a caller repeats a submission under
// (draft-ietf-httpapi-idempotency-key-header-07). The zero value is none.
type IdempotencyKey struct {
	Key         string
	Fingerprint [32]byte // of what was submitted
}

// IdempotencyKept is how long a key stands for its request.
const IdempotencyKept = 24 * time.Hour

// ErrKeyReused refuses a key that stands for another submission.
var ErrKeyReused = tandem.Invalid("Idempotency-Key", "was used for another request in the last %.0f hours; use a new key for a new request", IdempotencyKept.Hours())

// errStillWorked refuses a repeated sync submission while the first is worked.
var errStillWorked = &tandem.Error{
	Code: tandem.CodeConflict, Field: "Idempotency-Key",
	Message: "the request with this key is still being worked; come back for its answer", RetryAfter: time.Second,
}
