package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tandem"
)

// writer is the one goroutine that writes to the file. It groups all writes
// that wait into one transaction, so that they share one fsync.
//
// One failing write never fails its neighbours: a write that changes nothing
// says so in its own error, and when storage itself reports a fault the batch
// is rolled back and its writes are tried again one by one. If COMMIT fails,
// every write of the batch fails.
type writer struct {
	conn  *sql.Conn
	stmts statements
	queue chan *write
	log   *slog.Logger

	pending    int // async requests that wait to be started, as committed
	maxPending int

	batchSize    prometheus.Histogram
	batchSeconds prometheus.Histogram
}

// write is one unit of change: all of it happens, or none.
type write struct {
	// apply makes the change. It may run again if its batch was rolled back,
	// so it must have no effect but on t. A *tandem.Error that it returns
	// before its first change is its answer; any other error is a fault of
	// storage.
	apply func(t *transaction) error
	// done is told the outcome once it is certain. It must not block. Of a note
	// it is nil: nobody waits for it.
	done func(error)
}

// noteDelay is how long notes wait for a write that somebody waits for, to
// share its commit.
const noteDelay = 20 * time.Millisecond

// maxBatch bounds how long one transaction can grow, and with it how long the
// first write of a batch waits for the last.
const maxBatch = 512

func newWriter(conn *sql.Conn, maxPending int, log *slog.Logger, metrics prometheus.Registerer) (*writer, error) {
	w := &writer{
		conn:       conn,
		queue:      make(chan *write, 4*maxBatch),
		log:        log,
		maxPending: maxPending,
		batchSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tandem_commit_batch_size", Help: "Writes that shared one commit.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		batchSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tandem_commit_seconds", Help: "How long a batch of writes took, fsync included.",
			Buckets: prometheus.ExponentialBuckets(.0001, 2, 15),
		}),
	}
	metrics.MustRegister(w.batchSize, w.batchSeconds)
	if err := w.stmts.prepare(conn); err != nil {
		return nil, err
	}
	err := conn.QueryRowContext(context.Background(),
		`SELECT coalesce(sum(requests), 0) FROM request_counters WHERE mode = 'async' AND status = 'pending'`).Scan(&w.pending)
	return w, err
}

// do queues a change and waits until its outcome is certain. If ctx ends
// first the change stays queued and the error is CodeUnknown. then, if it is not
// nil, runs once the change is committed, whether somebody waits for it or not;
// it must not block.
func (w *writer) do(ctx context.Context, apply func(*transaction) error, then func()) error {
	outcome := make(chan error, 1)
	done := func(err error) {
		if err == nil && then != nil {
			then()
		}
		outcome <- err
	}
	if err := w.post(ctx, &write{apply: apply, done: done}); err != nil {
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
func (w *writer) post(ctx context.Context, wr *write) error {
	select {
	case w.queue <- wr:
		return nil
	default:
	}
	select {
	case w.queue <- wr:
		return nil
	case <-ctx.Done():
		return &tandem.Error{Code: tandem.CodeUnavailable, Message: "storage is too slow to take the write", Err: ctx.Err(), RetryAfter: time.Second}
	}
}

// run commits batches until the queue is closed and empty.
func (w *writer) run() {
	batch := make([]*write, 0, maxBatch)
	for first := range w.queue {
		last := len(batch)
		batch = w.fill(append(batch[:0], first))
		batch = w.holdNotes(batch)
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
		w.commit(batch)
		w.batchSize.Observe(float64(len(batch)))
		w.batchSeconds.Observe(time.Since(start).Seconds())
	}
}

// gather is how often a batch lets others run, that they may join it. More
// than a few times gains nothing and delays what is in the batch already.
const gather = 3

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

// commit makes all changes of the batch in one transaction and tells each its
// outcome.
func (w *writer) commit(batch []*write) {
	answers, err := w.try(batch)
	if fault, ok := errors.AsType[*statementFault](err); ok && len(batch) > 1 {
		w.log.Warn("a batch of writes failed and is tried one by one", "writes", len(batch), "error", fault)
		for _, wr := range batch {
			w.commit([]*write{wr})
		}
		return
	}
	for i, wr := range batch {
		switch {
		case wr.done == nil:
		case err != nil:
			wr.done(unavailable(err))
		default:
			wr.done(answers[i])
		}
	}
}

// statementFault is an error of storage met before COMMIT.
type statementFault struct{ err error }

func (f *statementFault) Error() string { return f.err.Error() }
func (f *statementFault) Unwrap() error { return f.err }

// try runs one transaction. Unless it is committed, err says why, and nothing
// of it stays.
func (w *writer) try(batch []*write) (answers []error, err error) {
	ctx := context.Background()
	if _, err := w.stmts.begin.ExecContext(ctx); err != nil {
		// Not a statement's fault: alone, each write would wait as long for
		// whoever holds the file, one after the other.
		return nil, fmt.Errorf("begin: %w", err)
	}
	defer func() {
		if err == nil {
			return
		}
		// After some faults SQLite has rolled back by itself; then this one
		// fails, harmlessly.
		_, _ = w.conn.ExecContext(ctx, "ROLLBACK")
	}()

	t := newTransaction(&w.stmts, w.pending, w.maxPending)
	answers = make([]error, len(batch))
	for i, wr := range batch {
		answer := wr.apply(t)
		if _, ok := answer.(*tandem.Error); answer != nil && !ok {
			return nil, &statementFault{answer}
		}
		answers[i] = answer
	}
	if err := t.writeCounters(); err != nil {
		return nil, &statementFault{err}
	}
	if _, err := w.stmts.commit.ExecContext(ctx); err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	w.pending = t.pending
	return answers, nil
}

func unavailable(err error) error {
	return &tandem.Error{
		Code:       tandem.CodeUnavailable,
		Message:    "storage cannot be written right now",
		RetryAfter: 5 * time.Second,
		Err:        err,
	}
}
