package distributed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"tandem"
	"tandem/internal/access"
	"tandem/internal/limit"
	"tandem/internal/store"
	"tandem/webhook"
)

// KeyStore is the API keys in a database, which running processes may have open:
// they see a change within a second.
type KeyStore struct{ pool *pgxpool.Pool }

// OpenKeys opens the database at the URL for its keys, and brings its schema up
// to date.
func OpenKeys(ctx context.Context, database string) (*KeyStore, error) {
	pool, err := connect(ctx, database)
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, pool, slog.New(slog.DiscardHandler)); err != nil {
		pool.Close()
		return nil, fmt.Errorf("prepare the database %s: %w", Hide(database), err)
	}
	return &KeyStore{pool}, nil
}

// connect opens a few connections for a command, in a way that works behind
// PgBouncer, too.
func connect(ctx context.Context, database string) (*pgxpool.Pool, error) {
	config, err := parse(database)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 4
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	return openPool(ctx, database, config)
}

// Close disconnects.
func (s *KeyStore) Close() error {
	s.pool.Close()
	return nil
}

// Create keeps a new key with its secrets. A revoked key of the same name is
// replaced, and the new one sees its requests. It returns CodeConflict if there
// is a good one.
func (s *KeyStore) Create(ctx context.Context, k access.Key) error {
	return s.change(ctx, func(tx pgx.Tx) error {
		rate := ""
		if k.Rate != (limit.Rate{}) {
			rate = k.Rate.String()
		}
		tag, err := tx.Exec(ctx, `
			INSERT INTO api_keys AS k (name, token_id, token_hash, admin, rate, created_at) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (name) DO UPDATE SET token_id = excluded.token_id, token_hash = excluded.token_hash,
				admin = excluded.admin, rate = excluded.rate, created_at = excluded.created_at, revoked_at = NULL
			WHERE k.revoked_at IS NOT NULL`,
			k.Name, k.TokenID, k.Hash[:], k.Admin, rate, micros(k.CreatedAt))
		if err := oneRow(tag, err, "there is a key of this name; revoke it first, or choose another name"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM callback_secrets WHERE owner = $1`, k.Name); err != nil {
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
	return s.change(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE api_keys SET revoked_at = $1 WHERE name = $2 AND revoked_at IS NULL`, micros(now), name)
		return oneRow(tag, err, errNoKey)
	})
}

// Rotate adds a callback secret to a key. Those before it are used as well
// until the overlap is over. It returns CodeConflict if there is no good key of
// the name.
func (s *KeyStore) Rotate(ctx context.Context, name string, secret access.Secret, overlap time.Duration) error {
	return s.change(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE api_keys SET name = name WHERE name = $1 AND revoked_at IS NULL`, name)
		if err := oneRow(tag, err, errNoKey); err != nil {
			return err
		}
		now := secret.CreatedAt
		if _, err := tx.Exec(ctx, `DELETE FROM callback_secrets WHERE owner = $1 AND expires_at <= $2`, name, micros(now)); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE callback_secrets SET expires_at = least(expires_at, $1) WHERE owner = $2`,
			micros(now.Add(overlap)), name)
		if err != nil {
			return err
		}
		return addSecret(ctx, tx, name, secret)
	})
}

const errNoKey = "there is no key of this name that is not revoked"

func addSecret(ctx context.Context, tx pgx.Tx, owner string, s access.Secret) error {
	_, err := tx.Exec(ctx, `INSERT INTO callback_secrets (owner, secret, created_at, expires_at) VALUES ($1, $2, $3, $4)`,
		owner, s.Secret.Reveal(), micros(s.CreatedAt), micros(s.ExpiresAt))
	return err
}

func oneRow(tag pgconn.CommandTag, err error, otherwise string) error {
	if err != nil || tag.RowsAffected() == 1 {
		return err
	}
	return &tandem.Error{Code: tandem.CodeConflict, Message: otherwise}
}

// change makes a change in one transaction, and notes for the service that
// there was one. The note is its first write, so that changes go one by one.
func (s *KeyStore) change(ctx context.Context, f func(pgx.Tx) error) error {
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("change keys: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // does nothing after the commit
	_, err = tx.Exec(ctx, `
		INSERT INTO settings AS s (name, value) VALUES ('keys_version', '1')
		ON CONFLICT (name) DO UPDATE SET value = (s.value::bigint + 1)::text`)
	if err != nil {
		return fmt.Errorf("change keys: %w", err)
	}
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("change keys: %w", err)
	}
	return nil
}

// List returns all keys by name, revoked ones too.
func (s *KeyStore) List(ctx context.Context) ([]access.Key, error) { return readKeys(ctx, s.pool) }

