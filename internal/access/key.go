package access

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"regexp"
	"strings"
	"time"

	"tandem/internal/limit"
	"tandem/webhook"
)

// Key is one API key as it is kept. The token itself is not: only its hash.
type Key struct {
	Name    string // whose requests they are: the owner
	Admin   bool   // sees and acts on the requests of all
	Rate    limit.Rate
	TokenID string   // the part of the token that is no secret
	Hash    [32]byte // SHA-256 of the token
	Secrets []Secret // callbacks are signed with all that are current, the newest first

	CreatedAt time.Time
	RevokedAt time.Time // zero: it is good
}

// Secret is a callback secret of one key.
type Secret struct {
	Secret    webhook.Secret
	CreatedAt time.Time
	ExpiresAt time.Time // zero: it does not
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

var errName = errors.New("must be 1 to 64 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit")

// CheckName says what is wrong with a name that no key can have.
func CheckName(name string) error {
	if !nameForm.MatchString(name) {
		return errName
	}
	return nil
}

// tokenPrefix begins every token, so that scanners for leaked secrets know it.
const tokenPrefix = "tandem_"

const tokenIDLength = 12

// NewToken makes a token: the prefix, an id that says whose it is, and a secret
// of 130 bits.
func NewToken() (token, id string) {
	id = strings.ToLower(rand.Text())[:tokenIDLength]
	return tokenPrefix + id + "_" + rand.Text(), id
}

// HashToken is what is kept of a token. It needs no salt and no work factor:
// its secret is random, not chosen.
func HashToken(token string) [32]byte { return sha256.Sum256([]byte(token)) }

// tokenID returns the id in a token, or "" if it is none.
func tokenID(token string) string {
	rest, ok := strings.CutPrefix(token, tokenPrefix)
	if !ok || len(rest) > 64 || len(rest) <= tokenIDLength || rest[tokenIDLength] != '_' {
		return ""
	}
	return rest[:tokenIDLength]
}

// opens reports whether the token is the key's, in a time that does not depend
// on how much of it is right.
func (k *Key) opens(token string) bool {
	given := HashToken(token)
	return subtle.ConstantTimeCompare(given[:], k.Hash[:]) == 1 && k.RevokedAt.IsZero()
}
