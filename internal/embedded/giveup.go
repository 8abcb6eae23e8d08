package embedded

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

const (
	// ageCheck is how often callbacks are looked for that have become too old
	// while their attempts were put off.
	ageCheck = time.Second
	// agePage is how many owed callbacks are looked at in one read, and given up
	// in one write at most.
	agePage = 500
	// ageRest is how long looking rests, in lengths of what it took: its cost
	// grows with what is due, and with a million dead callbacks that takes seconds.
	ageRest = 20
)

// giveUp gives up the callbacks that are too old, until ctx ends.
func (r *runner) giveUp(ctx context.Context) {
	for ; ctx.Err() == nil; store.Pause(ctx, ageCheck) {
		owed, due := r.steps.TooOld()
		if owed.IsZero() {
			continue
		}
		began := time.Now()
		n, err := r.backend.giveUp(ctx, owed, due)
		if err != nil && ctx.Err() == nil {
			r.backend.log.Error("giving up callbacks that are too old failed, trying again", "error", err)
		}
		if n > 0 {
			r.backend.log.Warn("callbacks were given up because they were too old", "callbacks", n)
		}
		store.Pause(ctx, ageRest*time.Since(began))
	}
}

// overdue is a callback whose attempt is due, in the order of the index on what is
// owed.
type overdue struct {
	host string
	at   int64 // when it is due
	seq  int64
	id   string
}

// giveUp gives up the callbacks that are owed since before the one time and due
// since before the other, but for those that are being attempted, and returns how
// many.
func (b *Backend) giveUp(ctx context.Context, owed, due time.Time) (n int, err error) {
	var after overdue
	for more := true; more; {
		var old []overdue
		if old, after, more, err = b.owedBefore(ctx, owed, due, after); err != nil {
			return n, fmt.Errorf("look for callbacks that are too old: %w", err)
		}
		if old = b.deliveries.takeBack(old); len(old) == 0 {
			continue
		}
		began := time.Now()
		given, err := b.giveUpThese(ctx, old, owed, due)
		for _, o := range old {
			if given[o.id] {
				b.deliveries.settled(o.id)
			} else { // it has moved on, or could not be written
				b.deliveries.leave(o.id, o.host, time.Second)
			}
		}
		if err != nil {
			return n, err
		}
		n += len(given)
		store.Pause(ctx, pruneRest*time.Since(began))
	}
	return n, nil
}

const owedBeforeQuery = `
	SELECT callback_host, next_attempt_at, seq, id, coalesce(redelivered_at, worked_at) < ?1
	FROM requests INDEXED BY requests_owed
	WHERE next_attempt_at IS NOT NULL AND next_attempt_at < ?2 AND (callback_host, next_attempt_at, seq) > (?3, ?4, ?5)
	ORDER BY callback_host, next_attempt_at, seq LIMIT ?6`

// owedBefore looks at the next page of callbacks that are due since before the one
// time, and returns those that are owed since before the other.
func (b *Backend) owedBefore(ctx context.Context, owed, due time.Time, after overdue) (old []overdue, last overdue, more bool, err error) {
	looked := 0
	err = b.each(ctx, owedBeforeQuery, []any{micros(owed), micros(due), after.host, after.at, after.seq, agePage},
		func(rows *sql.Rows) error {
			var tooOld bool
			if err := rows.Scan(&last.host, &last.at, &last.seq, &last.id, &tooOld); err != nil {
				return err
			}
			looked++
			if tooOld {
				old = append(old, last)
			}
			return nil
		})
	return old, last, looked == agePage, err
}

// giveUpThese gives up callbacks in one write, those that have moved on excepted,
// and returns the ids of those that it has given up.
func (b *Backend) giveUpThese(ctx context.Context, old []overdue, owed, due time.Time) (map[string]bool, error) {
	seqs := make([]int64, len(old))
	for i, o := range old {
		seqs[i] = o.seq
	}
	text, err := json.Marshal(seqs)
	if err != nil {
		panic(err) // unreachable: numbers
	}
	var given map[string]bool
	err = b.do(ctx, func(t *transaction) (err error) {
		given, err = t.giveUpThese(string(text), owed, due)
		return err
	})
	if err != nil { // if ctx has ended, it may still happen
		return nil, fmt.Errorf("give up callbacks that are too old: %w", err)
	}
	return given, nil
}

func (t *transaction) giveUpThese(seqs string, owed, due time.Time) (given map[string]bool, err error) {
	if err := t.flush(); err != nil {
		return nil, err
	}
	rows, err := t.giveUp.Query(engine.LastTooOld, seqs, micros(owed), micros(due))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	given = make(map[string]bool)
	for rows.Next() {
		var req tandem.Request
		var anew bool
		var started, worked sql.NullInt64
		err := rows.Scan(&req.ID, &req.Owner, &req.Mode, &req.Status, &req.Callback.State, &anew, &started, &worked)
		if err != nil {
			return nil, err
		}
		given[req.ID] = true
		req.StartedAt, req.WorkedAt = fromMicros(started), fromMicros(worked)
		t.GiveUp(&req, anew)
	}
	return given, rows.Err()
}
