package target

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"tandem/webhook"
)

// What ReadCallback finds wrong.
var (
	ErrForged    = errors.New("the signature is missing or wrong")
	ErrLate      = errors.New("the signature is of another time")
	ErrMalformed = errors.New("not the message that was agreed")
)

// Secret is what callbacks are verified with. It hides itself: the key stands
// behind a func, of which fmt prints an address.
type Secret struct {
	standard webhook.Secret
	plain    func() []byte
}

// StandardSecret is the Secret of callbacks signed by Standard Webhooks.
func StandardSecret(s webhook.Secret) Secret { return Secret{standard: s} }

// ParseSecret reads a secret as the target's scheme writes it.
func (t *Target) ParseSecret(text string) (Secret, error) {
	switch t.Callback.Verify {
	case StandardWebhooks:
		secret, err := webhook.ParseSecret(text)
		return Secret{standard: secret}, err
	case GitHub:
		key := []byte(text)
		return Secret{plain: func() []byte { return key }}, nil
	default:
		return Secret{}, errors.New("the callbacks of this target are not signed")
	}
}

// Verifies reports whether callbacks are signed.
func (t *Target) Verifies() bool { return t.Callback.Verify != None }

// ReadCallback verifies a callback and reads its outcome. The error is
// ErrForged, ErrLate or ErrMalformed. A GitHub signature covers no time, so
// one that is replayed shows only in that it comes again.
func (t *Target) ReadCallback(h http.Header, body []byte, now time.Time, secret Secret) (Outcome, error) {
	if err := t.Callback.verify(h, body, now, secret); err != nil {
		return Outcome{}, err
	}
	outcome, ok := t.Callback.read(body)
	if !ok {
		return Outcome{}, ErrMalformed
	}
	return outcome, nil
}

func (c *Callback) verify(h http.Header, body []byte, now time.Time, secret Secret) error {
	switch c.Verify {
	case None:
		return nil
	case GitHub:
		if secret.plain == nil {
			return ErrForged
		}
		given, _ := strings.CutPrefix(h.Get(c.header()), "sha256=")
		signature, err := hex.DecodeString(given)
		mac := hmac.New(sha256.New, secret.plain())
		mac.Write(body)
		if err != nil || !hmac.Equal(signature, mac.Sum(nil)) {
			return ErrForged
		}
		return nil
	default:
		err := webhook.Verify(h, body, now, secret.standard)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, webhook.ErrTimestamp) && webhook.VerifyWithin(math.MaxInt64, h, body, now, secret.standard) == nil:
			return fmt.Errorf("%w: %w", ErrLate, err) // it was good once
		default:
			return fmt.Errorf("%w: %w", ErrForged, err)
		}
	}
}
