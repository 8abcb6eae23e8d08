package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"tandem"
	"tandem/internal/store"
)

// writer is the one goroutine that writes to the file. All writes that wait
// share one transaction, and so one fsync.
type writer struct {
	*store.Queue[change]
	conn  *sql.Conn
	stmts statements

	pending    int // async requests that wait to be started, as committed
	maxPending int
}

// change is one unit of change: all of it happens, or none. It may run again if
// its batch was rolled back, so it must have no effect but on t. A *tandem.Error
// that it returns before its first statement that writes is its answer; any
// other error is a fault of storage.
type change func(t *transaction) error

func newWriter(conn *sql.Conn, maxPending int, log *slog.Logger, metrics prometheus.Registerer) (*writer, error) {
	queue, err := store.NewQueue[change](log, metrics)
	if err != nil {
		return nil, err
	}
	w := &writer{Queue: queue, conn: conn, maxPending: maxPending}
	if err := w.stmts.prepare(conn); err != nil {
		return nil, err
	}
	err = conn.QueryRowContext(context.Background(),
		`SELECT coalesce(sum(requests), 0) FROM request_counters WHERE mode = 'async' AND status = 'pending'`).Scan(&w.pending)
	return w, err
}

// run commits batches until the queue is closed and empty.
func (w *writer) run() { w.Run(w.commit) }

// commit is the store.Commit of one transaction. It assumes that all rows stand
// as the batch needs them, if that is worth it, and tries again without if they
// do not.
func (w *writer) commit(batch []change, answers []error) error {
	if len(batch) < bulkRows {
		return w.transact(batch, answers, false)
	}
	err := w.transact(batch, answers, true)
	if errors.Is(err, errAssumed) {
		clear(answers)
		err = w.transact(batch, answers, false)
	}
	return err
}

func (w *writer) transact(batch []change, answers []error, assume bool) (err error) {
	ctx := context.Background()
	if _, err := w.stmts.begin.ExecContext(ctx); err != nil {
		// Not a statement's fault: alone, each write would wait as long for
		// whoever holds the file, one after the other.
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		if err == nil {
			return
		}
		// After some faults SQLite has rolled back by itself; then this one
		// fails, harmlessly.
		_, _ = w.conn.ExecContext(ctx, "ROLLBACK")
	}()

	t := newTransaction(&w.stmts, w.maxPending-w.pending, assume)
	for i, apply := range batch {
		answer := apply(t)
		if _, ok := answer.(*tandem.Error); answer != nil && !ok {
			return &store.StatementFault{Err: answer}
		}
		answers[i] = answer
	}
	if err := t.flush(); err != nil {
		return &store.StatementFault{Err: err}
	}
	if err := t.writeCounters(); err != nil {
		return &store.StatementFault{Err: err}
	}
	if _, err := w.stmts.commit.ExecContext(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	w.pending += t.Pending
	return nil
}
