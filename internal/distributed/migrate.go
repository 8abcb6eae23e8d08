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

	"tandem/internal/store"
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
// A process of the version before goes on beside it. So these are the rules for
// every file after the first:
//
//   - It only adds, and nothing that the process before would have to know of: a
//     column may be NULL or has a default, and none is renamed or given another
//     meaning. A change that the process before cannot bear raises
//     min_reader_version, and waits until none of those is left.
//   - It changes one table. The process before holds locks on several, in an
//     order of its own: a transaction that takes two might meet it half-way.
//   - It begins with SET LOCAL lock_timeout. Whoever comes after one who waits
//     for a table waits, too; so a migration does not wait for long, and is tried
//     again.
//   - An index on a table that has rows is made CONCURRENTLY, in a file of its own
//     that says NO TRANSACTION, and dropped before: a process that ended meanwhile
//     has left one that is of no use.
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
		store.Pause(ctx, migrateAgain)
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
)

// Errors of Postgres.
const (
	lockNotAvailable = "55P03"
	deadlockDetected = "40P01"
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
		// Not in the simple protocol, the statement would keep its snapshot for as
		// long as the transaction, and CREATE INDEX CONCURRENTLY would wait for it.
		err = tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, pgx.QueryExecModeSimpleProtocol, int64(migrationLock)).Scan(&ours)
		if err == nil && ours {
			return tx, nil
		}
		if err := errors.Join(err, tx.Rollback(context.WithoutCancel(ctx))); err != nil {
			return nil, err
		}
		if store.Pause(ctx, migrateAgain); ctx.Err() != nil {
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