func readKeys(ctx context.Context, pool *pgxpool.Pool) ([]access.Key, error) {
	fail := func(err error) ([]access.Key, error) { return nil, fmt.Errorf("read keys: %w", err) }
	secrets, err := readSecrets(ctx, pool)
	if err != nil {
		return fail(err)
	}
	rows, err := pool.Query(ctx, `SELECT name, token_id, token_hash, admin, rate, created_at, revoked_at FROM api_keys ORDER BY name`)
	if err != nil {
		return fail(err)
	}
	all, err := pgx.CollectRows(rows, func(from pgx.CollectableRow) (k access.Key, err error) {
		var hash []byte
		var rate string
		var created, revoked *int64
		if err := from.Scan(&k.Name, &k.TokenID, &hash, &k.Admin, &rate, &created, &revoked); err != nil {
			return k, err
		}
		copy(k.Hash[:], hash)
		k.CreatedAt, k.RevokedAt = fromMicros(created), fromMicros(revoked)
		if rate != "" {
			if k.Rate, err = limit.ParseRate(rate); err != nil {
				return k, fmt.Errorf("key %s: %w", k.Name, err)
			}
		}
		k.Secrets = secrets[k.Name]
		return k, nil
	})
	if err != nil {
		return fail(err)
	}
	return all, nil
}

// readSecrets returns the callback secrets of each owner, the newest first.
func readSecrets(ctx context.Context, pool *pgxpool.Pool) (map[string][]access.Secret, error) {
	rows, err := pool.Query(ctx, `SELECT owner, secret, created_at, expires_at FROM callback_secrets ORDER BY owner, created_at DESC`)
	if err != nil {
		return nil, err
	}
	all := make(map[string][]access.Secret)
	var owner, text string
	var created, expires *int64
	_, err = pgx.ForEachRow(rows, []any{&owner, &text, &created, &expires}, func() error {
		secret, err := webhook.ParseSecret(text)
		if err != nil {
			return fmt.Errorf("callback secret of %s: %w", owner, err)
		}
		all[owner] = append(all[owner], access.Secret{Secret: secret, CreatedAt: fromMicros(created), ExpiresAt: fromMicros(expires)})
		return nil
	})
	return all, err
}

// keysAgain is how often the service looks whether keys were changed.
const keysAgain = 300 * time.Millisecond

// LoadKeys sets the keyring to the keys in the database.
func (b *Backend) LoadKeys(ctx context.Context, ring *access.Keyring) error {
	_, err := b.loadKeys(ctx, ring, "")
	return err
}

// WatchKeys sets the keyring anew whenever the keys in the database change,
// until ctx ends. While they cannot be read, those known so far stay.
func (b *Backend) WatchKeys(ctx context.Context, ring *access.Keyring) {
	for version := ""; ; {
		next, err := b.loadKeys(ctx, ring, version)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			b.log.Error("reading the API keys failed; those known so far stay", "error", err)
			store.Pause(ctx, time.Second)
		} else {
			version = next
		}
		store.Pause(ctx, keysAgain)
	}
}

// loadKeys sets the keyring if the keys are of another version than the given
// one.
func (b *Backend) loadKeys(ctx context.Context, ring *access.Keyring, known string) (version string, err error) {
	version, err = setting(ctx, b.pool, "keys_version")
	if err != nil {
		return known, fmt.Errorf("read keys: %w", err)
	}
	if version == "" {
		version = "0" // there was no change yet
	}
	if version == known {
		return known, nil
	}
	all, err := readKeys(ctx, b.pool)
	if err != nil {
		return known, err
	}
	ring.Set(all)
	return version, nil
}

// setting reads what the service keeps about itself, "" if it does not.
func setting(ctx context.Context, pool *pgxpool.Pool, name string) (value string, err error) {
	err = pool.QueryRow(ctx, `SELECT value FROM settings WHERE name = $1`, name).Scan(&value)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return value, err
}

const secretSetting = "callback_secret"

// Secret returns the callback secret that is kept in the database, and makes
// one if there is none yet.
func (b *Backend) Secret(ctx context.Context) (webhook.Secret, error) {
	_, err := b.pool.Exec(ctx, `INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING`,
		secretSetting, webhook.NewSecret().Reveal())
	if err != nil {
		return webhook.Secret{}, fmt.Errorf("keep the callback secret: %w", err)
	}
	return readSecret(ctx, b.pool)
}

// ReadSecret returns the callback secret kept in the database at the URL, which
// running processes may have open.
func ReadSecret(ctx context.Context, database string) (webhook.Secret, error) {
	pool, err := connect(ctx, database)
	if err != nil {
		return webhook.Secret{}, err
	}
	defer pool.Close()
	return readSecret(ctx, pool)
}

func readSecret(ctx context.Context, pool *pgxpool.Pool) (webhook.Secret, error) {
	text, err := setting(ctx, pool, secretSetting)
	if isCode(err, "42P01") { // no such table
		text, err = "", nil
	}
	if err != nil {
		return webhook.Secret{}, fmt.Errorf("read the callback secret: %w", err)
	}
	if text == "" {
		return webhook.Secret{}, errors.New("the database keeps no callback secret yet; it does once the service has started on it without --callback-secret")
	}
	return webhook.ParseSecret(text)
}
