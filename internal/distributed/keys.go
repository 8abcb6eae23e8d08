package distributed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"tandem/internal/access"
	"tandem/internal/store"
	"tandem/webhook"
)

// OpenKeys opens the database at the URL for its keys, and brings its schema up
// to date. Running processes may have it open.
func OpenKeys(ctx context.Context, database string) (*store.KeyStore, error) {
	pool, err := connect(ctx, database)
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, pool, slog.New(slog.DiscardHandler)); err != nil {
		pool.Close()
		return nil, fmt.Errorf("prepare the database %s: %w", Hide(database), err)
	}
	return keysIn(pool, pool.Close), nil
}

// keysIn returns the keys in a database, which is closed as given.
func keysIn(pool *pgxpool.Pool, close func()) *store.KeyStore {
	db := stdlib.OpenDBFromPool(pool)
	return store.NewKeyStore(db, func() error {
		defer close()
		return db.Close() // leaves the pool alone
	})
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

// LoadKeys sets the keyring to the keys in the database.
func (b *Backend) LoadKeys(ctx context.Context, ring *access.Keyring) error {
	keys := keysIn(b.pool, func() {})
	return errors.Join(keys.Load(ctx, ring), keys.Close())
}

// WatchKeys sets the keyring anew whenever the keys in the database change,
// until ctx ends. While they cannot be read, those known so far stay.
func (b *Backend) WatchKeys(ctx context.Context, ring *access.Keyring) {
	keys := keysIn(b.pool, func() {})
	defer keys.Close() // of a pool that stays open: there is nothing that could fail
	keys.Watch(ctx, ring, b.log)
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
