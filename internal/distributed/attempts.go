package distributed

import (
	"cmp"
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem"
)

// An attempt is made only by the process that has a lease of it, which is in the
// request's row: it is given if the attempt is owed and nobody else's, it is gone
// with the record of the attempt, and that of a process that has died ends with
// its time. So two jobs of one request, wherever they run, make one attempt.
//
// A lease lasts as long as the attempt may, and attemptGrace. The process begins
// the attempt within beginWithin of asking for the lease, or not at all: so the
// attempt is over, too, before the lease is.
const (
	attemptGrace = rescueGrace
	beginWithin  = jobGrace
)

// attemptLease is how long a process has the attempt that a request owes.
func (b *Backend) attemptLease(req *tandem.Request) time.Duration {
	return cmp.Or(req.Callback.Timeout, b.opts.CallbackTimeout) + attemptGrace
}

// leaseAttempt takes the attempt that a request owes for this process. It returns
// CodeConflict if another has it or it is no longer owed.
func (b *Backend) leaseAttempt(ctx context.Context, req *tandem.Request) error {
	return b.writer.Do(ctx, &write{kind: leasing, req: *req}, nil)
}

// yieldAttempt ends this process's lease of an attempt that it has not recorded.
func (b *Backend) yieldAttempt(ctx context.Context, req *tandem.Request) error {
	return b.writer.Do(ctx, &write{kind: yielding, req: *req, job: b.deliverJobs.of(req.ID)}, nil)
}

func (t *transaction) askLease(_ context.Context, writes []*write) error {
	t.ask(&t.first, "lease attempts", writes, leaseQuery, ids(writes), attemptsMade(writes),
		column(writes, func(wr *write) int64 { return t.b.attemptLease(&wr.req).Microseconds() }), t.b.name)
	return nil
}

// lease changes nothing more: who has an attempt is in no counter.
func (t *transaction) lease(context.Context, []*write) error { return nil }

const leaseQuery = `
	UPDATE requests r SET attempt_by = $4, attempt_till = ` + postgresMicros + ` + u.lasts
	FROM unnest($1::text[], $2::int[], $3::bigint[]) WITH ORDINALITY AS u(id, made, lasts, n)
	WHERE r.id = u.id AND r.callback_state = 'pending' AND r.next_attempt_at IS NOT NULL AND r.attempts = u.made
		AND (r.attempt_till IS NULL OR r.attempt_till <= ` + postgresMicros + `)
	RETURNING u.n, r.callback_state`

const postgresMicros = `(extract(epoch FROM clock_timestamp()) * 1000000)::bigint`

func (t *transaction) yield(ctx context.Context, writes []*write) error {
	err := t.query(ctx, "give attempts back", writes, yieldQuery, ids(writes), attemptsMade(writes), t.b.name)
	for _, wr := range writes {
		if wr.made && wr.job.held {
			t.end(wr.job)
			t.add(deliverJob(&wr.req), nil)
		}
	}
	return err
}

const yieldQuery = `
	UPDATE requests r SET attempt_by = NULL, attempt_till = NULL
	FROM unnest($1::text[], $2::int[]) WITH ORDINALITY AS u(id, made, n)
	WHERE r.id = u.id AND r.attempts = u.made AND r.attempt_by = $3
	RETURNING u.n, r.callback_state`

func attemptsMade(writes []*write) []int {
	return column(writes, func(wr *write) int { return wr.req.Callback.Attempts })
}

// askSettle records delivery attempts, and ends their leases: one that another
// process has a lease of by now is that one's to record. Of a callback
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
