package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"

	"tandem/webhook"
)

const secretSetting = "callback_secret"

// Secret returns the callback secret that is kept in the database, and makes
// one if there is none yet.
func (b *Backend) Secret(ctx context.Context) (webhook.Secret, error) {
	fresh := webhook.NewSecret().Reveal()
	err := b.do(ctx, func(t *transaction) error {
		_, err := t.addSetting.Exec(secretSetting, fresh)
		return err
	})
	if err != nil {
		return webhook.Secret{}, fmt.Errorf("keep the callback secret: %w", err)
	}
	return readSecret(ctx, b.read)
}

// ReadSecret returns the callback secret kept in the database at path, which a
// running service may have open.
func ReadSecret(ctx context.Context, path string) (webhook.Secret, error) {
	if _, err := os.Stat(path); err != nil {
		return webhook.Secret{}, fmt.Errorf("no database to read the secret from: %w", err)
	}
	db, err := openSQL(path, 1, "query_only(1)")
	if err != nil {
		return webhook.Secret{}, err
	}
	defer db.Close()
	return readSecret(ctx, db)
}

func readSecret(ctx context.Context, db *sql.DB) (webhook.Secret, error) {
	var text string
	err := db.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = ?`, secretSetting).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return webhook.Secret{}, errors.New("the database keeps no callback secret yet; it does once the service has started on it without --callback-secret")
	}
	if err != nil {
		return webhook.Secret{}, fmt.Errorf("read the callback secret: %w", err)
	}
	return webhook.ParseSecret(text)
}
