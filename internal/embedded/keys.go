package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"tandem"
	"tandem/internal/access"
	"tandem/internal/limit"
	"tandem/internal/store"
	"tandem/webhook"
)

// KeyStore is the API keys in a database file, which a running service may have
// open: that sees a change within a second.
type KeyStore struct{ db *sql.DB }

// OpenKeys opens the file at path for its keys, and makes it if there is none.
func OpenKeys(ctx context.Context, path string) (*KeyStore, error) {
	if path == Memory {
		return nil, errors.New("a service in memory has no keys: give it a file")
	}
	if err := makeFile(path); err != nil {
		return nil, err
	}
	db, err := openSQL(path, 1)
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, db); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the database %s: %w", path, err), db.Close())
	}
	return &KeyStore{db}, nil
}

// Close closes the file.
func (s *KeyStore) Close() error { return s.db.Close() }

// Create keeps a new key with its secrets. A revoked key of the same name is
// replaced, and the new one sees its requests. It returns CodeConflict if there
// is a good one.
func (s *KeyStore) Create(ctx context.Context, k access.Key) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		rate := ""
		if k.Rate != (limit.Rate{}) {
			rate = k.Rate.String()
		}
		result, err := tx.Exec(`
			INSERT INTO api_keys (name, token_id, token_hash, admin, rate, created_at) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET token_id = excluded.token_id, token_hash = excluded.token_hash,
				admin = excluded.admin, rate = excluded.rate, created_at = excluded.created_at, revoked_at = NULL
			WHERE revoked_at IS NOT NULL`,
			k.Name, k.TokenID, k.Hash[:], k.Admin, rate, micros(k.CreatedAt))
		if err := oneRow(result, err, "there is a key of this name; revoke it first, or choose another name"); err != nil {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM callback_secrets WHERE owner = ?`, k.Name); err != nil {
			return err
		}
		for _, secret := range k.Secrets {
			if err := addSecret(tx, k.Name, secret); err != nil {
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
		result, err := tx.Exec(`UPDATE api_keys SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL`, micros(now), name)
		return oneRow(result, err, errNoKey)
	})
}

// Rotate adds a callback secret to a key. Those before it are used as well
// until the overlap is over. It returns CodeConflict if there is no good key of
// the name.
func (s *KeyStore) Rotate(ctx context.Context, name string, secret access.Secret, overlap time.Duration) error {
	return s.change(ctx, func(tx *sql.Tx) error {
		result, err := tx.Exec(`UPDATE api_keys SET name = name WHERE name = ? AND revoked_at IS NULL`, name)
		if err := oneRow(result, err, errNoKey); err != nil {
			return err
		}
		now := secret.CreatedAt
		if _, err := tx.Exec(`DELETE FROM callback_secrets WHERE owner = ? AND expires_at <= ?`, name, micros(now)); err != nil {
			return err
		}
		_, err = tx.Exec(`
			UPDATE callback_secrets SET expires_at = min(coalesce(expires_at, ?1), ?1) WHERE owner = ?2`,
			micros(now.Add(overlap)), name)
		if err != nil {
			return err
		}
		return addSecret(tx, name, secret)
	})
}

const errNoKey = "there is no key of this name that is not revoked"

func addSecret(tx *sql.Tx, owner string, s access.Secret) error {
	_, err := tx.Exec(`INSERT INTO callback_secrets (owner, secret, created_at, expires_at) VALUES (?, ?, ?, ?)`,
		owner, s.Secret.Reveal(), micros(s.CreatedAt), micros(s.ExpiresAt))
	return err
}

func oneRow(result sql.Result, err error, otherwise string) error {
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return &tandem.Error{Code: tandem.CodeConflict, Message: otherwise}
}

// change makes a change in one transaction, and notes for the service that
// there was one.
func (s *KeyStore) change(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("change keys: %w", err)
	}
	defer tx.Rollback() // does nothing after the commit
	// The first statement writes, so that the transaction waits for the
	// service's here and not after it has read.
	_, err = tx.Exec(`
		INSERT INTO settings (name, value) VALUES ('keys_version', '1')
		ON CONFLICT DO UPDATE SET value = value + 1`)
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
func (s *KeyStore) List(ctx context.Context) ([]access.Key, error) { return readKeys(ctx, s.db) }

func readKeys(ctx context.Context, db *sql.DB) ([]access.Key, error) {
	fail := func(err error) ([]access.Key, error) { return nil, fmt.Errorf("read keys: %w", err) }
	secrets, err := readSecrets(ctx, db)
	if err != nil {
		return fail(err)
	}
	rows, err := db.QueryContext(ctx, `SELECT name, token_id, token_hash, admin, rate, created_at, revoked_at FROM api_keys ORDER BY name`)
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	var all []access.Key
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

// readSecrets returns the callback secrets of each owner, the newest first.
func readSecrets(ctx context.Context, db *sql.DB) (map[string][]access.Secret, error) {
	rows, err := db.QueryContext(ctx, `SELECT owner, secret, created_at, expires_at FROM callback_secrets ORDER BY owner, created_at DESC`)
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

// keysAgain is how often the service looks whether keys were changed.
const keysAgain = 300 * time.Millisecond

// LoadKeys sets the keyring to the keys in the file.
func (b *Backend) LoadKeys(ctx context.Context, ring *access.Keyring) error {
	_, err := b.loadKeys(ctx, ring, -1)
	return err
}

// WatchKeys sets the keyring anew whenever the keys in the file change, until
// ctx ends. While they cannot be read, those known so far stay.
func (b *Backend) WatchKeys(ctx context.Context, ring *access.Keyring) {
	for version := -1; ; {
		next, err := b.loadKeys(ctx, ring, version)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			b.log.Error("reading the API keys failed; those known so far stay", "error", err)
		} else {
			version = next
		}
		store.Pause(ctx, keysAgain)
	}
}

// loadKeys sets the keyring if the keys are of another version than the given
// one.
func (b *Backend) loadKeys(ctx context.Context, ring *access.Keyring, known int) (version int, err error) {
	err = b.read.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = 'keys_version'`).Scan(&version)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return known, fmt.Errorf("read keys: %w", err)
	}
	if version == known {
		return known, nil
	}
	all, err := readKeys(ctx, b.read)
	if err != nil {
		return known, err
	}
	ring.Set(all)
	return version, nil
}
