package distributed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
	"tandem/work"
)

// Options say how a Backend keeps its requests. The zero value of each means
// its default. WorkTimeout and CallbackTimeout must be the same in all processes
// that share a database: they decide when a process that is silent is taken for
// dead.
type Options struct {
	MaxPending  int // accepted requests that may wait to be started; 1,000,000
	MaxAttempts int // delivery attempts in flight from this process; 1024

	Retain time.Duration // requests are deleted once they have been settled for so long; 0: never

	Slots map[string]int // of each lane; 2 for cpu, 512 for io

	WorkTimeout     time.Duration // of any work; 30 s
	CallbackTimeout time.Duration // of one attempt; 10 s

	// NoSteps leaves the steps to other processes: this one accepts, and works
	// what callers wait for.
	NoSteps bool

	// PollOnly uses nothing that belongs to a session, so that it works behind
	// PgBouncer in transaction mode: no LISTEN, no named prepared statements, no
	// settings.
	PollOnly bool

	Logger  *slog.Logger
	Metrics prometheus.Registerer // nil: metrics are kept and not published
	Now     func() time.Time      // the wall clock; time.Now
}

func (o Options) withDefaults() (Options, error) {
	var faults []error
	for _, n := range []struct {
		field *int
		name  string
		zero  int
	}{
		{&o.MaxPending, "MaxPending", 1_000_000},
		{&o.MaxAttempts, "MaxAttempts", 1024},
	} {
		if *n.field < 0 {
			faults = append(faults, fmt.Errorf("%s must not be negative, is %d", n.name, *n.field))
		}
		if *n.field == 0 {
			*n.field = n.zero
		}
	}
	for _, d := range []struct {
		field *time.Duration
		name  string
		zero  time.Duration
	}{
		{&o.WorkTimeout, "WorkTimeout", 30 * time.Second},
		{&o.CallbackTimeout, "CallbackTimeout", 10 * time.Second},
	} {
		if *d.field < 0 {
			faults = append(faults, fmt.Errorf("%s must not be negative, is %v", d.name, *d.field))
		}
		if *d.field == 0 {
			*d.field = d.zero
		}
	}
	slots := map[string]int{work.CPU.String(): 2, work.Waits.String(): 512}
	for lane, n := range o.Slots {
		if _, known := slots[lane]; !known || n < 0 {
			faults = append(faults, fmt.Errorf("option Slots must be of the lanes cpu and io and not negative, are %v", o.Slots))
		}
		if n > 0 {
			slots[lane] = n
		}
	}
	o.Slots = slots
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

// Backend keeps requests in a Postgres that it shares with other processes. It
// implements engine.Backend.
type Backend struct {
	opts Options
	name string // of this process, unlike that of any other
	log  *slog.Logger

	pool   *pgxpool.Pool // what is committed through it is on disk
	queue  *pgxpool.Pool // River's own; see openPools
	insert *riverClient

	durable  bool // see checkDurable
	writer   *writer
	rows     *rowReader
	watchers store.Watchers
	signals  *signals
	breakers *breakers
	notes    store.Notes
	working  working

	here        atomic.Pointer[runner]   // takes steps at once; nil if none does
	paused      atomic.Pointer[[]string] // queues
	processJobs ownJobs
	deliverJobs ownJobs

	teardown []func() error // last in, first out
}

// riverClient is a client whose transactions are ours.
type riverClient = river.Client[pgx.Tx]

var _ engine.Backend = (*Backend)(nil)

// Open connects to the database at the URL and brings its schema up to date.
// Other processes may have it open.
func Open(ctx context.Context, database string, opts Options) (_ *Backend, err error) {
	opts, err = opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("distributed options: %w", err)
	}
	b := &Backend{opts: opts, name: processName(), log: opts.Logger, working: newWorking()}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if err := b.openPools(ctx, database); err != nil {
		return nil, err
	}
	if err := migrate(ctx, b.pool, b.log); err != nil {
		return nil, fmt.Errorf("prepare the database %s: %w", Hide(database), err)
	}
	if err := b.checkMoved(ctx); err != nil {
		return nil, err
	}
	if err := b.checkDurable(ctx); err != nil {
		return nil, err
	}
	b.insert, err = river.NewClient(riverpgxv5.New(b.pool), b.riverConfig(kinds(nil)))
	if err != nil {
		return nil, fmt.Errorf("open the queue: %w", err)
	}
	if b.writer, err = newWriter(b); err != nil {
		return nil, err
	}
	b.background(b.writer.run)
	b.onClose(func() error { b.writer.Close(); return nil })
	b.rows = newRowReader(b.pool)
	b.background(b.rows.run)
	b.breakers = newBreakers(b)
	b.signals = newSignals(b)
	b.background(b.signals.send)
	b.background(b.signals.poll)
	if !opts.PollOnly {
		b.background(b.signals.listen)
	}
	b.onClose(b.handOver)
	return b, nil
}

// processName is unlike that of any other process, and tells people which it is.
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%.40s-%d-%s", host, os.Getpid(), strings.ToLower(rand.Text())[:8])
}

