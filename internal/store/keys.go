package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"tandem"
	"tandem/internal/access"
	"tandem/internal/limit"
	"tandem/webhook"
)

// KeyStore is the API keys in a database, which running services may have open:
// they see a change within a second. SQLite and Postgres understand its statements
// alike.
type KeyStore struct {
	db    *sql.DB
	close func() error
}

// NewKeyStore returns the keys in a database that has the schema, and is closed as
// given.
func NewKeyStore(db *sql.DB, close func() error) *KeyStore { return &KeyStore{db, close} }

// Close closes the database.
func (s *KeyStore) Close() error { return s.close() }

// Create keeps a new key with its secrets. A revoked key of the same name is
// replaced, and the new one sees its requests. It returns CodeConflict if there
// is a good one.
func (s *KeyStore) Create(ctx context.Context, k access.Key) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		rate := ""
		if k.Rate != (limit.Rate{}) {
			rate = k.Rate.String()
		}
		result, err := tx.ExecContext(ctx, `
			INSERT INTO api_keys (name, token_id, token_hash, admin, rate, created_at) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (name) DO UPDATE SET token_id = excluded.token_id, token_hash = excluded.token_hash,
				admin = excluded.admin, rate = excluded.rate, created_at = excluded.created_at, revoked_at = NULL
			WHERE api_keys.revoked_at IS NOT NULL`,
			k.Name, k.TokenID, k.Hash[:], k.Admin, rate, micros(k.CreatedAt))
		if err := oneKey(result, err, "there is a key of this name; revoke it first, or choose another name"); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM callback_secrets WHERE owner = $1`, k.Name); err != nil {
			return err
		}
		for _, secret := range k.Secrets {
			if err := addSecret(ctx, tx, k.Name, secret); err != nil {
				return err
			}
		}
		return nil
	})
}

// Revoke ends a key. Its requests stay, and the callbacks that they owe are
// still delivered. It returns CodeConflict if there is no good key of the name.
func (s *KeyStore) Revoke(ctx context.Context, name string, now time.Time) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `UPDATE api_keys SET revoked_at = $1 WHERE name = $2 AND revoked_at IS NULL`, micros(now), name)
		return oneKey(result, err, errNoKey)
	})
}

// Rotate adds a callback secret to a key. Those before it are used as well
// until the overlap is over. It returns CodeConflict if there is no good key of
// the name.
func (s *KeyStore) Rotate(ctx context.Context, name string, secret access.Secret, overlap time.Duration) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `UPDATE api_keys SET name = name WHERE name = $1 AND revoked_at IS NULL`, name)
		if err := oneKey(result, err, errNoKey); err != nil {
			return err
		}
		now := secret.CreatedAt
		if _, err := tx.ExecContext(ctx, `DELETE FROM callback_secrets WHERE owner = $1 AND expires_at <= $2`, name, micros(now)); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `
			UPDATE callback_secrets SET expires_at = CASE WHEN expires_at < $1 THEN expires_at ELSE $1 END WHERE owner = $2`,
			micros(now.Add(overlap)), name)
		if err != nil {
			return err
		}
		return addSecret(ctx, tx, name, secret)
	})
}

const errNoKey = "there is no key of this name that is not revoked"

func addSecret(ctx context.Context, tx *sql.Tx, owner string, s access.Secret) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO callback_secrets (owner, secret, created_at, expires_at) VALUES ($1, $2, $3, $4)`,
		owner, s.Secret.Reveal(), micros(s.CreatedAt), micros(s.ExpiresAt))
	return err
}

func oneKey(result sql.Result, err error, otherwise string) error {
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return &tandem.Error{Code: tandem.CodeConflict, Message: otherwise}
}

