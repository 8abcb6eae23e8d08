package distributed

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

//go:embed schema/*.sql
var schema embed.FS

// readerVersion is compared with what the database asks of its readers.
const readerVersion = 1

// migrationLock is the advisory lock that lets one process at a time change the
// schema.
const migrationLock = 0x74616e64656d // "tandem"

// Migrate brings the schema of the database at the URL up to date: ours, and
// River's. Processes that use it meanwhile go on.
func Migrate(ctx context.Context, database string, log *slog.Logger) error {
	pool, err := connect(ctx, database)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := migrate(ctx, pool, log); err != nil {
		return fmt.Errorf("prepare the database %s: %w", Hide(database), err)
	}
	return nil
}

// migrate brings the schema up to date, or says that it is too new. The lock is
// held by a transaction, not by a session: behind PgBouncer there is no session.
func migrate(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) (err error) {
	lock, err := pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Rollback(context.WithoutCancel(ctx))) }()
	if _, err := lock.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(migrationLock)); err != nil {
		return fmt.Errorf("wait for other processes to migrate: %w", err)
	}
	if err := readable(ctx, pool); err != nil {
		return err
	}
	files, err := fs.Sub(schema, "schema")
	if err != nil {
		return err
	}
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close() // leaves the pool alone
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithDisableGlobalRegistry(true), goose.WithTableName("tandem_schema_version"))
	if err != nil {
		return err
	}
	if _, err := provider.Up(ctx); err != nil {
		return err
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: quiet(log)})
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fmt.Errorf("the queue's schema: %w", err)
	}
	return nil
}

// readable returns an error if the schema asks for a newer program.
func readable(ctx context.Context, pool *pgxpool.Pool) error {
	var there bool
	if err := pool.QueryRow(ctx, `SELECT to_regclass('schema_meta') IS NOT NULL`).Scan(&there); err != nil || !there {
		return err
	}
	var needs int
	if err := pool.QueryRow(ctx, `SELECT min_reader_version FROM schema_meta`).Scan(&needs); err != nil {
		return err
	}
	if needs > readerVersion {
		return fmt.Errorf("it was written by a newer version of tandem (it asks for reader version %d, this one is %d): use that version or newer", needs, readerVersion)
	}
	return nil
}
