package server

import (
	"context"
	"time"

	"tandem"
	"tandem/internal/access"
	"tandem/internal/store"
	"tandem/webhook"
)

// Keys changes the API keys of a service, which may be running: it sees a
// change within a second.
type Keys struct{ store *store.KeyStore }

// OpenKeys opens the keys in a database. A file is made if there is none.
func OpenKeys(ctx context.Context, database string) (*Keys, error) {
	kept, err := openKeys(ctx, database)
	if err != nil {
		return nil, err
	}
	return &Keys{kept}, nil
}

// Close closes the database.
func (k *Keys) Close() error { return k.store.Close() }

// Key is an API key, without its secrets.
type Key struct {
	Name      string
	Admin     bool // sees and acts on the requests of all
	Rate      Rate // zero: the service's
	CreatedAt time.Time
	RevokedAt time.Time // zero: it is good

	// CallbackSecrets is how many sign its callbacks: two while one is rotated.
	CallbackSecrets int
}

// NewKey is what Create makes. The token is nowhere kept: who loses it needs
// another key.
type NewKey struct {
	Token          string // to be sent as Authorization: Bearer
	CallbackSecret webhook.Secret
}

// Create makes a key. A revoked one of the same name is replaced: the new one
// sees its requests. It returns CodeInvalid for what cannot be a name, and
// CodeConflict if there is a good key of it.
func (k *Keys) Create(ctx context.Context, name string, admin bool, rate Rate) (NewKey, error) {
	if err := access.CheckName(name); err != nil {
		return NewKey{}, tandem.Invalid("name", "%s", err)
	}
	made := NewKey{CallbackSecret: webhook.NewSecret()}
	now := time.Now()
	key := access.Key{Name: name, Admin: admin, Rate: rate, CreatedAt: now, Secrets: []access.Secret{{Secret: made.CallbackSecret, CreatedAt: now}}}
	made.Token, key.TokenID = access.NewToken()
	key.Hash = access.HashToken(made.Token)
	return made, k.store.Create(ctx, key)
}

// Revoke ends a key. What it asked for is still worked and called back. It
// returns CodeConflict if there is no good key of the name.
func (k *Keys) Revoke(ctx context.Context, name string) error {
	return k.store.Revoke(ctx, name, time.Now())
}

// Rotate gives a key another callback secret. Until the overlap is over,
// callbacks are signed with those before it as well. It returns CodeConflict if
// there is no good key of the name, and CodeInvalid for an overlap below zero.
func (k *Keys) Rotate(ctx context.Context, name string, overlap time.Duration) (webhook.Secret, error) {
	if overlap < 0 {
		return webhook.Secret{}, tandem.Invalid("overlap", "must not be negative, is %v", overlap)
	}
	secret := webhook.NewSecret()
	return secret, k.store.Rotate(ctx, name, access.Secret{Secret: secret, CreatedAt: time.Now()}, overlap)
}

// List returns all keys by name, revoked ones too.
func (k *Keys) List(ctx context.Context) ([]Key, error) {
	kept, err := k.store.List(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	all := make([]Key, len(kept))
	for i, key := range kept {
		all[i] = Key{Name: key.Name, Admin: key.Admin, Rate: key.Rate, CreatedAt: key.CreatedAt, RevokedAt: key.RevokedAt}
		for _, s := range key.Secrets {
			if s.ExpiresAt.IsZero() || now.Before(s.ExpiresAt) {
				all[i].CallbackSecrets++
			}
		}
	}
	return all, nil
}
