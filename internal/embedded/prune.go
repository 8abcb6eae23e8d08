package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"tandem"
	"tandem/internal/store"
)

const (
	// pruneBatch is how many requests one write deletes. It bounds what the
	// writes beside it wait for.
	pruneBatch = 20
	// prunePage is how many requests are looked at in one read.
	prunePage = 500
	// pruneRest is how long pruning rests after each write, in lengths of that
	// write: so it takes a quarter of the writer's time at most.
	pruneRest = 3
	// vacuumPages is how many free pages one write gives back.
	vacuumPages = 64
	// spareOf is the part of a file that may be free pages: they are about to
	// be used again, and giving them back would be work done twice.
	spareOf = 10
)

// prune deletes what is older than Options.Retain, until ctx ends.
func (r *runner) prune(ctx context.Context) {
	b := r.backend
	for ; ctx.Err() == nil; store.Pause(ctx, store.PruneEvery(b.opts.Retain)) {
		began := time.Now()
		n, err := b.prune(ctx, b.now().Add(-b.opts.Retain))
		if err == nil {
			err = b.shrink(ctx)
		}
		if err != nil && ctx.Err() == nil {
			b.log.Error("deleting old requests failed, trying again", "error", err)
		}
		if n > 0 {
			b.log.Info("deleted old requests", "requests", n, "took", time.Since(began).Round(time.Millisecond).String())
		}
	}
}

// prune deletes the requests that were settled before the time, with their
// attempts and the keys that stand for them, and returns how many. What is not
// settled stays, however old it is.
//
// It goes through the worked requests from the oldest on, by the index on
// (mode, status, seq), and ends where the requests were accepted later than
// that: so its cost does not grow with the history, nor with the backlog.
func (b *Backend) prune(ctx context.Context, before time.Time) (n int, err error) {
	for _, mode := range tandem.Modes {
		for _, status := range tandem.Statuses {
			if !status.Worked() {
				continue
			}
			deleted, err := b.pruneStanding(ctx, mode, status, before)
			n += deleted
			if err != nil {
				return n, fmt.Errorf("prune %s requests that are %s: %w", mode, status, err)
			}
		}
	}
	return n, nil
}

func (b *Backend) pruneStanding(ctx context.Context, mode tandem.Mode, status tandem.Status, before time.Time) (n int, err error) {
	for after, more := int64(0), true; more; {
		var due []int64
		due, after, more, err = b.settledBefore(ctx, mode, status, before, after)
		if err != nil {
			return n, err
		}
		for len(due) > 0 {
			batch := due[:min(pruneBatch, len(due))]
			due = due[len(batch):]
			deleted, err := b.deleteSettled(ctx, batch)
			n += deleted
			if err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// settledBefore looks at the next page of requests that stand so, and returns
// which of them were settled before the time. There may be more if any of the
// page was accepted before it.
func (b *Backend) settledBefore(ctx context.Context, mode tandem.Mode, status tandem.Status, before time.Time, after int64) (due []int64, last int64, more bool, err error) {
	looked, old := 0, false
	err = b.each(ctx, `
		SELECT seq, created_at < ?1, callback_state <> 'pending'
			AND max(worked_at, coalesce((SELECT max(at) FROM attempts WHERE request_id = requests.id), 0)) < ?1
		FROM requests WHERE mode = ?2 AND status = ?3 AND seq > ?4 ORDER BY seq LIMIT ?5`,
		[]any{micros(before), string(mode), string(status), after, prunePage},
		func(rows *sql.Rows) error {
			var accepted, settled bool
			if err := rows.Scan(&last, &accepted, &settled); err != nil {
				return err
			}
			looked++
			old = old || accepted
			if settled {
				due = append(due, last)
			}
			return nil
		})
	return due, last, old && looked == prunePage, err
}

// deleteSettled deletes requests in one write, those that are not settled any
// more excepted, rests, and returns how many it deleted.
func (b *Backend) deleteSettled(ctx context.Context, seqs []int64) (n int, err error) {
	began := time.Now()
	err = b.do(ctx, func(t *transaction) error {
		n = 0
		for _, seq := range seqs {
			deleted, err := t.prune(seq)
			if err != nil {
				return err
			}
			if deleted {
				n++
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	store.Pause(ctx, pruneRest*time.Since(began))
	return n, nil
}

// prune deletes a request if it is settled, and counts it out.
func (t *transaction) prune(seq int64) (deleted bool, err error) {
	var req tandem.Request
	var started, worked sql.NullInt64
	if err := t.flush(); err != nil {
		return false, err
	}
	err = t.deleteRequest.QueryRow(seq).Scan(&req.ID, &req.Owner, &req.Mode, &req.Status, &req.Callback.State, &started, &worked)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if _, err := t.deleteAttempts.Exec(req.ID); err != nil {
		return false, err
	}
	if _, err := t.deleteKeys.Exec(req.ID); err != nil {
		return false, err
	}
	req.StartedAt, req.WorkedAt = fromMicros(started), fromMicros(worked)
	t.Prune(&req)
	return true, nil
}

// shrink gives free pages of the file back to the file system, but for a spare
// part. Of a file that was made before it could, it gives back none.
func (b *Backend) shrink(ctx context.Context) error {
	var pages, free, vacuum int
	err := b.read.QueryRowContext(ctx, `
		SELECT page_count, freelist_count, auto_vacuum FROM pragma_page_count, pragma_freelist_count, pragma_auto_vacuum`).
		Scan(&pages, &free, &vacuum)
	if err != nil {
		return fmt.Errorf("look for free pages: %w", err)
	}
	if vacuum != incrementalVacuum {
		return nil
	}
	for excess := free - pages/spareOf; excess >= vacuumPages && ctx.Err() == nil; excess -= vacuumPages {
		began := time.Now()
		err := b.do(ctx, func(t *transaction) error {
			_, err := t.vacuum.Exec()
			return err
		})
		if err != nil {
			return fmt.Errorf("give back free pages: %w", err)
		}
		store.Pause(ctx, pruneRest*time.Since(began))
	}
	return nil
}

// incrementalVacuum is how SQLite calls a file that can give back free pages
// one by one.
const incrementalVacuum = 2
