package distributed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"tandem"
	"tandem/internal/engine"
)

// writer makes all writes to rows. It groups those that wait into one
// transaction, and in that all of one kind into one statement, so that they
// share its round trips and its fsync. A few transactions are under way at once:
// while one waits for the disk the next is made.
//
// One failing write never fails its neighbours: a write that changes nothing
// says so in its own error, and when Postgres refuses a statement the batch is
// rolled back and its writes are tried again one by one. If COMMIT fails, every
// write of the batch fails; if the connection is lost meanwhile, their outcome
// is unknown.
type writer struct {
	pool   *pgxpool.Pool
	insert *riverClient
	name   string
	queue  chan *write
	log    *slog.Logger
	now    func() time.Time
	room   room

	batchSize    prometheus.Histogram
	batchSeconds prometheus.Histogram
}

// write is one unit of change: all of it happens, or none.
type write struct {
	kind    kind
	req     tandem.Request         // as it was when the write was asked for
	key     *engine.IdempotencyKey // of an insert, if it has one
	attempt *tandem.Attempt        // of a settle
	starts  int                    // that a requeue takes back
	note    *note                  // of an insert that nobody waits for

	// What has come of it, as the batch sees it.
	made   bool // it has changed its row
	answer error
	holder string // of the key
	seq    int64
	state  tandem.CallbackState // of the row

	// done is told the outcome once it is certain. It must not block. Of a note
	// it is nil: nobody waits for it.
	done func(*write, error)
}

// kind is what a write does. A transaction makes its writes in this order.
type kind int

const (
	inserting kind = iota
	starting
	requeuing
	finishing
	failing
	releasing
	redelivering
	settling
	interrupting
	touching
	lastKind = touching
)

const (
	// writers is how many transactions are under way at once.
	writers = 2
	// maxBatch bounds how long one transaction can grow, and with it how long
	// the first write of a batch waits for the last.
	maxBatch = 512
	// noteDelay is how long notes wait for a write that somebody waits for, to
	// share its commit.
	noteDelay = 20 * time.Millisecond
	// batchTimeout ends a transaction that Postgres does not answer.
	batchTimeout = 10 * time.Second
	// gather is how often a batch lets others run, that they may join it.
	gather = 3
)

func newWriter(b *Backend) (*writer, error) {
	w := &writer{
		pool:   b.pool,
		insert: b.insert,
		name:   b.name,
		queue:  make(chan *write, 4*maxBatch),
		log:    b.log,
		now:    b.now,
		room:   room{most: b.opts.MaxPending},
		batchSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tandem_commit_batch_size", Help: "Writes that shared one commit.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		batchSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tandem_commit_seconds", Help: "How long a batch of writes took, fsync included.",
			Buckets: prometheus.ExponentialBuckets(.0001, 2, 15),
		}),
	}
	return w, errors.Join(b.opts.Metrics.Register(w.batchSize), b.opts.Metrics.Register(w.batchSeconds))
}

// do queues a write and waits until its outcome is certain. If ctx ends first
// the change stays queued and the error is CodeUnknown.
func (b *Backend) do(ctx context.Context, w *write) error {
	outcome := make(chan error, 1)
	settled := w.done
	w.done = func(w *write, err error) {
		if settled != nil {
			settled(w, err)
		}
		outcome <- err
	}
	if err := b.post(ctx, w); err != nil {
		return err
	}
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		return &tandem.Error{Code: tandem.CodeUnknown, Message: "the caller left before the write was committed", Err: ctx.Err()}
	}
}

// post queues a write; it blocks while the queue is full.
func (b *Backend) post(ctx context.Context, w *write) error {
	b.closing.RLock()
	defer b.closing.RUnlock()
	if b.closed {
		return errClosed
	}
	select {
	case b.writer.queue <- w:
		return nil
	default:
	}
	select {
	case b.writer.queue <- w:
		return nil
	case <-ctx.Done():
		return &tandem.Error{Code: tandem.CodeUnavailable, Message: "storage is too slow to take the write", Err: ctx.Err(), RetryAfter: time.Second}
	}
}

var errClosed = &tandem.Error{Code: tandem.CodeDraining, Message: "the database is closed"}

// stopWriting lets nothing more into the queue. The writers end once it is
// empty.
func (b *Backend) stopWriting() error {
	b.closing.Lock()
	defer b.closing.Unlock()
	b.closed = true
	close(b.writer.queue)
	return nil
}

// run commits batches until the queue is closed and empty.
func (w *writer) run(context.Context) {
	var all sync.WaitGroup
	for range writers {
		all.Go(w.work)
	}
	all.Wait()
}

func (w *writer) work() {
	shard := anyShard()
	batch := make([]*write, 0, maxBatch)
	for first := range w.queue {
		last := len(batch)
		batch = w.holdNotes(w.fill(append(batch[:0], first)))
		// After a commit, those that waited for it come back one by one with
		// their next write. Let as many of them as there were get here first:
		// sharing their commit costs each less than going ahead.
		for range gather {
			if len(batch) >= last/2 {
				break
			}
			runtime.Gosched()
			batch = w.fill(batch)
		}
		start := time.Now()
		w.commit(batch, shard)
		w.batchSize.Observe(float64(len(batch)))
		w.batchSeconds.Observe(time.Since(start).Seconds())
	}
}

// holdNotes lets a batch of nothing but notes wait for other writes.
func (w *writer) holdNotes(batch []*write) []*write {
	var timeout <-chan time.Time
	for looked := 0; len(batch) < maxBatch; {
		if slices.ContainsFunc(batch[looked:], func(wr *write) bool { return wr.done != nil }) {
			break
		}
		looked = len(batch)
		if timeout == nil {
			timeout = time.After(noteDelay)
		}
		select {
		case next, open := <-w.queue:
			if !open {
				return batch
			}
			batch = w.fill(append(batch, next))
		case <-timeout:
			return batch
		}
	}
	return batch
}

