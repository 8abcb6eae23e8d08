package distributed

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

// transaction is one batch under way: the jobs that its rows give rise to, and
// the changes to the counters, which are written once at its end.
type transaction struct {
	tx    pgx.Tx
	b     *Backend
	shard int

	store.Tally
	jobs  []newJob
	ended []int64   // jobs
	first pgx.Batch // statements that depend on nothing in the transaction
	last  pgx.Batch // statements that nothing in the transaction depends on
}

func newTransaction(tx pgx.Tx, b *Backend, shard int) *transaction {
	return &transaction{tx: tx, b: b, shard: shard, Tally: store.NewTally()}
}

// run makes the writes, kind by kind.
func (t *transaction) run(ctx context.Context, batch []*write) error {
	var byKind [lastKind + 1][]*write
	for _, wr := range batch {
		wr.made, wr.answer, wr.holder, wr.heldJob = false, nil, "", 0 // it may have been tried before
		if wr.note != nil && !wr.note.Take() {
			continue
		}
		byKind[wr.kind] = append(byKind[wr.kind], wr)
	}
	// All processes lock rows in this order: the kinds in theirs, and those of one
	// kind by the ids of the requests. Inserts wait for nobody's rows.
	for _, writes := range byKind[inserting+1:] {
		slices.SortStableFunc(writes, func(a, b *write) int { return strings.Compare(a.req.ID, b.req.ID) })
	}
	// What every request comes by asks first, all together.
	asks := [lastKind + 1]func(context.Context, []*write) error{
		inserting: t.askInsert, starting: t.askStart, finishing: t.askFinish, leasing: t.askLease, settling: t.askSettle,
	}
	for kind, ask := range asks {
		if ask != nil && len(byKind[kind]) > 0 {
			if err := ask(ctx, byKind[kind]); err != nil {
				return err
			}
		}
	}
	if err := t.send(ctx, &t.first); err != nil {
		return err
	}
	steps := [lastKind + 1]func(context.Context, []*write) error{
		inserting: t.insert, starting: t.start, requeuing: t.requeue, finishing: t.finish, failing: t.fail,
		releasing: t.release, redelivering: t.redeliver, leasing: t.lease, yielding: t.yield, settling: t.settle, interrupting: t.interrupt, touching: t.touch,
	}
	for kind, writes := range byKind {
		if len(writes) == 0 {
			continue
		}
		if err := steps[kind](ctx, writes); err != nil {
			return err
		}
		for _, wr := range writes {
			if !wr.made && wr.answer == nil && wr.holder == "" {
				wr.answer = engine.ErrMovedOn
			}
		}
	}
	if err := t.writeJobs(ctx); err != nil {
		return err
	}
	t.writeCounters()
	return t.send(ctx, &t.last)
}

// send makes statements in one round trip.
func (t *transaction) send(ctx context.Context, statements *pgx.Batch) error {
	if statements.Len() == 0 {
		return nil
	}
	return t.tx.SendBatch(ctx, statements).Close()
}

