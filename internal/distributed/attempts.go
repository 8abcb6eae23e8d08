package distributed

import (
	"context"

	"github.com/jackc/pgx/v5"

	"tandem"
)

// askSettle records delivery attempts, and ends the claims to them: one that
// another process has claimed meanwhile is that one's to record. Of a callback
// that is delivered anew, the status before is one of those that its outcome has;
// the counters must know which.
func (t *transaction) askSettle(_ context.Context, writes []*write) error {
	for _, wr := range writes {
		switch {
		case wr.req.Failure != nil:
			wr.before = tandem.Failed
		case wr.req.Callback.Since.IsZero():
			wr.before = tandem.Completed
		default:
			wr.before = wr.req.Status
		}
	}
	t.askAttempts(&t.first, writes)
	return nil
}

func (t *transaction) askAttempts(in *pgx.Batch, writes []*write) {
	t.ask(in, "record attempts", writes, settleQuery, ids(writes),
		column(writes, func(wr *write) string { return string(wr.before) }),
		column(writes, func(wr *write) int { return wr.attempt.Number - 1 }),
		column(writes, func(wr *write) string { return string(wr.req.Status) }),
		column(writes, func(wr *write) string { return string(wr.req.Callback.State) }),
		column(writes, func(wr *write) int { return wr.req.Callback.Attempts }),
		column(writes, func(wr *write) *int64 { return micros(wr.req.Callback.NextAt) }),
		column(writes, func(wr *write) int { return wr.req.Callback.LastStatus }),
		column(writes, func(wr *write) string { return clean(wr.req.Callback.LastError) }), t.b.name)
}

// settle goes on from there.
func (t *transaction) settle(ctx context.Context, writes []*write) error {
	var anew []*write
	for _, wr := range left(writes) {
		if !wr.req.Callback.Since.IsZero() && wr.req.Status == tandem.CallbackSent {
			wr.before = tandem.CallbackFailed
			anew = append(anew, wr)
		}
	}
	if len(anew) > 0 {
		var again pgx.Batch
		t.askAttempts(&again, anew)
		if err := t.send(ctx, &again); err != nil {
			return err
		}
	}
	var made []*write
	for _, wr := range writes {
		if !wr.made {
			continue
		}
		made = append(made, wr)
		switch {
		case wr.req.Callback.NextAt.IsZero():
			t.end(wr.job)
		case wr.job.held: // one that River has given to this process is snoozed
			t.end(wr.job)
			t.add(deliverJob(&wr.req), nil)
		}
		t.Count(&wr.req, wr.before, tandem.CallbackPending, -1)
		t.Count(&wr.req, wr.req.Status, wr.req.Callback.State, +1)
		if wr.attempt.Class != tandem.ClassNone {
			t.CountError(&wr.req, "callback", string(wr.attempt.Class))
		}
	}
	t.insertAttempts(made)
	return nil
}

const settleQuery = `
	UPDATE requests r SET status = u.status, callback_state = u.state, attempts = u.attempts,
		next_attempt_at = u.next, last_status = u.last_status, last_error = u.last_error,
		attempt_by = NULL, attempt_till = NULL
	FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::text[], $6::int[], $7::bigint[], $8::int[], $9::text[])
		WITH ORDINALITY AS u(id, before, made, status, state, attempts, next, last_status, last_error, n)
	WHERE r.id = u.id AND r.status = u.before AND r.callback_state = 'pending' AND r.attempts = u.made
		AND (r.attempt_by IS NULL OR r.attempt_by = $10)
	RETURNING u.n, r.callback_state`

func (t *transaction) insertAttempts(writes []*write) {
	if len(writes) == 0 {
		return
	}
	t.last.Queue(`
		INSERT INTO attempts (request_id, number, at, duration_us, status, class, error, answer)
		SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::int[], $6::text[], $7::text[], $8::bytea[])`,
		ids(writes),
		column(writes, func(wr *write) int { return wr.attempt.Number }),
		column(writes, func(wr *write) int64 { return wr.attempt.At.UnixMicro() }),
		column(writes, func(wr *write) int64 { return wr.attempt.Duration.Microseconds() }),
		column(writes, func(wr *write) int { return wr.attempt.Status }),
		column(writes, func(wr *write) string { return string(wr.attempt.Class) }),
		column(writes, func(wr *write) string { return clean(wr.attempt.Error) }),
		column(writes, func(wr *write) []byte { return wr.attempt.Answer }))
}
