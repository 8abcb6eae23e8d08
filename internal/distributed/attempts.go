package distributed

import (
	"context"
	"time"

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
	t.ask(in, "record attempts", writes, settleQuery, settled.values(writes, t.b.name)...)
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

var settled = columns{
	text("id", func(r *tandem.Request) string { return r.ID }),
	each("before", "text", func(wr *write) string { return string(wr.before) }),
	each("made", "int", func(wr *write) int { return wr.attempt.Number - 1 }),
	text("status", func(r *tandem.Request) string { return string(r.Status) }),
	text("state", func(r *tandem.Request) string { return string(r.Callback.State) }),
	number("attempts", func(r *tandem.Request) int { return r.Callback.Attempts }),
	at("next_at", func(r *tandem.Request) time.Time { return r.Callback.NextAt }),
	number("last_status", func(r *tandem.Request) int { return r.Callback.LastStatus }),
	text("last_error", func(r *tandem.Request) string { return clean(r.Callback.LastError) }),
}

var settleQuery = `
	UPDATE requests r SET status = u.status, callback_state = u.state, attempts = u.attempts,
		next_attempt_at = u.next_at, last_status = u.last_status, last_error = u.last_error,
		attempt_by = NULL, attempt_till = NULL
	FROM ` + settled.numbered() + `
	WHERE r.id = u.id AND r.status = u.before AND r.callback_state = 'pending' AND r.attempts = u.made
		AND (r.attempt_by IS NULL OR r.attempt_by = ` + settled.next() + `)
	RETURNING u.n, r.callback_state`

func (t *transaction) insertAttempts(writes []*write) {
	if len(writes) > 0 {
		t.last.Queue(insertAttemptsQuery, attempted.values(writes)...)
	}
}

var attempted = columns{
	text("request_id", func(r *tandem.Request) string { return r.ID }),
	each("number", "int", func(wr *write) int { return wr.attempt.Number }),
	each("at", "bigint", func(wr *write) int64 { return wr.attempt.At.UnixMicro() }),
	each("duration_us", "bigint", func(wr *write) int64 { return wr.attempt.Duration.Microseconds() }),
	each("status", "int", func(wr *write) int { return wr.attempt.Status }),
	each("class", "text", func(wr *write) string { return string(wr.attempt.Class) }),
	each("error", "text", func(wr *write) string { return clean(wr.attempt.Error) }),
	each("answer", "bytea", func(wr *write) []byte { return wr.attempt.Answer }),
}

var insertAttemptsQuery = `INSERT INTO attempts (` + attempted.names() + `) SELECT * FROM ` + attempted.rows()
