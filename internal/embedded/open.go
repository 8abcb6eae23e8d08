package embedded

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/prometheus/client_golang/prometheus"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

// Memory as a path keeps nothing beyond the process.
const Memory = ":memory:"

// Options say how a Backend keeps its requests. The zero value of each means
// its default.
type Options struct {
	MaxPending  int // accepted requests that may wait to be started; 1,000,000
	MaxAttempts int // delivery attempts in flight to all hosts together; 1024

	// Retain is how long a request is kept once it is settled; 0: for ever.
	Retain time.Duration

	Logger  *slog.Logger
	Metrics prometheus.Registerer // nil: metrics are kept and not published
	Now     func() time.Time      // the wall clock; time.Now
}

func (o Options) withDefaults() (Options, error) {
	var faults []error
	if o.MaxPending < 0 {
		faults = append(faults, fmt.Errorf("MaxPending must not be negative, is %d", o.MaxPending))
	}
	if o.MaxAttempts < 0 {
		faults = append(faults, fmt.Errorf("MaxAttempts must not be negative, is %d", o.MaxAttempts))
	}
	if o.Retain < 0 {
		faults = append(faults, fmt.Errorf("option Retain must not be negative, is %v", o.Retain))
	}
	if o.MaxPending == 0 {
		o.MaxPending = 1_000_000
	}
	if o.MaxAttempts == 0 {
		o.MaxAttempts = 1024
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o, errors.Join(faults...)
}

// Backend keeps requests in one SQLite file. It implements engine.Backend.
type Backend struct {
	opts    Options
	path    string
	durable bool
	log     *slog.Logger

	read       *sql.DB
	writer     *writer
	backlogs   map[string]*backlog // by lane
	deliveries *deliveries
	runner     atomic.Pointer[runner] // nil before Run
	watchers   store.Watchers
	notes      store.Notes

	teardown []func() error // last in, first out
}

var _ engine.Backend = (*Backend)(nil)

// Open opens the file at path, or makes it, brings its schema up to date, and
// puts right what an interrupted process left: async requests it was working
// are pending again, its sync requests failed. It returns an error if another
// process has the file open. With Memory as its path nothing is durable.
func Open(ctx context.Context, path string, opts Options) (_ *Backend, err error) {
	opts, err = opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("embedded options: %w", err)
	}
	b := &Backend{opts: opts, path: path, durable: path != Memory, log: opts.Logger}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if err := b.openFile(ctx); err != nil {
		return nil, explain(b.path, err)
	}
	b.backlogs = make(map[string]*backlog)
	for _, lane := range lanes {
		b.backlogs[lane] = newBacklog(b, lane)
	}
	b.deliveries = newDeliveries(b.owed, b.opts)
	if err := b.recover(ctx); err != nil {
		return nil, fmt.Errorf("recover: %w", explain(b.path, err))
	}
	return b, nil
}

func (b *Backend) openFile(ctx context.Context) error {
	synchronous := "FULL"
	if !b.durable {
		// A file rather than SQLite's own :memory:, in which every connection
		// would see a database of its own.
		dir, err := os.MkdirTemp("", "tandem-")
		if err != nil {
			return fmt.Errorf("make a place for the database: %w", err)
		}
		b.onClose(func() error { return os.RemoveAll(dir) })
		b.path, synchronous = filepath.Join(dir, "requests.db"), "OFF"
	}
	b.path = withoutLinks(b.path)
	unlock, err := lockFile(b.path)
	if err != nil {
		return err
	}
	b.onClose(unlock)
	if err := makeFile(b.path); err != nil {
		return err
	}

	writing, err := openSQL(b.path, 1, "synchronous("+synchronous+")", "cache_size(-32000)", "wal_autocheckpoint(4000)", "journal_size_limit(67108864)")
	if err != nil {
		return err
	}
	b.onClose(writing.Close)
	if err := checkFile(ctx, writing, b.path); err != nil { // before anything is written to it
		return err
	}
	if err := migrate(ctx, writing); err != nil {
		return fmt.Errorf("prepare %s: %w", b.path, err)
	}
	conn, err := writing.Conn(ctx)
	if err != nil {
		return fmt.Errorf("open it: %w", err)
	}
	b.onClose(conn.Close)
	b.read, err = openSQL(b.path, readers, "query_only(1)", "cache_size(-4000)")
	if err != nil {
		return err
	}
	b.onClose(b.read.Close)

	b.writer, err = newWriter(conn, b.opts.MaxPending, b.log, b.opts.Metrics)
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.writer.run()
	}()
	b.onClose(func() error {
		b.writer.Close()
		<-done
		return b.writer.stmts.close()
	})
	return nil
}

