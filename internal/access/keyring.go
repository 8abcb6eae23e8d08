package access

import (
	"sync/atomic"
	"time"

	"tandem/webhook"
)

// Keyring is all keys at one moment. Set replaces them; everything else may be
// called at once with it. The zero Keyring has none.
type Keyring struct{ current atomic.Pointer[keys] }

type keys struct {
	byTokenID map[string]*Key
	byName    map[string]*Key
}

// Set replaces all keys.
func (r *Keyring) Set(all []Key) {
	k := &keys{byTokenID: make(map[string]*Key, len(all)), byName: make(map[string]*Key, len(all))}
	for i := range all {
		k.byTokenID[all[i].TokenID] = &all[i]
		k.byName[all[i].Name] = &all[i]
	}
	r.current.Store(k)
}

// Empty reports whether there is no key at all.
func (r *Keyring) Empty() bool {
	k := r.current.Load()
	return k == nil || len(k.byName) == 0
}

// nobody takes the place of a key that does not exist, so that looking for one
// takes as long.
var nobody = &Key{RevokedAt: time.Unix(1, 0)}

// Open returns the key that a token is of. ok is false if it is of none, or of
// one that was revoked. The key must not be changed.
func (r *Keyring) Open(token string) (key *Key, ok bool) {
	key = nobody
	if k := r.current.Load(); k != nil {
		if found := k.byTokenID[tokenID(token)]; found != nil {
			key = found
		}
	}
	return key, key.opens(token)
}

// Secrets are what the callbacks of an owner are signed with at a time, the
// newest first. Those of a revoked key stay: what it asked for is still owed.
func (r *Keyring) Secrets(owner string, now time.Time) []webhook.Secret {
	k := r.current.Load()
	if k == nil || k.byName[owner] == nil {
		return nil
	}
	var current []webhook.Secret
	for _, s := range k.byName[owner].Secrets {
		if s.ExpiresAt.IsZero() || now.Before(s.ExpiresAt) {
			current = append(current, s.Secret)
		}
	}
	return current
}
