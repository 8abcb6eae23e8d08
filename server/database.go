package server

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"

	"tandem/internal/access"
	"tandem/internal/distributed"
	"tandem/internal/embedded"
	"tandem/internal/engine"
	"tandem/internal/httpapi"
	"tandem/internal/limit"
	"tandem/internal/store"
	"tandem/internal/transfer"
	"tandem/webhook"
	"tandem/work"
)

// Memory as a Database keeps nothing beyond the process.
const Memory = embedded.Memory

// database is where a service keeps everything: a SQLite file, or a Postgres
// that it shares with other processes.
type database interface {
	engine.Backend
	// Secret returns the callback secret that is kept, and makes one if there is
	// none yet.
	Secret(ctx context.Context) (webhook.Secret, error)
	// LoadKeys sets the keyring to the keys that are kept, and WatchKeys keeps it
	// up to date until ctx ends.
	LoadKeys(ctx context.Context, ring *access.Keyring) error
	WatchKeys(ctx context.Context, ring *access.Keyring)
}

// openDatabase opens what opts.Database names.
func openDatabase(ctx context.Context, opts Options, log *slog.Logger, metrics prometheus.Registerer) (database, error) {
	if !distributed.IsURL(opts.Database) {
		return embedded.Open(ctx, opts.Database, embedded.Options{
			MaxPending: opts.MaxPending,
			Retain:     opts.Retain,
			Logger:     log.With("component", "embedded"),
			Metrics:    metrics,
		})
	}
	return distributed.Open(ctx, opts.Database, distributed.Options{
		MaxPending: opts.MaxPending,
		Retain:     opts.Retain,
		Slots: map[string]int{
			work.CPU.String():   cmp.Or(opts.Workers, runtime.GOMAXPROCS(0)),
			work.Waits.String(): opts.IOConcurrency,
		},
		WorkTimeout:     opts.WorkTimeout,
		CallbackTimeout: opts.CallbackTimeout,
		NoSteps:         !opts.has(RoleWorker),
		PollOnly:        opts.DatabasePollOnly,
		Logger:          log.With("component", "distributed"),
		Metrics:         metrics,
	})
}

// sharedLimits returns what makes the rate limits of all processes together, nil
// where there is only one process.
func sharedLimits(db database) func(limit.Rate) limit.Taker {
	shared, ok := db.(interface{ Limiter(limit.Rate) limit.Taker })
	if !ok {
		return nil
	}
	return shared.Limiter
}

// queuePages returns the pages that show operators the queue, nil where there is
// none.
func queuePages(db database) (http.Handler, error) {
	queue, ok := db.(interface {
		Pages(prefix string) (http.Handler, error)
	})
	if !ok {
		return nil, nil
	}
	return queue.Pages(httpapi.QueuePath)
}

// IsPostgres reports whether a Database is the URL of a Postgres rather than the
// path of a file.
func IsPostgres(database string) bool { return distributed.IsURL(database) }

// HideDatabase returns a Database as it may be shown: a URL without its
// password.
func HideDatabase(database string) string {
	if distributed.IsURL(database) {
		return distributed.Hide(database)
	}
	return database
}

// Migrate brings the schema of a Postgres up to date. A service does so itself
// when it starts; this is for those who let nothing but a deployment change
// the schema. Processes that use the database go on meanwhile.
func Migrate(ctx context.Context, database string, log *slog.Logger) error {
	return distributed.Migrate(ctx, database, log)
}

// Transferred is what a Transfer has come to, and TransferProgress how far it has
// come.
type (
	Transferred      = transfer.Result
	TransferProgress = transfer.Progress
)

// Transfer moves all that is kept in a file, what is owed included, to an empty
// Postgres; no service may have either open. After one that was cut off, the
// next goes on from there. It ends with comparing both sides, row for row.
func Transfer(ctx context.Context, file, database string, log *slog.Logger, progress func(TransferProgress)) (*Transferred, error) {
	return transfer.Run(ctx, file, database, log, progress)
}

// ReadSecret returns the callback secret that is kept in a database, which a
// running service may have open.
func ReadSecret(ctx context.Context, database string) (webhook.Secret, error) {
	if distributed.IsURL(database) {
		return distributed.ReadSecret(ctx, database)
	}
	return embedded.ReadSecret(ctx, database)
}

// openKeys opens the API keys in a database.
func openKeys(ctx context.Context, database string) (*store.KeyStore, error) {
	if distributed.IsURL(database) {
		return distributed.OpenKeys(ctx, database)
	}
	return embedded.OpenKeys(ctx, database)
}