// withoutLinks is where a path leads, so that two names of one file are locked
// as one. Of a file that is not there yet, it is the path itself.
func withoutLinks(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target
	}
	return path
}

// readers is how many connections read at once. Reads are short; more would
// only hold more page caches.
const readers = 4

func (b *Backend) onClose(f func() error) { b.teardown = append(b.teardown, f) }

// Close commits what is queued and closes the file. Call it after Run has
// returned.
func (b *Backend) Close() error {
	var faults []error
	for len(b.teardown) > 0 {
		last := len(b.teardown) - 1
		faults = append(faults, b.teardown[last]())
		b.teardown = b.teardown[:last]
	}
	return errors.Join(faults...)
}

// Name implements engine.Backend.
func (b *Backend) Name() string { return "embedded" }

// Durable implements engine.Backend.
func (b *Backend) Durable() bool { return b.durable }

// makeFile makes the file at path if there is none, for its owner only: it will
// hold callback secrets. SQLite gives the files beside it the same permissions.
func makeFile(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the database %s: %w", path, err)
	}
	return file.Close()
}

// openSQL opens a pool of connections to the file, each with the pragmas. A file
// that is made here can give back free pages: that must be said before its
// first page is written, which turning on the WAL does, and to a file that is
// there it would be a write.
func openSQL(path string, conns int, pragmas ...string) (*sql.DB, error) {
	pragmas = append([]string{"journal_mode(WAL)"}, pragmas...)
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		pragmas = append([]string{"auto_vacuum(INCREMENTAL)"}, pragmas...)
	}
	return openPlain(path, conns, pragmas...)
}

// openPlain opens the file in the journal mode that it is in.
func openPlain(path string, conns int, pragmas ...string) (*sql.DB, error) {
	query := url.Values{"_pragma": append([]string{"busy_timeout(5000)"}, pragmas...)}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: filepath.ToSlash(path)}).EscapedPath()+"?"+query.Encode())
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

//go:embed schema/*.sql
var schema embed.FS

// readerVersion is compared with what the file asks of its readers.
const readerVersion = 1

// migrate brings the schema up to date, or says that the file is too new.
func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(schema, "schema")
	if err != nil {
		return err
	}
	var needs int
	err = db.QueryRowContext(ctx, `SELECT min_reader_version FROM schema_meta`).Scan(&needs)
	if err == nil {
		if err := checkReader(needs); err != nil {
			return err
		}
	}
	// Any other error is met again by the migration, which says it better: a
	// new file has no table to ask.
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

// recover puts right what an interrupted process left unfinished. Requests it
// was working when it died have their start counted already.
func (b *Backend) recover(ctx context.Context) error {
	left, err := b.queryRequests(ctx, `SELECT `+requestColumns+` FROM requests WHERE mode IN ('sync', 'async') AND status = 'processing'`)
	if err != nil {
		return err
	}
	err = store.Each(left, func(req *tandem.Request) error {
		if engine.StartsAgain(req) {
			return b.requeue(ctx, req, 0)
		}
		return b.Complete(ctx, engine.Interrupted(req, b.now()))
	})
	if err != nil {
		return fmt.Errorf("take up %w", err)
	}
	// Nobody was promised these: whoever waited for them got no answer.
	waited, err := b.queryRequests(ctx, `SELECT `+requestColumns+` FROM requests WHERE mode = 'async' AND status = 'pending' AND waited = 1`)
	if err != nil {
		return err
	}
	err = store.Each(waited, func(req *tandem.Request) error { return b.Fail(ctx, engine.Interrupted(req, b.now())) })
	if err != nil {
		return fmt.Errorf("take up %w", err)
	}
	if len(left) > 0 {
		b.log.Info("took up what the last run left unfinished", "requests", len(left))
	}
	return nil
}

// now returns the wall time as rows carry it.
func (b *Backend) now() time.Time { return b.opts.Now().UTC().Truncate(time.Microsecond) }
