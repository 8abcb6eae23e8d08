package distributed

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

const (
	// ageCheck is how often callbacks are looked for that have become too old
	// while their attempts were put off.
	ageCheck = time.Second
	// agePage is how many owed callbacks are looked at in one read, and given up
	// in one transaction at most.
	agePage = 500
	// ageRest is how long looking rests, in lengths of what it took.
	ageRest = 20
)

// giveUp gives up the callbacks that are too old, but for those that are leased
// for an attempt. The process that leads the queue comes first.
//
// It goes through what is owed from the oldest request on, and ends where they
// were accepted later than what is too old has been owed: so its cost does not
// grow with the callbacks that are owed and not too old.
func (r *runner) giveUp(ctx context.Context) error {
	owed, due := r.steps.TooOld()
	if owed.IsZero() {
		return nil
	}
	leads, err := r.b.leads(ctx)
	if err != nil {
		return err
	}
	if !leads {
		due = due.Add(-standIn)
	}
	began, given := time.Now(), 0
	for after, more := int64(0), true; more; {
		old, last, further, err := r.b.owedBefore(ctx, owed, due, after)
		if err != nil {
			return fmt.Errorf("look for callbacks that are too old: %w", err)
		}
		after, more = last, further
		if len(old) == 0 {
			continue
		}
		n, err := r.b.giveUp(ctx, old, owed, due)
		if err != nil {
			return fmt.Errorf("give up callbacks that are too old: %w", err)
		}
		given += n
	}
	if given > 0 {
		r.b.log.Warn("callbacks were given up because they were too old", "callbacks", given)
	}
	store.Pause(ctx, ageRest*time.Since(began))
	return nil
}

// owedBefore looks at the next page of owed callbacks, and returns the seqs of
// those that are owed since before the one time and due since before the other.
// There may be more if any of the page was accepted before that.
func (b *Backend) owedBefore(ctx context.Context, owed, due time.Time, after int64) (old []int64, last int64, more bool, err error) {
	rows, err := b.pool.Query(ctx, owedBeforeQuery, owed.UnixMicro(), due.UnixMicro(), after, agePage)
	if err != nil {
		return nil, 0, false, err
	}
	looked, early := 0, false
	var accepted, tooOld bool
	_, err = pgx.ForEachRow(rows, []any{&last, &accepted, &tooOld}, func() error {
		looked++
		early = early || accepted
		if tooOld {
			old = append(old, last)
		}
		return nil
	})
	return old, last, early && looked == agePage, err
}

const owedBeforeQuery = `
	SELECT seq, created_at < $1, coalesce(redelivered_at, worked_at) < $1 AND next_attempt_at < $2
	FROM requests WHERE next_attempt_at IS NOT NULL AND seq > $3 ORDER BY seq LIMIT $4`

// giveUp gives up callbacks in one transaction, and returns how many: not those
// that have moved on, nor those that are leased or being changed, of which
// whoever does it has the say.
func (b *Backend) giveUp(ctx context.Context, seqs []int64, owed, due time.Time) (n int, err error) {
	tx, err := b.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback(context.WithoutCancel(ctx)) // after a lost connection it fails, harmlessly
		}
	}()
	rows, err := tx.Query(ctx, giveUpQuery, seqs, owed.UnixMicro(), due.UnixMicro(), engine.LastTooOld)
	if err != nil {
		return 0, err
	}
	t := newTransaction(tx, b, anyShard())
	var req tandem.Request
	var anew bool
	var started, worked *int64
	_, err = pgx.ForEachRow(rows, []any{&req.Owner, &req.Mode, &req.Status, &req.Callback.State, &anew, &started, &worked}, func() error {
		n++
		req.StartedAt, req.WorkedAt = fromMicros(started), fromMicros(worked)
		t.GiveUp(&req, anew)
		return nil
	})
	if err != nil {
		return 0, err
	}
	t.writeCounters()
	if err := t.send(ctx, &t.last); err != nil {
		return 0, err
	}
	return n, tx.Commit(ctx)
}

const giveUpQuery = `
	UPDATE requests SET status = CASE status WHEN 'completed' THEN 'callback_failed' ELSE status END,
		callback_state = 'failed', next_attempt_at = NULL, last_error = $4, attempt_by = NULL, attempt_till = NULL
	WHERE seq = ANY(ARRAY(
		SELECT seq FROM requests WHERE seq = ANY($1) AND callback_state = 'pending'
			AND coalesce(redelivered_at, worked_at) < $2 AND next_attempt_at < $3
			AND (attempt_till IS NULL OR attempt_till <= ` + postgresMicros + `)
		FOR UPDATE SKIP LOCKED))
	RETURNING owner, mode, status, callback_state, redelivered_at IS NOT NULL, started_at, worked_at`
