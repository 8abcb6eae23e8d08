package server

import (
	"context"
	"fmt"

	"tandem/internal/embedded"
)

// Backup copies a database, which a running service may have open, to a file
// of its own: all that was committed when it began, and nothing after. There
// must be no file of that name; it appears whole and checked, or not at all. It
// holds the keys and secrets of the service, and only its owner may read it.
func Backup(ctx context.Context, database, path string) (bytes int64, err error) {
	if err := fileOnly(database, "pg_dump"); err != nil {
		return 0, err
	}
	return embedded.Backup(ctx, database, path)
}

// Restore puts a copy that Backup made in the place of a database, once it has
// checked it; no service may have that open. If there is a database already, it
// is an error unless replace is set: then that one is kept beside it, under the
// name that is returned.
func Restore(ctx context.Context, path, database string, replace bool) (kept string, err error) {
	if err := fileOnly(database, "pg_restore"); err != nil {
		return "", err
	}
	return embedded.Restore(ctx, path, database, replace)
}

// Examination is what Examine found out about a database.
type Examination = embedded.Examination

// Finding is something that is wrong with a database.
type Finding = embedded.Finding

// Examine checks a database: the file itself, the counters against the
// requests, and the requests for what would never move again. It changes
// nothing, and a running service may have the file open. With repair it puts
// right what can be, and no service may.
func Examine(ctx context.Context, database string, repair bool) (*Examination, error) {
	if err := fileOnly(database, "amcheck"); err != nil {
		return nil, err
	}
	return embedded.Examine(ctx, database, repair)
}

// fileOnly refuses a Postgres, which is looked after with its own tools.
func fileOnly(database, tool string) error {
	if IsPostgres(database) {
		return fmt.Errorf("this is for SQLite files; for a Postgres use its own tools, such as %s", tool)
	}
	return nil
}
