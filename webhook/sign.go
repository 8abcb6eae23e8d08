package webhook

import (
	"net/http"
	"strconv"
	"time"
)

// The headers of Standard Webhooks, in the form [http.Header] keeps them.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
)

// version marks a symmetric signature (HMAC-SHA256); v1a, the asymmetric one,
// is not ours.
const version = "v1,"

// Sign sets the three webhook headers on h for a message that is sent at the
// given time: webhook-id, webhook-timestamp in Unix seconds, and
// webhook-signature with one v1 signature for each secret, parted by spaces.
// While a secret is rotated, give the new and the old one, and receivers that
// know either accept the message. Without a secret no signature is set, and no
// receiver accepts the message.
//
// The body is signed byte by byte: send exactly these bytes. The id is the
// same on every attempt at one message and holds no full stop, the character
// that parts the signed fields; Verify refuses one that does.
func Sign(h http.Header, id string, at time.Time, body []byte, secrets ...Secret) {
	timestamp := strconv.FormatInt(at.Unix(), 10)

	// Room for two signatures, as in a rotation, without the heap.
	var room [2 * (len(version) + encodedLen + 1)]byte
	signatures := room[:0]
	for _, s := range secrets {
		if s.IsZero() {
			continue
		}
		if len(signatures) > 0 {
			signatures = append(signatures, ' ')
		}
		signatures = append(signatures, version...)
		signatures = s.key().appendSignature(signatures, id, timestamp, body)
	}

	// One array stands behind all three values; each is cut to its capacity,
	// so that a later Add copies instead of writing over its neighbour.
	values := &[3]string{id, timestamp, string(signatures)}
	h[HeaderID] = values[0:1:1]
	h[HeaderTimestamp] = values[1:2:2]
	if len(signatures) > 0 {
		h[HeaderSignature] = values[2:3:3]
	} else {
		delete(h, HeaderSignature)
	}
}
