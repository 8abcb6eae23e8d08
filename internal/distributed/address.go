package distributed

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// IsURL reports whether a --database names a Postgres rather than a file.
func IsURL(database string) bool {
	return strings.HasPrefix(database, "postgres://") || strings.HasPrefix(database, "postgresql://")
}

// Hide returns the URL as it may be shown: without its password, and without the
// query, which may hold one, too.
func Hide(database string) string {
	u, err := url.Parse(database)
	if err != nil {
		return "postgres://..."
	}
	u.RawQuery, u.Fragment = "", ""
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	return u.String()
}

// parse reads a URL. Its error shows nothing of the URL but what Hide does.
func parse(database string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(database)
	if err != nil {
		return nil, errors.New("not a Postgres URL; it must be such as postgres://user:password@host:5432/database?sslmode=verify-full")
	}
	config.ConnConfig.ConnectTimeout = connectTimeout
	return config, nil
}

// connectTimeout bounds the wait for a Postgres that is away.
const connectTimeout = 3 * time.Second

// openPool connects to the database at the URL that the config was made of.
func openPool(ctx context.Context, database string, config *pgxpool.Config) (*pgxpool.Pool, error) {
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", Hide(database), err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		if isCode(err, "08P01") && strings.Contains(err.Error(), "startup parameter") {
			err = fmt.Errorf("%w: behind PgBouncer in transaction mode, use --database-poll-only; in session mode, let it ignore_startup_parameters", err)
		}
		return nil, fmt.Errorf("connect to the database %s: %w", Hide(database), err)
	}
	return pool, nil
}
