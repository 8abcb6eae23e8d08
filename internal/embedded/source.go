package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// Source is a database that is read from its beginning to its end, to be moved
// elsewhere. No service can open the file meanwhile.
type Source struct{ b *Backend }

// OpenSource opens the database at path as a service that starts on it does:
// requests that were being worked when their process died are pending again, or
// failed. It returns an error if a service has the file open.
func OpenSource(ctx context.Context, path string, log *slog.Logger) (*Source, error) {
	path, err := existingFile(path)
	if err != nil {
		return nil, err
	}
	db, err := openPlain(path, 1, "query_only(1)")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(readable(ctx, db), db.Close()); err != nil {
		return nil, explain(path, err)
	}
	b, err := Open(ctx, path, Options{Logger: log})
	if err != nil {
		return nil, err
	}
	return &Source{b}, nil
}

// Close closes the file.
func (s *Source) Close() error { return s.b.Close() }

// ID names the database: a copy of it elsewhere knows by it where it is from. It
// is made when it is first asked for.
func (s *Source) ID(ctx context.Context) (id string, err error) {
	const name = "transfer_id"
	err = s.b.do(ctx, func(t *transaction) error {
		_, err := t.addSetting.Exec(name, strings.ToLower(rand.Text()))
		return err
	})
	if err == nil {
		err = s.b.read.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = ?`, name).Scan(&id)
	}
	if err != nil {
		return "", fmt.Errorf("name the database %s: %w", s.b.path, err)
	}
	return id, nil
}

// Count returns how many rows a table has.
func (s *Source) Count(ctx context.Context, table string) (n int64, err error) {
	if err := s.b.read.QueryRowContext(ctx, `SELECT count(*) FROM `+table).Scan(&n); err != nil {
		return 0, fmt.Errorf("count %s: %w", table, explain(s.b.path, err))
	}
	return n, nil
}

// Read calls row with the values of columns of each row of a table, in the order
// of its key: of at most limit rows, those after the one with the given key; of
// all, if that is nil.
func (s *Source) Read(ctx context.Context, table string, columns, key []string, after []any, limit int, row func(values []any) error) error {
	by := strings.Join(key, ", ")
	text := `SELECT ` + strings.Join(columns, ", ") + ` FROM ` + table
	if after != nil {
		text += ` WHERE (` + by + `) > (?` + strings.Repeat(", ?", len(key)-1) + `)`
	}
	fail := func(err error) error { return fmt.Errorf("read %s: %w", table, explain(s.b.path, err)) }
	rows, err := s.b.read.QueryContext(ctx, text+` ORDER BY `+by+` LIMIT ?`, append(after[:len(after):len(after)], limit)...)
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	for rows.Next() {
		values := make([]any, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return fail(err)
		}
		if err := row(values); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return nil
}

// CountUpTo returns how many rows a table has up to the one with the given key.
func (s *Source) CountUpTo(ctx context.Context, table string, key []string, last []any) (n int64, err error) {
	text := `SELECT count(*) FROM ` + table + ` WHERE (` + strings.Join(key, ", ") + `) <= (?` + strings.Repeat(", ?", len(key)-1) + `)`
	if err := s.b.read.QueryRowContext(ctx, text, last...).Scan(&n); err != nil {
		return 0, fmt.Errorf("count %s: %w", table, explain(s.b.path, err))
	}
	return n, nil
}
