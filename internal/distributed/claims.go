package distributed

import (
	"cmp"
	"context"
	"time"

	"tandem"
)

// An attempt is made only by the process that holds the claim to it, which is in
// the request's row: it is taken if the attempt is owed and nobody else's, it is
// gone with the record of the attempt, and a process that dies loses it when its
// time is over. So two jobs of one request, wherever they run, make one attempt.
//
// A claim lasts as long as the attempt may, and claimGrace. Its holder begins
// the attempt within beginWithin of asking for the claim, or not at all: so the
// attempt is over, too, before the claim is.
const (
	claimGrace  = rescueGrace
	beginWithin = jobGrace
)

// claimFor is how long the attempt that a request owes is claimed for.
func (b *Backend) claimFor(req *tandem.Request) time.Duration {
	return cmp.Or(req.Callback.Timeout, b.opts.CallbackTimeout) + claimGrace
}

// claimAttempt claims the attempt that a request owes for this process. It
// returns CodeConflict if it is claimed already or no longer owed.
func (b *Backend) claimAttempt(ctx context.Context, req *tandem.Request) error {
	return b.writer.Do(ctx, &write{kind: claiming, req: *req}, nil)
}

// yieldAttempt ends this process's claim to an attempt that it has not recorded.
func (b *Backend) yieldAttempt(ctx context.Context, req *tandem.Request) error {
	return b.writer.Do(ctx, &write{kind: yielding, req: *req, job: b.deliverJobs.of(req.ID)}, nil)
}

func (t *transaction) askClaim(_ context.Context, writes []*write) error {
	t.ask(&t.first, "claim attempts", writes, claimQuery, ids(writes), attemptsMade(writes),
		column(writes, func(wr *write) int64 { return t.b.claimFor(&wr.req).Microseconds() }), t.b.name)
	return nil
}

// claim changes nothing more: who has claimed an attempt is in no counter.
func (t *transaction) claim(context.Context, []*write) error { return nil }

const claimQuery = `
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