// change makes a change in one transaction, and notes for the service that there
// was one. The note is its first statement, so that changes go one by one, and wait
// for a service that has the file before they have read anything.
func (s *KeyStore) change(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("change keys: %w", err)
	}
	defer tx.Rollback() // does nothing after the commit
	_, err = tx.ExecContext(ctx, `
		INSERT INTO settings (name, value) VALUES ('keys_version', '1')
		ON CONFLICT (name) DO UPDATE SET value = CAST(CAST(settings.value AS bigint) + 1 AS text)`)
	if err != nil {
		return fmt.Errorf("change keys: %w", err)
	}
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("change keys: %w", err)
	}
	return nil
}

// List returns all keys by name, revoked ones too.
func (s *KeyStore) List(ctx context.Context) (all []access.Key, err error) {
	fail := func(err error) ([]access.Key, error) { return nil, fmt.Errorf("read keys: %w", err) }
	secrets, err := s.secrets(ctx)
	if err != nil {
		return fail(err)
	}
	rows, err := s.db.QueryContext(ctx, `SELECT name, token_id, token_hash, admin, rate, created_at, revoked_at FROM api_keys ORDER BY name`)
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	for rows.Next() {
		var k access.Key
		var hash []byte
		var rate string
		var created, revoked sql.NullInt64
		if err := rows.Scan(&k.Name, &k.TokenID, &hash, &k.Admin, &rate, &created, &revoked); err != nil {
			return fail(err)
		}
		copy(k.Hash[:], hash)
		k.CreatedAt, k.RevokedAt = fromMicros(created), fromMicros(revoked)
		if rate != "" {
			if k.Rate, err = limit.ParseRate(rate); err != nil {
				return fail(fmt.Errorf("key %s: %w", k.Name, err))
			}
		}
		k.Secrets = secrets[k.Name]
		all = append(all, k)
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return all, nil
}

// secrets returns the callback secrets of each owner, the newest first.
func (s *KeyStore) secrets(ctx context.Context) (map[string][]access.Secret, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT owner, secret, created_at, expires_at FROM callback_secrets ORDER BY owner, created_at DESC`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := make(map[string][]access.Secret)
	for rows.Next() {
		var owner, text string
		var created, expires sql.NullInt64
		if err := rows.Scan(&owner, &text, &created, &expires); err != nil {
			return nil, err
		}
		secret, err := webhook.ParseSecret(text)
		if err != nil {
			return nil, fmt.Errorf("callback secret of %s: %w", owner, err)
		}
		all[owner] = append(all[owner], access.Secret{Secret: secret, CreatedAt: fromMicros(created), ExpiresAt: fromMicros(expires)})
	}
	return all, rows.Err()
}

// keysAgain is how often a service looks whether keys were changed.
const keysAgain = 300 * time.Millisecond

// Load sets the keyring to the keys that are kept.
func (s *KeyStore) Load(ctx context.Context, ring *access.Keyring) error {
	_, err := s.load(ctx, ring, "")
	return err
}

// Watch sets the keyring anew whenever the keys change, until ctx ends. While they
// cannot be read, those known so far stay.
func (s *KeyStore) Watch(ctx context.Context, ring *access.Keyring, log *slog.Logger) {
	for version := ""; ; {
		next, err := s.load(ctx, ring, version)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			log.Error("reading the API keys failed; those known so far stay", "error", err)
			Pause(ctx, time.Second)
		} else {
			version = next
		}
		Pause(ctx, keysAgain)
	}
}

// load sets the keyring if the keys are of another version than the given one.
func (s *KeyStore) load(ctx context.Context, ring *access.Keyring, known string) (version string, err error) {
	err = s.db.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = 'keys_version'`).Scan(&version)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		version = "0" // there was no change yet
	case err != nil:
		return known, fmt.Errorf("read keys: %w", err)
	}
	if version == known {
		return known, nil
	}
	all, err := s.List(ctx)
	if err != nil {
		return known, err
	}
	ring.Set(all)
	return version, nil
}

func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

func fromMicros(n sql.NullInt64) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return time.UnixMicro(n.Int64).UTC()
}