// fill adds what waits in the queue.
func (w *writer) fill(batch []*write) []*write {
	for len(batch) < maxBatch {
		select {
		case next, open := <-w.queue:
			if !open {
				return batch
			}
			batch = append(batch, next)
		default:
			return batch
		}
	}
	return batch
}

// commit makes all changes of the batch and tells each its outcome.
func (w *writer) commit(batch []*write, shard int) {
	batch, later := apart(batch)
	err := w.try(batch, shard)
	if errors.Is(err, errNotBegun) && !errors.Is(err, context.DeadlineExceeded) { // on a connection that had been lost before
		err = w.try(batch, shard)
	}
	if fault, ok := errors.AsType[*statementFault](err); ok && len(batch) > 1 {
		w.log.Warn("a batch of writes failed and is tried one by one", "writes", len(batch), "error", fault)
		for _, wr := range batch {
			w.commit([]*write{wr}, shard)
		}
	} else {
		for _, wr := range batch {
			switch {
			case wr.done == nil:
			case err != nil:
				wr.done(wr, failed(err))
			default:
				wr.done(wr, wr.answer)
			}
		}
	}
	if len(later) > 0 {
		w.commit(later, shard)
	}
}

// apart puts off what one statement cannot do together: two inserts under one
// Idempotency-Key.
func apart(batch []*write) (now, later []*write) {
	if !slices.ContainsFunc(batch, func(wr *write) bool { return wr.key != nil }) {
		return batch, nil
	}
	type claim struct{ owner, key string }
	seen := make(map[claim]bool)
	for _, wr := range batch {
		if wr.key != nil {
			c := claim{wr.req.Owner, wr.key.Key}
			if seen[c] {
				later = append(later, wr)
				continue
			}
			seen[c] = true
		}
		now = append(now, wr)
	}
	return now, later
}

// statementFault is an error of Postgres met before COMMIT, on a connection that
// is still good.
type statementFault struct{ err error }

func (f *statementFault) Error() string { return f.err.Error() }
func (f *statementFault) Unwrap() error { return f.err }

// errNotBegun is a connection lost before COMMIT: nothing has happened.
var errNotBegun = errors.New("the connection was lost before the commit")

// errUnknown is a connection lost during COMMIT.
var errUnknown = errors.New("the connection was lost during the commit")

// failed is what the writes of a batch are told that was not committed, as far
// as is known.
func failed(err error) error {
	e := &tandem.Error{
		Code:       tandem.CodeUnavailable,
		Message:    "storage cannot be written right now",
		RetryAfter: 5 * time.Second,
		Err:        err,
	}
	if errors.Is(err, errUnknown) {
		e.Code, e.Message = tandem.CodeUnknown, "storage was lost before the outcome was known"
	}
	return e
}

// beginQuery begins a transaction. Its statements find their rows by index,
// whatever the size of the tables was when the plan was made.
const beginQuery = `BEGIN; SET LOCAL jit = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off`

// try runs one transaction. Unless it is committed, err says why, and nothing of
// it stays - or nobody knows, if it is errUnknown.
func (w *writer) try(batch []*write, shard int) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	tx, err := w.pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: beginQuery})
	if err != nil {
		return errors.Join(errNotBegun, fmt.Errorf("begin: %w", err))
	}
	defer func() {
		if err != nil {
			// After a lost connection this one fails, harmlessly.
			_ = tx.Rollback(context.WithoutCancel(ctx))
		}
	}()
	t := newTransaction(tx, w, shard)
	defer func() {
		if err != nil {
			t.pending = 0
		}
		w.room.ended(t.room, t.pending)
	}()
	if err := t.run(ctx, batch); err != nil {
		if tx.Conn().IsClosed() {
			return errors.Join(errNotBegun, err)
		}
		return &statementFault{err}
	}
	if err := tx.Commit(ctx); err != nil {
		if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Severity == "ERROR" {
			return fmt.Errorf("commit: %w", err)
		}
		return errors.Join(errUnknown, fmt.Errorf("commit: %w", err))
	}
	return nil
}

// room keeps count of the requests that wait to be started, so that accepting
// one costs no look at the counters. What other processes have changed since it
// last looked is not in it.
type room struct {
	most int

	mu    sync.Mutex
	known int64 // as the counters say, with what has changed here since
	asOf  time.Time
	taken int64 // of known: by transactions under way
}

// lookForRoom is how often accepting looks at the counters.
const lookForRoom = 100 * time.Millisecond

// take takes room for as many of the wanted requests as there is. The
// transaction gives it back when it ends.
func (r *room) take(ctx context.Context, tx pgx.Tx, want int64) (got int64, err error) {
	r.mu.Lock()
	stale := time.Since(r.asOf) > lookForRoom
	r.mu.Unlock()
	if stale {
		var n int64
		if err := tx.QueryRow(ctx, pendingQuery).Scan(&n); err != nil {
			return 0, fmt.Errorf("read backlog: %w", err)
		}
		r.mu.Lock()
		r.known, r.asOf = n+r.taken, time.Now()
		r.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	got = max(0, min(want, int64(r.most)-r.known))
	r.known += got
	r.taken += got
	return got, nil
}

// ended gives back what a transaction has taken, and notes by how many more
// requests wait because of it.
func (r *room) ended(taken, pending int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken -= taken
	r.known += pending - taken
}

const pendingQuery = `SELECT coalesce(sum(requests), 0)::bigint FROM request_counters WHERE mode = 'async' AND status = 'pending'`
