package distributed

import (
	"errors"
	"net/url"
	"strings"

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
	return config, nil
}
