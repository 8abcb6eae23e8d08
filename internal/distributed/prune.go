package distributed

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem"
	"tandem/internal/store"
)

const (
	// prunePage is how many requests are looked at in one read, and deleted in
	// one transaction at most.
	prunePage = 500
	// pruneRest is how long pruning rests after each transaction, in lengths of
	// that: so it takes a quarter of one connection's time at most.
	pruneRest = 3
)

// prune deletes the requests that were settled longer ago than Options.Retain,
// with their attempts and the keys that stand for them. What is not settled
// stays, however old it is. It goes through the worked requests from the oldest
// on, by the index on (mode, status, seq), and ends where the requests were
// accepted later than that: so its cost does not grow with the history, nor with
// the backlog. Several processes may do it at once.
func (b *Backend) prune(ctx context.Context) error {
	before := b.now().Add(-b.opts.Retain)
	for _, mode := range tandem.Modes {
		for _, status := range tandem.Statuses {
			if !status.Worked() {
				continue
			}
			if err := b.pruneStanding(ctx, mode, status, before); err != nil {
				return fmt.Errorf("prune %s requests that are %s: %w", mode, status, err)
			}
		}
	}
	return nil
}

func (b *Backend) pruneStanding(ctx context.Context, mode tandem.Mode, status tandem.Status, before time.Time) error {
	for after, more := int64(0), true; more; {
		began := time.Now()
		rows, err := b.pool.Query(ctx, settledQuery, before.UnixMicro(), string(mode), string(status), after, prunePage)
		if err != nil {
			return err
		}
		var due []int64
		looked, old := 0, false
		var accepted, settled bool
		_, err = pgx.ForEachRow(rows, []any{&after, &accepted, &settled}, func() error {
			looked++
			old = old || accepted
			if settled {
				due = append(due, after)
			}
			return nil
		})
		if err != nil {
			return err
		}
		more = old && looked == prunePage
		if len(due) == 0 {
			continue
		}
		if err := b.deleteSettled(ctx, due); err != nil {
			return err
		}
		store.Pause(ctx, pruneRest*time.Since(began))
	}
	return ctx.Err()
}

const settledQuery = `
	SELECT seq, created_at < $1, callback_state <> 'pending'
		AND greatest(worked_at, (SELECT max(at) FROM attempts WHERE request_id = requests.id)) < $1
	FROM requests WHERE mode = $2 AND (status, seq) > ($3, $4) AND status <= $3 ORDER BY status, seq LIMIT $5`

// deleteSettled deletes requests in one transaction, those that are not settled
// any more excepted, and counts them out.
func (b *Backend) deleteSettled(ctx context.Context, seqs []int64) (err error) {
	tx, err := b.begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback(context.WithoutCancel(ctx)) // after a lost connection it fails, harmlessly
		}
	}()
	t := newTransaction(tx, b, anyShard())
	rows, err := tx.Query(ctx, deleteQuery, seqs)
	if err != nil {
		return err
	}
	var ids []string
	var req tandem.Request
	var started, worked *int64
	_, err = pgx.ForEachRow(rows, []any{&req.ID, &req.Owner, &req.Mode, &req.Status, &req.Callback.State, &started, &worked}, func() error {
		req.StartedAt, req.WorkedAt = fromMicros(started), fromMicros(worked)
		t.Prune(&req)
		ids = append(ids, req.ID)
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, deleteAttemptsQuery, ids); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, deleteKeysQuery, ids); err != nil {
		return err
	}
	t.writeCounters()
	if err := t.send(ctx, &t.last); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

const (
	deleteQuery = `DELETE FROM requests WHERE seq = ANY($1) AND callback_state <> 'pending' AND status NOT IN ('pending', 'processing')
		RETURNING id, owner, mode, status, callback_state, started_at, worked_at`
	deleteAttemptsQuery = `DELETE FROM attempts WHERE request_id = ANY($1)`
	deleteKeysQuery     = `DELETE FROM idempotency_keys WHERE request_id = ANY($1)`
)
