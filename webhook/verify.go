package webhook

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Tolerance is how far a message's timestamp may lie from the receiver's
// clock, before or after it, for Verify to accept the message.
const Tolerance = 5 * time.Minute

// What Verify finds wrong. ErrTooOld and ErrTooNew are also ErrTimestamp.
var (
	ErrMissingHeader = errors.New("webhook: webhook-id, webhook-timestamp or webhook-signature is missing")
	ErrTimestamp     = errors.New("webhook: webhook-timestamp is not acceptable")
	ErrTooOld        = fmt.Errorf("%w: too old", ErrTimestamp)
	ErrTooNew        = fmt.Errorf("%w: too far in the future", ErrTimestamp)
	ErrSignature     = errors.New("webhook: no signature matches")
)

// Verify returns nil if one of the secrets signed exactly this body under the
// id and timestamp in h, and the timestamp lies within Tolerance of now. Any v1
// signature in webhook-signature may be the one that matches; versions it does
// not know are ignored. Otherwise it returns one of the errors above.
//
// Give it the body as it was received, before any decoding, and all secrets
// that may be in use while one is rotated. Comparison takes constant time.
// Verify does not remember ids: to drop what was delivered twice, or replayed
// within the tolerance, remember webhook-id.
func Verify(h http.Header, body []byte, now time.Time, secrets ...Secret) error {
	return VerifyWithin(Tolerance, h, body, now, secrets...)
}

// VerifyWithin is Verify with a tolerance of the caller's choice.
func VerifyWithin(tolerance time.Duration, h http.Header, body []byte, now time.Time, secrets ...Secret) error {
	id, timestamp, signatures := h.Get(HeaderID), h.Get(HeaderTimestamp), h.Get(HeaderSignature)
	if id == "" || timestamp == "" || signatures == "" {
		return ErrMissingHeader
	}
	at, ok := parseTimestamp(timestamp)
	if !ok {
		return fmt.Errorf("%w: not a number of seconds", ErrTimestamp)
	}
	if age := now.Sub(at); age > tolerance {
		return ErrTooOld
	} else if age < -tolerance {
		return ErrTooNew
	}
	// "a.1" at 2 with body "x" and "a" at 1 with body "2.x" are signed as the
	// same bytes, so a signature says nothing about an id with a full stop.
	if strings.Contains(id, ".") {
		return ErrSignature
	}
	for _, s := range secrets {
		if s.IsZero() {
			continue
		}
		var room [encodedLen]byte
		// The timestamp is signed as it was sent, so that no other spelling
		// of the same number passes.
		want := s.key().appendSignature(room[:0], id, timestamp, body)
		for candidate := range strings.SplitSeq(signatures, " ") {
			signature, ok := strings.CutPrefix(candidate, version)
			if ok && equal(want, signature) {
				return nil
			}
		}
	}
	return ErrSignature
}

// parseTimestamp reads Unix seconds. Twelve digits last some thirty thousand
// years and keep the arithmetic on them far from any overflow.
func parseTimestamp(s string) (time.Time, bool) {
	if len(s) > 12 {
		return time.Time{}, false
	}
	seconds, err := strconv.ParseUint(s, 10, 64)
	return time.Unix(int64(seconds), 0), err == nil
}

// equal compares in a time that depends on the lengths only, which are public.
func equal(want []byte, got string) bool {
	var room [encodedLen]byte
	if len(got) != len(room) {
		return false
	}
	return subtle.ConstantTimeCompare(want, append(room[:0], got...)) == 1
}
