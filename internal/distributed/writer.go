package distributed

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	b    *Backend
	room room
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
	made    bool // it has changed its row
	answer  error
	holder  string        // the request that has the key
	before  tandem.Status // of a settle: what its request stood at
	seq     int64
	heldJob int64                // the job that is held for this process
	state   tandem.CallbackState // of the row
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
	leasing
	yielding
	settling
	interrupting
	touching
	lastKind = touching
)

const (
	// batchTimeout ends a transaction that Postgres does not answer.
	batchTimeout = 10 * time.Second
	// deadlockTries is how often a batch is tried that meets a deadlock, and
	// deadlockPause how long it lets the other process go first.
	deadlockTries = 4
	deadlockPause = 20 * time.Millisecond
)

func newWriter(b *Backend) (*writer, error) {
	queue, err := store.NewQueue[*write](b.log, b.opts.Metrics)
	if err != nil {
		return nil, err
	}
	return &writer{Queue: queue, b: b, room: room{most: b.opts.MaxPending}}, nil
}

// run commits batches until the queue is closed and empty. One transaction is
// under way at a time: with a second one batches are half as large, and a write
// costs the processors what its share of a transaction does.
func (w *writer) run(context.Context) {
	shard := anyShard()
	w.Run(func(batch []*write, answers []error) error { return w.commit(batch, answers, shard) })
}

// commit is the store.Commit of one transaction.
func (w *writer) commit(batch []*write, answers []error, shard int) error {
	now := together(batch, answers)
	err := w.try(now, shard)
	if errors.Is(err, errNotBegun) && !errors.Is(err, context.DeadlineExceeded) { // on a connection that had been lost before
		err = w.try(now, shard)
	}
	for tries := 1; isCode(err, deadlockDetected) && tries < deadlockTries; tries++ { // which none of the writes is to blame for
		time.Sleep(deadlockPause)
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
	tx, err := w.b.begin(ctx)
	if err != nil {
		return errors.Join(errNotBegun, fmt.Errorf("begin: %w", err))
	}
	defer func() {
		if err != nil {
			// After a lost connection this one fails, harmlessly.
			_ = tx.Rollback(context.WithoutCancel(ctx))
		}
	}()
	t := newTransaction(tx, w.b, shard)
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
	w.room.known += int64(t.Pending)
	return nil
}

// room keeps count of the requests that wait to be started, so that accepting
// one costs no look at the counters. What other processes have changed since it
// last looked is not in it. It is the transaction's that is under way.
type room struct {
	most  int
	known int64 // as the counters say, with what has changed here since
	asOf  time.Time
}

// lookForRoom is how often accepting looks at the counters.
const lookForRoom = 100 * time.Millisecond

// take returns for how many of the wanted requests there is room.
func (r *room) take(ctx context.Context, tx pgx.Tx, want int64) (got int64, err error) {
	if time.Since(r.asOf) > lookForRoom {
		if err := tx.QueryRow(ctx, pendingQuery).Scan(&r.known); err != nil {
			return 0, fmt.Errorf("read backlog: %w", err)
		}
		r.asOf = time.Now()
	}
	return max(0, min(want, int64(r.most)-r.known)), nil
}

const pendingQuery = `SELECT coalesce(sum(requests), 0)::bigint FROM pending_counters`