// ask puts a statement into a batch that returns, for each write that it made,
// its place in writes and the state of its callback.
func (t *transaction) ask(in *pgx.Batch, what string, writes []*write, sql string, args ...any) {
	in.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		var n int
		var state tandem.CallbackState
		_, err := pgx.ForEachRow(rows, []any{&n, &state}, func() error {
			writes[n-1].made, writes[n-1].state = true, state
			return nil
		})
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

// query makes such a statement at once.
func (t *transaction) query(ctx context.Context, what string, writes []*write, sql string, args ...any) error {
	var one pgx.Batch
	t.ask(&one, what, writes, sql, args...)
	return t.send(ctx, &one)
}

// left returns the writes that have changed nothing yet.
func left(writes []*write) []*write {
	var rest []*write
	for _, wr := range writes {
		if !wr.made {
			rest = append(rest, wr)
		}
	}
	return rest
}

// column collects what one column of a statement's arrays is made of.
func column[T any](writes []*write, of func(*write) T) []T {
	values := make([]T, len(writes))
	for i, wr := range writes {
		values[i] = of(wr)
	}
	return values
}

func ids(writes []*write) []string {
	return column(writes, func(wr *write) string { return wr.req.ID })
}

func epochs(writes []*write) []int {
	return column(writes, func(wr *write) int { return wr.req.Epoch })
}

func (t *transaction) askStart(_ context.Context, writes []*write) error {
	t.ask(&t.first, "start requests", writes, startQuery, ids(writes), epochs(writes),
		column(writes, func(wr *write) *int64 { return micros(wr.req.StartedAt) }), t.b.name)
	return nil
}

func (t *transaction) start(_ context.Context, writes []*write) error {
	t.moved(writes, tandem.Pending, tandem.Processing)
	return nil
}

const startQuery = `
	UPDATE requests r SET status = 'processing', starts = r.starts + 1, epoch = r.epoch + 1,
		started_at = u.started_at, started_by = $4
	FROM unnest($1::text[], $2::int[], $3::bigint[]) WITH ORDINALITY AS u(id, epoch, started_at, n)
	WHERE r.id = u.id AND r.status = 'pending' AND r.epoch = u.epoch
	RETURNING u.n, r.callback_state`

func (t *transaction) requeue(ctx context.Context, writes []*write) error {
	err := t.query(ctx, "requeue requests", writes, requeueQuery, ids(writes), epochs(writes),
		column(writes, func(wr *write) int { return wr.starts }))
	t.moved(writes, tandem.Processing, tandem.Pending)
	for _, wr := range writes {
		if wr.made && wr.job.held {
			t.end(wr.job)
			t.add(processJob(&wr.req), nil)
		}
	}
	return err
}

const requeueQuery = `
	UPDATE requests r SET status = 'pending', starts = r.starts - u.starts, started_at = NULL
	FROM unnest($1::text[], $2::int[], $3::int[]) WITH ORDINALITY AS u(id, epoch, starts, n)
	WHERE r.id = u.id AND r.status = 'processing' AND r.epoch = u.epoch
	RETURNING u.n, r.callback_state`

// moved counts the writes that have moved their request and left its callback.
func (t *transaction) moved(writes []*write, from, to tandem.Status) {
	for _, wr := range writes {
		if wr.made {
			t.Count(&wr.req, from, wr.state, -1)
			t.Count(&wr.req, to, wr.state, +1)
		}
	}
}

// askFinish records outcomes.
func (t *transaction) askFinish(_ context.Context, writes []*write) error {
	t.askOutcomes(&t.first, writes)
	return nil
}

func (t *transaction) askOutcomes(in *pgx.Batch, writes []*write) {
	t.ask(in, "record outcomes", writes, finishQuery, outcomes.values(writes, t.b.name)...)
}

// finish goes on from there. A sync request that is not on record yet is inserted
// with its outcome. One that was waited for may have been released meanwhile,
// and owes a callback then.
func (t *transaction) finish(ctx context.Context, writes []*write) error {
	finished := func(writes []*write) {
		for _, wr := range writes {
			if wr.made {
				t.end(wr.job)
				t.Count(&wr.req, tandem.Processing, wr.state, -1)
			}
		}
	}
	finished(writes)
	var sync []*write
	for _, wr := range left(writes) {
		if wr.req.Mode == tandem.Sync {
			sync = append(sync, wr)
		}
	}
	if len(sync) > 0 {
		if err := t.insertRows(ctx, sync); err != nil {
			return err
		}
		for _, wr := range sync {
			wr.state = wr.req.Callback.State
		}
		// Those that are on record after all: their beginning was in an earlier
		// transaction of this process, whose COMMIT went without an answer, and ended
		// only after the first statement had looked.
		if rest := left(sync); len(rest) > 0 {
			var again pgx.Batch
			t.askOutcomes(&again, rest)
			if err := t.send(ctx, &again); err != nil {
				return err
			}
			finished(rest)
		}
	}
	for _, wr := range writes {
		if wr.made {
			t.worked(wr)
		}
	}
	return nil
}

var outcomes = columns{
	text("id", func(r *tandem.Request) string { return r.ID }),
	number("epoch", func(r *tandem.Request) int { return r.Epoch }),
	text("status", func(r *tandem.Request) string { return string(r.Status) }),
	at("started_at", func(r *tandem.Request) time.Time { return r.StartedAt }),
	at("worked_at", func(r *tandem.Request) time.Time { return r.WorkedAt }),
	each("result", "bytea", func(wr *write) []byte { return wr.req.Result }),
	each("failure_code", "text", failureCode),
	each("failure_message", "text", failureMessage),
	each("failure_upstream", "int", failureUpstream),
	each("due", "bigint", dueAt),
	each("hold", "bigint", func(wr *write) *int64 {
		if wr.hold == 0 {
			return nil
		}
		return ptr(wr.hold.Microseconds())
	}),
}

var finishQuery = `
	UPDATE requests r SET status = u.status, started_at = u.started_at, worked_at = u.worked_at, result = u.result,
		failure_code = u.failure_code, failure_message = u.failure_message, failure_upstream = u.failure_upstream,
		next_attempt_at = CASE WHEN r.callback_state = 'pending' THEN u.due END,
		attempt_by = CASE WHEN r.callback_state = 'pending' AND u.hold IS NOT NULL THEN ` + outcomes.next() + ` END,
		attempt_till = CASE WHEN r.callback_state = 'pending' THEN ` + postgresMicros + ` + u.hold END
	FROM ` + outcomes.numbered() + `
	WHERE r.id = u.id AND r.status = 'processing' AND r.epoch = u.epoch
	RETURNING u.n, r.callback_state`

// fail moves requests from pending to failed.
func (t *transaction) fail(ctx context.Context, writes []*write) error {
	err := t.query(ctx, "fail requests", writes, failQuery, failures.values(writes)...)
	if err != nil {
		return err
	}
	for _, wr := range writes {
		if wr.made {
			t.Count(&wr.req, tandem.Pending, wr.state, -1)
			wr.req.Status = tandem.Failed
			t.worked(wr)
		}
	}
	return nil
}

var failures = columns{
	text("id", func(r *tandem.Request) string { return r.ID }),
	number("epoch", func(r *tandem.Request) int { return r.Epoch }),
	at("worked_at", func(r *tandem.Request) time.Time { return r.WorkedAt }),
	each("failure_code", "text", failureCode),
	each("failure_message", "text", failureMessage),
	each("due", "bigint", dueAt),
}

var failQuery = `
	UPDATE requests r SET status = 'failed', worked_at = u.worked_at,
		failure_code = u.failure_code, failure_message = u.failure_message, failure_upstream = 0,
		next_attempt_at = CASE WHEN r.callback_state = 'pending' THEN u.due END
	FROM ` + failures.numbered() + `
	WHERE r.id = u.id AND r.status = 'pending' AND r.epoch = u.epoch
	RETURNING u.n, r.callback_state`

// worked counts a request that has its outcome, and owes the callback it may
// have.
func (t *transaction) worked(wr *write) {
	req := &wr.req
	req.Callback.State = wr.state
	t.Count(req, req.Status, wr.state, +1)
	if req.Failure != nil {
		t.CountError(req, "work", string(req.Failure.Code))
	}
	req.Callback.NextAt = time.Time{}
	if wr.state == tandem.CallbackPending {
		req.Callback.NextAt = time.UnixMicro(*dueAt(wr)).UTC()
		if wr.hold > 0 {
			t.add(deliverJob(req), wr)
		} else {
			t.add(deliverJob(req), nil)
		}
	}
}

// dueAt is when the callback of a request that is being worked is due, should
// it owe one.
func dueAt(wr *write) *int64 {
	if at := micros(wr.req.Callback.NextAt); at != nil {
		return at
	}
	return micros(wr.req.WorkedAt)
}

// release makes requests that are waited for promises. Which status they have
// is part of the guard, because the counters must know it; between two looks it
// may change.
func (t *transaction) release(ctx context.Context, writes []*write) error {
	for _, status := range []tandem.Status{tandem.Pending, tandem.Processing, tandem.Pending, tandem.Processing} {
		rest := left(writes)
		if len(rest) == 0 {
			break
		}
		if err := t.query(ctx, "release requests", rest, releaseQuery, ids(rest), string(status)); err != nil {
			return err
		}
		for _, wr := range rest {
			if wr.made {
				t.Count(&wr.req, status, tandem.CallbackNone, -1)
				t.Count(&wr.req, status, wr.state, +1)
			}
		}
	}
	return nil
}

const releaseQuery = `
	UPDATE requests r SET waited = FALSE, callback_state = CASE WHEN callback_url IS NULL THEN 'none' ELSE 'pending' END
	FROM unnest($1::text[]) WITH ORDINALITY AS u(id, n)
	WHERE r.id = u.id AND r.waited AND r.status = $2
	RETURNING u.n, r.callback_state`

func (t *transaction) redeliver(ctx context.Context, writes []*write) error {
	err := t.query(ctx, "redeliver callbacks", writes, redeliverQuery, redelivered.values(writes)...)
	if err != nil {
		return err
	}
	for _, wr := range writes {
		if wr.made {
			t.Count(&wr.req, wr.req.Status, wr.req.Callback.State, -1)
			t.Count(&wr.req, wr.req.Status, tandem.CallbackPending, +1)
			t.add(deliverJob(&wr.req), nil)
		}
	}
	return nil
}

var redelivered = columns{
	text("id", func(r *tandem.Request) string { return r.ID }),
	text("status", func(r *tandem.Request) string { return string(r.Status) }),
	text("state", func(r *tandem.Request) string { return string(r.Callback.State) }),
	at("next_at", func(r *tandem.Request) time.Time { return r.Callback.NextAt }),
	at("since", func(r *tandem.Request) time.Time { return r.Callback.Since }),
	number("most", func(r *tandem.Request) int { return r.Callback.MaxAttempts }),
}

var redeliverQuery = `
	UPDATE requests r SET callback_state = 'pending', next_attempt_at = u.next_at, redelivered_at = u.since, max_attempts = u.most
	FROM ` + redelivered.numbered() + `
	WHERE r.id = u.id AND r.status = u.status AND r.callback_state = u.state
	RETURNING u.n, r.callback_state`

func (t *transaction) interrupt(ctx context.Context, writes []*write) error {
	err := t.query(ctx, "interrupt requests", writes, interruptQuery, ids(writes), column(writes, failureCode))
	for _, wr := range writes {
		wr.made = true // one that is not being processed needs nothing
	}
	return err
}

const interruptQuery = `
	UPDATE requests r SET stop_code = u.code
	FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u(id, code, n)
	WHERE r.id = u.id AND r.status = 'processing'
	RETURNING u.n, r.callback_state`

// touch proves that rows can be written.
func (t *transaction) touch(ctx context.Context, writes []*write) error {
	_, err := t.tx.Exec(ctx, `
		INSERT INTO settings (name, value) VALUES ('written_by_' || $1, now()::text)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value`, fmt.Sprint(t.shard))
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	for _, wr := range writes {
		wr.made = true
	}
	return nil
}

func failureCode(wr *write) *string {
	if wr.req.Failure == nil {
		return nil
	}
	return ptr(string(wr.req.Failure.Code))
}

func failureMessage(wr *write) *string {
	if wr.req.Failure == nil {
		return nil
	}
	return ptr(clean(wr.req.Failure.Message))
}

func failureUpstream(wr *write) *int {
	if wr.req.Failure == nil {
		return nil
	}
	return &wr.req.Failure.Upstream
}

// clean makes a message fit for a column of text, which takes UTF-8 without
// NUL.
func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// micros is a time as rows carry it: microseconds since 1970, nil for zero.
func micros(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	return ptr(t.UnixMicro())
}

func fromMicros(n *int64) time.Time {
	if n == nil {
		return time.Time{}
	}
	return time.UnixMicro(*n).UTC()
}

func ptr[T any](v T) *T { return &v }
