package distributed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

// writer makes all writes to rows. It groups those that wait into one
// transaction, and in that all of one kind into one statement, so that they
// share its round trips and its fsync.
//
// If the connection is lost during COMMIT, the outcome of the batch's writes is
// unknown.
type writer struct {
	*store.Queue[*write]
	begin  func(context.Context) (pgx.Tx, error)
	insert *riverClient
	name   string
	now    func() time.Time
	lasts  func(*tandem.Request) time.Duration // a claim to its attempt
	lease  func() time.Duration                // of a start
	here   *atomic.Pointer[runner]             // takes steps at once
	room   room
}

// write is one unit of change: all of it happens, or none.
type write struct {
	kind    kind
	req     tandem.Request         // as it was when the write was asked for
	key     *engine.IdempotencyKey // of an insert, if it has one
	attempt *tandem.Attempt        // of a settle
	starts  int                    // that a requeue takes back
	note    *store.Note            // of an insert that nobody waits for
	job     ownJob                 // of this process, which ends with the step
	by      *runner                // that has a slot for a request that is inserted
	hold    time.Duration          // for how long the next job is held for this process; 0: it is anybody's

	// What has come of it, as the batch sees it.
	made   bool // it has changed its row
	answer error
	holder string        // of the key
	before tandem.Status // of a settle: what its request stood at
	seq    int64
	held   int64                // the job that is held
	state  tandem.CallbackState // of the row
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
	claiming
	yielding
	settling
	interrupting
	touching
	lastKind = touching
)

// linger is how long a transaction waits for as many writes as shared the one
// before. What one costs in messages between two programs, many share.
var linger, _ = time.ParseDuration(os.Getenv("LINGER"))

// batchTimeout ends a transaction that Postgres does not answer.
const batchTimeout = 10 * time.Second

func newWriter(b *Backend) (*writer, error) {
	queue, err := store.NewQueue[*write](b.log, b.opts.Metrics)
	if err != nil {
		return nil, err
	}
	return &writer{Queue: queue, begin: b.begin, insert: b.insert, name: b.name, now: b.now, lasts: b.claimFor, lease: b.lease, here: &b.here, room: room{most: b.opts.MaxPending}}, nil
}

// run commits batches until the queue is closed and empty. One transaction is
// under way at a time: with a second one batches are half as large, and a write
// costs the processors what its share of a transaction does.
func (w *writer) run(context.Context) {
	shard := anyShard()
	w.Run(func(batch []*write, answers []error) error { return w.commit(batch, answers, shard) }, linger)
}

// commit is the store.Commit of one transaction.
func (w *writer) commit(batch []*write, answers []error, shard int) error {
	now := together(batch, answers)
	err := w.try(now, shard)
	if errors.Is(err, errNotBegun) && !errors.Is(err, context.DeadlineExceeded) { // on a connection that had been lost before
		err = w.try(now, shard)
	}
	if err != nil {
		return err
	}
	for i, wr := range batch {
		if answers[i] == nil {
			answers[i] = wr.answer
		}
	}
	return nil
}

// together puts off what one statement cannot do together: two inserts under one
// Idempotency-Key.
func together(batch []*write, answers []error) []*write {
	if !slices.ContainsFunc(batch, func(wr *write) bool { return wr.key != nil }) {
		return batch
	}
	type claim struct{ owner, key string }
	seen := make(map[claim]bool)
	var together []*write
	for i, wr := range batch {
		if wr.key != nil {
			c := claim{wr.req.Owner, wr.key.Key}
			if seen[c] {
				answers[i] = store.ErrApart
				continue
			}
			seen[c] = true
		}
		together = append(together, wr)
	}
	return together
}

// errNotBegun is a connection lost before COMMIT: nothing has happened.
var errNotBegun = errors.New("the connection was lost before the commit")

// begin begins a transaction. Its statements find their rows by index, whatever
// the size of the tables was when the plan was made: the settings are those of
// the session or, where there is none, its own.
func (b *Backend) begin(ctx context.Context) (pgx.Tx, error) {
	var opts pgx.TxOptions
	if b.opts.PollOnly {
		opts.BeginQuery = `BEGIN; SET LOCAL jit = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off`
	}
	return b.pool.BeginTx(ctx, opts)
}

// try runs one transaction. Unless it is committed, err says why, and nothing of
// it stays - or nobody knows, if it is CodeUnknown.
func (w *writer) try(batch []*write, shard int) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	tx, err := w.begin(ctx)
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
			t.Pending = 0
		}
		w.room.ended(t.room, int64(t.Pending))
	}()
	if err := t.run(ctx, batch); err != nil {
		if tx.Conn().IsClosed() {
			return errors.Join(errNotBegun, err)
		}
		return &store.StatementFault{Err: err}
	}
	if err := tx.Commit(ctx); err != nil {
		if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Severity == "ERROR" {
			return fmt.Errorf("commit: %w", err)
		}
		return &tandem.Error{Code: tandem.CodeUnknown, Message: "storage was lost before the outcome was known",
			RetryAfter: 5 * time.Second, Err: fmt.Errorf("commit: %w", err)}
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
