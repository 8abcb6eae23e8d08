package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// SecretPrefix starts the text of every secret.
const SecretPrefix = "whsec_"

// The key sizes that Standard Webhooks allows, in bytes, and that of NewSecret.
const (
	minKey = 24
	maxKey = 64
	newKey = 32
)

// Secret is the key that sender and receiver share. It hides itself: however
// it is printed, logged or encoded it reads "[hidden]", and only Reveal gives
// its text. The zero Secret is no secret: it signs nothing and verifies
// nothing. A Secret may be copied and used by many goroutines at once.
type Secret struct {
	// The key stands behind a func because fmt calls no methods on unexported
	// fields: a struct that holds a Secret in one would otherwise print the
	// bytes, and follows even a pointer to them under a verb that does not fit.
	// Of a func it prints the address.
	key func() *key
}

// NewSecret returns a secret of 32 random bytes.
func NewSecret() Secret {
	raw := make([]byte, newKey)
	rand.Read(raw) // never fails: crypto/rand ends the program instead
	return secretOf(raw)
}

// ParseSecret reads the text that Reveal gives: whsec_ and the key in standard
// base64, with or without its padding. Space around it is ignored, because
// secrets come from files and environments. The key must be 24 to 64 bytes
// long. Errors never quote the text.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), SecretPrefix)
	if !ok {
		return Secret{}, errors.New("webhook secret must start with " + SecretPrefix)
	}
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(encoded, "="))
	if err != nil {
		return Secret{}, errors.New("webhook secret must be standard base64 after " + SecretPrefix)
	}
	if len(raw) < minKey || len(raw) > maxKey {
		return Secret{}, fmt.Errorf("webhook secret must hold %d to %d bytes, it holds %d", minKey, maxKey, len(raw))
	}
	return secretOf(raw), nil
}

func secretOf(raw []byte) Secret {
	k := &key{raw: raw}
	return Secret{func() *key { return k }}
}

// Reveal returns the secret's text, which ParseSecret reads, or "" for the
// zero Secret. It is the one way to see a secret: for storing it and for
// showing it to an operator who asks.
func (s Secret) Reveal() string {
	if s.key == nil {
		return ""
	}
	return SecretPrefix + base64.StdEncoding.EncodeToString(s.key().raw)
}

// IsZero reports whether s is no secret at all.
func (s Secret) IsZero() bool { return s.key == nil }

const hidden = "[hidden]"

func (s Secret) String() string               { return hidden }
func (s Secret) GoString() string             { return hidden }
func (s Secret) Format(f fmt.State, _ rune)   { io.WriteString(f, hidden) }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(hidden) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// key keeps, beside the bytes, MACs that are already keyed with them: keying
// one costs more than signing a short message.
type key struct {
	raw  []byte
	macs sync.Pool // of *mac
}

// mac computes signatures with one key, one at a time. Its buffers live as
// long as it does, so that signing allocates nothing here.
type mac struct {
	hash   hash.Hash
	prefix []byte
	sum    []byte
}

// encodedLen is the length of a signature in base64, without its version.
const encodedLen = (sha256.Size + 2) / 3 * 4

// appendSignature appends to dst the base64 of the HMAC-SHA256 of
// "id.timestamp.body".
func (k *key) appendSignature(dst []byte, id, timestamp string, body []byte) []byte {
	m, ok := k.macs.Get().(*mac)
	if !ok {
		m = &mac{hash: hmac.New(sha256.New, k.raw)}
	}
	defer k.macs.Put(m)

	m.prefix = append(m.prefix[:0], id...)
	m.prefix = append(m.prefix, '.')
	m.prefix = append(m.prefix, timestamp...)
	m.prefix = append(m.prefix, '.')

	m.hash.Reset()
	m.hash.Write(m.prefix)
	m.hash.Write(body)
	m.sum = m.hash.Sum(m.sum[:0])
	return base64.StdEncoding.AppendEncode(dst, m.sum)
}