// connections is how many connections a process has at most, apart from those
// that a pool_max_conns in the URL allows for its own rows, and the one or two
// it listens with.
const (
	rowConnections   = 8
	queueConnections = 4
)

// openPools connects twice. River's own bookkeeping may lose the last moment
// before a crash of Postgres, because no job is believed without its row: so it
// does not wait for the disk.
func (b *Backend) openPools(ctx context.Context, database string) error {
	trips := newRoundTrips()
	if err := b.opts.Metrics.Register(trips); err != nil {
		return err
	}
	open := func(conns int32, settings map[string]string, session string) (*pgxpool.Pool, error) {
		config, err := parse(database)
		if err != nil {
			return nil, err
		}
		if !strings.Contains(database, "pool_max_conns=") {
			config.MaxConns = conns
		}
		config.MaxConns = max(config.MaxConns, 4) // migrating takes three at once
		config.ConnConfig.Tracer = trips
		if b.opts.PollOnly {
			config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		} else {
			for name, value := range settings {
				config.ConnConfig.RuntimeParams[name] = value
			}
			config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
				_, err := conn.Exec(ctx, session)
				return err
			}
		}
		pool, err := openPool(ctx, database, config)
		if err == nil {
			b.onClose(func() error { pool.Close(); return nil })
		}
		return pool, err
	}
	// Plans are made while the tables are small, and kept when they have grown:
	// every query has an index that is right then. What costs a plan without one
	// would set off the compiler, for seconds.
	// They are set once more in the session, should a PgBouncer ignore what a
	// connection starts with.
	const plans = `SET jit = off; SET enable_seqscan = off`
	settings := map[string]string{"application_name": "tandem", "enable_seqscan": "off", "jit": "off", "synchronous_commit": "on"}
	var err error
	if b.pool, err = open(rowConnections, settings, plans+`; SET enable_hashjoin = off; SET enable_mergejoin = off`); err != nil {
		return err
	}
	b.queue, err = open(queueConnections, map[string]string{
		"application_name": "tandem queue", "enable_seqscan": "off", "jit": "off", "synchronous_commit": "off"}, plans)
	return err
}

// background runs f until the backend is closed.
func (b *Backend) background(f func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	b.onClose(func() error {
		cancel()
		<-done
		return nil
	})
}

func (b *Backend) onClose(f func() error) { b.teardown = append(b.teardown, f) }

// Close puts right what the steps have left unfinished, commits what is queued
// and disconnects. Call it after Run has returned.
func (b *Backend) Close() error {
	var faults []error
	for len(b.teardown) > 0 {
		last := len(b.teardown) - 1
		faults = append(faults, b.teardown[last]())
		b.teardown = b.teardown[:last]
	}
	return errors.Join(faults...)
}

// handOver gives back the requests that this process has started and not
// finished, as recovery does for one that has died.
func (b *Backend) handOver() error {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	err := store.Each(b.working.all(), func(req *tandem.Request) error { return b.takeOver(ctx, req) })
	if err != nil {
		return fmt.Errorf("hand over %w", err)
	}
	return nil
}

// takeOver puts right a request whose process will not finish it: it is pending
// again or, if it was interrupted too often or nobody was promised it, failed.
func (b *Backend) takeOver(ctx context.Context, req *tandem.Request) error {
	if engine.StartsAgain(req) {
		return b.requeue(ctx, req, 0)
	}
	return b.Complete(ctx, engine.Interrupted(req, b.now()))
}

// Name implements engine.Backend.
func (b *Backend) Name() string { return "distributed" }

// Durable implements engine.Backend. It is false on a Postgres that does not
// wait for the disk.
func (b *Backend) Durable() bool { return b.durable }

// checkDurable asks Postgres whether it waits for the disk.
func (b *Backend) checkDurable(ctx context.Context) error {
	var fsync, commit string
	err := b.pool.QueryRow(ctx, `SELECT current_setting('fsync'), current_setting('synchronous_commit')`).Scan(&fsync, &commit)
	if err != nil {
		return fmt.Errorf("ask the database whether it is durable: %w", err)
	}
	b.durable = fsync == "on" && commit != "off"
	return nil
}

// now returns the wall time as rows carry it.
func (b *Backend) now() time.Time { return b.opts.Now().UTC().Truncate(time.Microsecond) }

// working is the requests that this process has started and not finished.
type working struct {
	mu   sync.Mutex
	byID map[string]*tandem.Request
}

func newWorking() working { return working{byID: make(map[string]*tandem.Request)} }

func (w *working) add(req *tandem.Request) {
	row := *req
	w.mu.Lock()
	defer w.mu.Unlock()
	w.byID[row.ID] = &row
}

func (w *working) remove(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.byID, id)
}

func (w *working) has(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.byID[id] != nil
}

func (w *working) all() []*tandem.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]*tandem.Request, 0, len(w.byID))
	for _, req := range w.byID {
		row := *req
		all = append(all, &row)
	}
	return all
}

// shards is how many rows share each counter.
const shards = 64

func anyShard() int { return mathrand.IntN(shards) }
