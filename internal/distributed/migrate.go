package distributed

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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

// migrate brings the schema up to date, or says that it is too new.
func migrate(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) error {
	files, err := fs.Sub(schema, "schema")
	if err != nil {
		return err
	}
	return migrateTo(ctx, pool, log, files)
}

// migrateTo is migrate to the schema that the files make, one after the other.
//
// A process of the version before goes on beside it. So every file after the
// first only adds, and nothing that the process before would have to know of: a
// column has a default, and no column is renamed or given another meaning. It
// begins with SET LOCAL lock_timeout, because those who come after one who waits
// for a table wait, too; what waits for longer than that is tried again. An
// index on a table of any size is made CONCURRENTLY, in a file of its own that
// says NO TRANSACTION. A change that a process of the version before cannot bear
// raises min_reader_version, and is made only once none of those is left.
func migrateTo(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger, files fs.FS) (err error) {
	lock, err := lockSchema(ctx, pool)
	if err != nil {
		return fmt.Errorf("wait for other processes to migrate: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Rollback(context.WithoutCancel(ctx))) }()
	if err := readable(ctx, pool); err != nil {
		return err
	}
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close() // leaves the pool alone
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithDisableGlobalRegistry(true), goose.WithTableName("tandem_schema_version"))
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		_, err := provider.Up(ctx)
		if err == nil {
			break
		}
		if !isCode(err, lockNotAvailable) || try == migrationTries {
			return err
		}
		log.Warn("a migration waits for a table that is in use", "error", err)
		pause(ctx, migrateAgain)
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

const (
	// migrateAgain is how long a migration waits that could not have its table,
	// or a process whose turn it is not to migrate.
	migrateAgain   = 100 * time.Millisecond
	migrationTries = 100

	lockNotAvailable = "55P03" // an error of Postgres
)

// isCode reports whether an error is Postgres's of that code.
func isCode(err error, code string) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	return ok && refused.Code == code
}

// lockSchema lets one process at a time change the schema, until the transaction
// that it returns ends. Behind PgBouncer there is no session that could hold the
// lock, and who waits for it in Postgres holds a connection that the one who has
// it may be in need of: so it is asked for until it is free.
func lockSchema(ctx context.Context, pool *pgxpool.Pool) (pgx.Tx, error) {
	for {
		tx, err := pool.Begin(ctx)
		if err != nil {
			return nil, err
		}
		var ours bool
		err = tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, int64(migrationLock)).Scan(&ours)
		if err == nil && ours {
			return tx, nil
		}
		if err := errors.Join(err, tx.Rollback(context.WithoutCancel(ctx))); err != nil {
			return nil, err
		}
		if pause(ctx, migrateAgain); ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
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
