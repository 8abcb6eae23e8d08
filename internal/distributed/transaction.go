package distributed

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"tandem"
	"tandem/internal/engine"
)

// transaction is one batch under way: the jobs that its rows give rise to, and
// the changes to the counters, which are written once at its end.
type transaction struct {
	tx      pgx.Tx
	w       *writer
	shard   int
	room    int64 // that it has taken
	pending int64 // by which the requests that wait become more

	jobs     []river.InsertManyParams
	requests map[standing]change
	errors   map[category]int64
	pruned   map[string]int64 // by owner
}

// standing is what the request counters are keyed by.
type standing struct {
	owner    string
	mode     tandem.Mode
	status   tandem.Status
	callback tandem.CallbackState
}

type change struct{ requests, processingMicros int64 }

type category struct{ owner, source, name string }

func newTransaction(tx pgx.Tx, w *writer, shard int) *transaction {
	return &transaction{tx: tx, w: w, shard: shard, requests: make(map[standing]change), errors: make(map[category]int64), pruned: make(map[string]int64)}
}

// run makes the writes, kind by kind.
func (t *transaction) run(ctx context.Context, batch []*write) error {
	var byKind [lastKind + 1][]*write
	for _, wr := range batch {
		wr.made, wr.answer, wr.holder = false, nil, "" // it may have been tried before
		if wr.note != nil {
			wr.note.state.CompareAndSwap(noteWaits, noteWritten)
			if wr.note.state.Load() == noteDropped {
				continue
			}
		}
		byKind[wr.kind] = append(byKind[wr.kind], wr)
	}
	steps := [lastKind + 1]func(context.Context, []*write) error{
		inserting: t.insert, starting: t.start, requeuing: t.requeue, finishing: t.finish, failing: t.fail,
		releasing: t.release, redelivering: t.redeliver, settling: t.settle, interrupting: t.interrupt, touching: t.touch,
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
				wr.answer = errMovedOn
			}
		}
	}
	if len(t.jobs) > 0 {
		if _, err := t.w.insert.InsertManyFastTx(ctx, t.tx, t.jobs); err != nil {
			return fmt.Errorf("insert jobs: %w", err)
		}
	}
	return t.writeCounters(ctx)
}

var errMovedOn = &tandem.Error{Code: tandem.CodeConflict, Message: "the request has moved on"}

// query runs a statement that returns, for each write that it made, its place in
// writes and the state of its callback.
func (t *transaction) query(ctx context.Context, what string, writes []*write, sql string, args ...any) error {
	rows, err := t.tx.Query(ctx, sql, args...)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	var n int
	var state tandem.CallbackState
	_, err = pgx.ForEachRow(rows, []any{&n, &state}, func() error {
		writes[n-1].made, writes[n-1].state = true, state
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
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

// insert makes new requests, and the jobs to process those that wait. Those that
// come with an Idempotency-Key that another request holds are not made.
func (t *transaction) insert(ctx context.Context, writes []*write) error {
	var free int64 // of room for requests that wait
	for _, wr := range writes {
		if wr.req.Status == tandem.Pending {
			free++
		}
	}
	if free > 0 {
		var err error
		if free, err = t.w.room.take(ctx, t.tx, free); err != nil {
			return err
		}
		t.room = free
	}
	if err := t.claim(ctx, writes, &free); err != nil {
		return err
	}
	var admitted []*write
	for _, wr := range writes {
		switch {
		case wr.answer != nil || wr.holder != "":
		case wr.key == nil && wr.req.Status == tandem.Pending && free <= 0:
			wr.answer = errFull
		default:
			if wr.key == nil && wr.req.Status == tandem.Pending {
				free--
			}
			admitted = append(admitted, wr)
		}
	}
	if len(admitted) == 0 {
		return nil
	}
	if err := t.insertRows(ctx, admitted); err != nil {
		return err
	}
	for _, wr := range admitted {
		if !wr.made {
			continue // a note whose request has its outcome
		}
		t.count(&wr.req, wr.req.Status, wr.req.Callback.State, +1)
		if wr.req.Mode == tandem.Async && wr.req.Status == tandem.Pending {
			t.jobs = append(t.jobs, processJob(&wr.req))
		}
	}
	return nil
}

var errFull = &tandem.Error{Code: tandem.CodeBusy, Message: "the backlog is full", RetryAfter: 5 * time.Second}

// claim takes the keys of those writes that have one. They go in order, so that
// no two processes wait for each other's keys. One that there is no room for
// takes no key, but is told who holds it.
func (t *transaction) claim(ctx context.Context, writes []*write, free *int64) error {
	var keyed, held []*write
	for _, wr := range writes {
		switch {
		case wr.key == nil:
		case wr.req.Status == tandem.Pending && *free == 0:
			held = append(held, wr)
		default:
			if wr.req.Status == tandem.Pending {
				*free--
			}
			keyed = append(keyed, wr)
		}
	}
	if len(keyed) == 0 {
		return t.findHolders(ctx, held)
	}
	slices.SortFunc(keyed, func(a, b *write) int {
		return cmp.Or(strings.Compare(a.req.Owner, b.req.Owner), strings.Compare(a.key.Key, b.key.Key))
	})
	rows, err := t.tx.Query(ctx, `
		INSERT INTO idempotency_keys AS k (owner, key, fingerprint, request_id, created_at)
		SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::bigint[])
		ON CONFLICT (owner, key) DO UPDATE SET fingerprint = excluded.fingerprint,
			request_id = excluded.request_id, created_at = excluded.created_at
		WHERE k.created_at < $6
		RETURNING request_id`,
		column(keyed, func(wr *write) string { return wr.req.Owner }),
		column(keyed, func(wr *write) string { return wr.key.Key }),
		column(keyed, func(wr *write) []byte { return wr.key.Fingerprint[:] }), ids(keyed),
		column(keyed, func(wr *write) int64 { return wr.req.CreatedAt.UnixMicro() }),
		t.w.now().Add(-engine.IdempotencyKept).UnixMicro())
	if err != nil {
		return fmt.Errorf("claim idempotency keys: %w", err)
	}
	taken, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("claim idempotency keys: %w", err)
	}
	got := make(map[string]bool, len(taken))
	for _, id := range taken {
		got[id] = true
	}
	for _, wr := range keyed {
		if got[wr.req.ID] {
			continue
		}
		held = append(held, wr)
		if wr.req.Status == tandem.Pending {
			*free++
		}
	}
	return t.findHolders(ctx, held)
}

// findHolders answers those writes whose key could not be taken.
func (t *transaction) findHolders(ctx context.Context, writes []*write) error {
	for _, wr := range writes {
		id, fingerprint, err := holderOf(ctx, t.tx, wr.req.Owner, wr.key.Key, t.w.now())
		switch {
		case err != nil:
			return err
		case id == "":
			wr.answer = errFull
		case !bytes.Equal(fingerprint, wr.key.Fingerprint[:]):
			wr.answer = engine.ErrKeyReused
		default:
			wr.holder = id
		}
	}
	return nil
}

func (t *transaction) insertRows(ctx context.Context, writes []*write) error {
	text := func(of func(*tandem.Request) string) []string {
		return column(writes, func(wr *write) string { return of(&wr.req) })
	}
	optional := func(of func(*tandem.Request) string) []*string {
		return column(writes, func(wr *write) *string {
			if s := of(&wr.req); s != "" {
				return &s
			}
			return nil
		})
	}
	number := func(of func(*tandem.Request) int) []int {
		return column(writes, func(wr *write) int { return of(&wr.req) })
	}
	at := func(of func(*tandem.Request) time.Time) []*int64 {
		return column(writes, func(wr *write) *int64 { return micros(of(&wr.req)) })
	}
	rows, err := t.tx.Query(ctx, `
		INSERT INTO requests (id, owner, mode, status, lane, workload, complexity, data,
			callback_url, callback_host, callback_state, max_attempts, callback_options,
			created_at, started_at, worked_at, not_before, expires_at, starts, epoch, waited,
			result, failure_code, failure_message, failure_upstream, started_by)
		SELECT u.*, $26 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::bytea[],
			$9::text[], $10::text[], $11::text[], $12::int[], $13::text[],
			$14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::int[], $20::int[], $21::boolean[],
			$22::bytea[], $23::text[], $24::text[], $25::int[]) AS u
		ON CONFLICT (id) DO NOTHING
		RETURNING id, seq`,
		ids(writes),
		text(func(r *tandem.Request) string { return r.Owner }),
		text(func(r *tandem.Request) string { return string(r.Mode) }),
		text(func(r *tandem.Request) string { return string(r.Status) }),
		text(func(r *tandem.Request) string { return r.Lane }),
		text(func(r *tandem.Request) string { return r.Workload }),
		number(func(r *tandem.Request) int { return r.Complexity }),
		column(writes, func(wr *write) []byte { return wr.req.Data }),
		optional(func(r *tandem.Request) string { return r.Callback.URL }),
		optional(func(r *tandem.Request) string {
			if r.Callback.URL == "" {
				return ""
			}
			return engine.HostOf(r.Callback.URL)
		}),
		text(func(r *tandem.Request) string { return string(r.Callback.State) }),
		number(func(r *tandem.Request) int { return r.Callback.MaxAttempts }),
		optional(func(r *tandem.Request) string { return optionsOf(&r.Callback) }),
		at(func(r *tandem.Request) time.Time { return r.CreatedAt }),
		at(func(r *tandem.Request) time.Time { return r.StartedAt }),
		at(func(r *tandem.Request) time.Time { return r.WorkedAt }),
		at(func(r *tandem.Request) time.Time { return r.NotBefore }),
		at(func(r *tandem.Request) time.Time { return r.ExpiresAt }),
		number(func(r *tandem.Request) int { return r.Starts }),
		number(func(r *tandem.Request) int { return r.Epoch }),
		column(writes, func(wr *write) bool { return wr.req.Waited }),
		column(writes, func(wr *write) []byte { return wr.req.Result }),
		column(writes, failureCode), column(writes, failureMessage), column(writes, failureUpstream), t.w.name)
	if err != nil {
		return fmt.Errorf("insert requests: %w", err)
	}
	byID := make(map[string]*write, len(writes))
	for _, wr := range writes {
		byID[wr.req.ID] = wr
	}
	var id string
	var seq int64
	_, err = pgx.ForEachRow(rows, []any{&id, &seq}, func() error {
		byID[id].made, byID[id].seq = true, seq
		return nil
	})
	if err != nil {
		return fmt.Errorf("insert requests: %w", err)
	}
	return nil
}

func (t *transaction) start(ctx context.Context, writes []*write) error {
	err := t.query(ctx, "start requests", writes, startQuery, ids(writes), epochs(writes),
		column(writes, func(wr *write) *int64 { return micros(wr.req.StartedAt) }), t.w.name)
	t.moved(writes, tandem.Pending, tandem.Processing)
	return err
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
			t.count(&wr.req, from, wr.state, -1)
			t.count(&wr.req, to, wr.state, +1)
		}
	}
}

// finish records outcomes. A sync request that is not on record yet is inserted
// with its outcome. One that was waited for may have been released meanwhile,
// and owes a callback then.
func (t *transaction) finish(ctx context.Context, writes []*write) error {
	finish := func(writes []*write) error {
		if len(writes) == 0 {
			return nil
		}
		err := t.query(ctx, "record outcomes", writes, finishQuery, ids(writes), epochs(writes),
			column(writes, func(wr *write) string { return string(wr.req.Status) }),
			column(writes, func(wr *write) *int64 { return micros(wr.req.StartedAt) }),
			column(writes, func(wr *write) *int64 { return micros(wr.req.WorkedAt) }),
			column(writes, func(wr *write) []byte { return wr.req.Result }),
			column(writes, failureCode), column(writes, failureMessage), column(writes, failureUpstream),
			column(writes, dueAt))
		for _, wr := range writes {
			if wr.made {
				t.count(&wr.req, tandem.Processing, wr.state, -1)
			}
		}
		return err
	}
	if err := finish(writes); err != nil {
		return err
	}
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
		// Those that are on record after all: another writer has committed their
		// beginning since the first statement looked.
		if err := finish(left(sync)); err != nil {
			return err
		}
	}
	for _, wr := range writes {
		if wr.made {
			t.worked(wr)
		}
	}
	return nil
}

const finishQuery = `
	UPDATE requests r SET status = u.status, started_at = u.started_at, worked_at = u.worked_at, result = u.result,
		failure_code = u.code, failure_message = u.message, failure_upstream = u.upstream,
		next_attempt_at = CASE WHEN r.callback_state = 'pending' THEN u.due END
	FROM unnest($1::text[], $2::int[], $3::text[], $4::bigint[], $5::bigint[], $6::bytea[],
		$7::text[], $8::text[], $9::int[], $10::bigint[])
		WITH ORDINALITY AS u(id, epoch, status, started_at, worked_at, result, code, message, upstream, due, n)
	WHERE r.id = u.id AND r.status = 'processing' AND r.epoch = u.epoch
	RETURNING u.n, r.callback_state`

// fail moves requests from pending to failed.
func (t *transaction) fail(ctx context.Context, writes []*write) error {
	err := t.query(ctx, "fail requests", writes, failQuery, ids(writes), epochs(writes),
		column(writes, func(wr *write) *int64 { return micros(wr.req.WorkedAt) }),
		column(writes, failureCode), column(writes, failureMessage), column(writes, dueAt))
	if err != nil {
		return err
	}
	for _, wr := range writes {
		if wr.made {
			t.count(&wr.req, tandem.Pending, wr.state, -1)
			wr.req.Status = tandem.Failed
			t.worked(wr)
		}
	}
	return nil
}

const failQuery = `
	UPDATE requests r SET status = 'failed', worked_at = u.worked_at,
		failure_code = u.code, failure_message = u.message, failure_upstream = 0,
		next_attempt_at = CASE WHEN r.callback_state = 'pending' THEN u.due END
	FROM unnest($1::text[], $2::int[], $3::bigint[], $4::text[], $5::text[], $6::bigint[])
		WITH ORDINALITY AS u(id, epoch, worked_at, code, message, due, n)
	WHERE r.id = u.id AND r.status = 'pending' AND r.epoch = u.epoch
	RETURNING u.n, r.callback_state`

// worked counts a request that has its outcome, and owes the callback it may
// have.
func (t *transaction) worked(wr *write) {
	req := &wr.req
	req.Callback.State = wr.state
	t.count(req, req.Status, wr.state, +1)
	if req.Failure != nil {
		t.countError(req, "work", string(req.Failure.Code))
	}
	req.Callback.NextAt = time.Time{}
	if wr.state == tandem.CallbackPending {
		req.Callback.NextAt = time.UnixMicro(*dueAt(wr)).UTC()
		t.jobs = append(t.jobs, deliverJob(req))
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
				t.count(&wr.req, status, tandem.CallbackNone, -1)
				t.count(&wr.req, status, wr.state, +1)
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
	err := t.query(ctx, "redeliver callbacks", writes, redeliverQuery, ids(writes),
		column(writes, func(wr *write) string { return string(wr.req.Status) }),
		column(writes, func(wr *write) string { return string(wr.req.Callback.State) }),
		column(writes, func(wr *write) *int64 { return micros(wr.req.Callback.NextAt) }),
		column(writes, func(wr *write) *int64 { return micros(wr.req.Callback.Since) }),
		column(writes, func(wr *write) int { return wr.req.Callback.MaxAttempts }))
	if err != nil {
		return err
	}
	for _, wr := range writes {
		if wr.made {
			t.count(&wr.req, wr.req.Status, wr.req.Callback.State, -1)
			t.count(&wr.req, wr.req.Status, tandem.CallbackPending, +1)
			t.jobs = append(t.jobs, deliverJob(&wr.req))
		}
	}
	return nil
}

const redeliverQuery = `
	UPDATE requests r SET callback_state = 'pending', next_attempt_at = u.next, redelivered_at = u.since, max_attempts = u.most
	FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::int[])
		WITH ORDINALITY AS u(id, status, state, next, since, most, n)
	WHERE r.id = u.id AND r.status = u.status AND r.callback_state = u.state
	RETURNING u.n, r.callback_state`

// settle records delivery attempts. Of a callback that is delivered anew, the
// status before is one of those that its outcome has; the counters must know
// which.
func (t *transaction) settle(ctx context.Context, writes []*write) error {
	before := make(map[*write]tandem.Status, len(writes))
	guess := func(writes []*write, of func(*tandem.Request) tandem.Status) error {
		if len(writes) == 0 {
			return nil
		}
		for _, wr := range writes {
			before[wr] = of(&wr.req)
		}
		return t.query(ctx, "record attempts", writes, settleQuery, ids(writes),
			column(writes, func(wr *write) string { return string(before[wr]) }),
			column(writes, func(wr *write) int { return wr.attempt.Number - 1 }),
			column(writes, func(wr *write) string { return string(wr.req.Status) }),
			column(writes, func(wr *write) string { return string(wr.req.Callback.State) }),
			column(writes, func(wr *write) int { return wr.req.Callback.Attempts }),
			column(writes, func(wr *write) *int64 { return micros(wr.req.Callback.NextAt) }),
			column(writes, func(wr *write) int { return wr.req.Callback.LastStatus }),
			column(writes, func(wr *write) string { return clean(wr.req.Callback.LastError) }))
	}
	err := guess(writes, func(req *tandem.Request) tandem.Status {
		switch {
		case req.Failure != nil:
			return tandem.Failed
		case req.Callback.Since.IsZero():
			return tandem.Completed
		default:
			return req.Status
		}
	})
	if err != nil {
		return err
	}
	var anew []*write
	for _, wr := range left(writes) {
		if !wr.req.Callback.Since.IsZero() && wr.req.Status == tandem.CallbackSent {
			anew = append(anew, wr)
		}
	}
	if err := guess(anew, func(*tandem.Request) tandem.Status { return tandem.CallbackFailed }); err != nil {
		return err
	}
	var made []*write
	for _, wr := range writes {
		if !wr.made {
			continue
		}
		made = append(made, wr)
		t.count(&wr.req, before[wr], tandem.CallbackPending, -1)
		t.count(&wr.req, wr.req.Status, wr.req.Callback.State, +1)
		if wr.attempt.Class != tandem.ClassNone {
			t.countError(&wr.req, "callback", string(wr.attempt.Class))
		}
	}
	return t.insertAttempts(ctx, made)
}

const settleQuery = `
	UPDATE requests r SET status = u.status, callback_state = u.state, attempts = u.attempts,
		next_attempt_at = u.next, last_status = u.last_status, last_error = u.last_error
	FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::text[], $6::int[], $7::bigint[], $8::int[], $9::text[])
		WITH ORDINALITY AS u(id, before, made, status, state, attempts, next, last_status, last_error, n)
	WHERE r.id = u.id AND r.status = u.before AND r.callback_state = 'pending' AND r.attempts = u.made
	RETURNING u.n, r.callback_state`

func (t *transaction) insertAttempts(ctx context.Context, writes []*write) error {
	if len(writes) == 0 {
		return nil
	}
	_, err := t.tx.Exec(ctx, `
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
	if err != nil {
		return fmt.Errorf("insert attempts: %w", err)
	}
	return nil
}

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

// count adds n requests that stand as req does with the given status and
// callback state.
func (t *transaction) count(req *tandem.Request, status tandem.Status, cb tandem.CallbackState, n int64) {
	key := standing{req.Owner, req.Mode, status, cb}
	c := t.requests[key]
	c.requests += n
	if status.Worked() {
		c.processingMicros += n * req.ProcessingTime().Microseconds()
	}
	t.requests[key] = c
	if req.Mode == tandem.Async && status == tandem.Pending {
		t.pending += n
	}
}

func (t *transaction) countError(req *tandem.Request, source, name string) {
	t.errors[category{req.Owner, source, name}]++
}

// writeCounters writes in the order of the keys, so that no two transactions
// wait for each other's rows.
func (t *transaction) writeCounters(ctx context.Context) error {
	var owners, modes, statuses, states []string
	var requests, processing []int64
	for _, key := range sortedKeys(t.requests, func(a, b standing) int {
		return cmp.Or(cmp.Compare(a.owner, b.owner), cmp.Compare(a.mode, b.mode), cmp.Compare(a.status, b.status), cmp.Compare(a.callback, b.callback))
	}) {
		if c := t.requests[key]; c != (change{}) {
			owners, modes = append(owners, key.owner), append(modes, string(key.mode))
			statuses, states = append(statuses, string(key.status)), append(states, string(key.callback))
			requests, processing = append(requests, c.requests), append(processing, c.processingMicros)
		}
	}
	if len(owners) > 0 {
		_, err := t.tx.Exec(ctx, `
			INSERT INTO request_counters AS c (owner, mode, status, callback_state, requests, processing_us, shard)
			SELECT u.*, $7 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[]) AS u
			ON CONFLICT (owner, mode, status, callback_state, shard) DO UPDATE
			SET requests = c.requests + excluded.requests, processing_us = c.processing_us + excluded.processing_us`,
			owners, modes, statuses, states, requests, processing, t.shard)
		if err != nil {
			return fmt.Errorf("count requests: %w", err)
		}
	}
	for _, owner := range sortedKeys(t.pruned, cmp.Compare) {
		_, err := t.tx.Exec(ctx, `
			INSERT INTO pruned_counters AS c (owner, pruned, shard) VALUES ($1, $2, $3)
			ON CONFLICT (owner, shard) DO UPDATE SET pruned = c.pruned + excluded.pruned`, owner, t.pruned[owner], t.shard)
		if err != nil {
			return fmt.Errorf("count deleted requests: %w", err)
		}
	}
	if len(t.errors) == 0 {
		return nil
	}
	var owner, source, name []string
	var n []int64
	for _, key := range sortedKeys(t.errors, func(a, b category) int {
		return cmp.Or(cmp.Compare(a.owner, b.owner), cmp.Compare(a.source, b.source), cmp.Compare(a.name, b.name))
	}) {
		owner, source, name, n = append(owner, key.owner), append(source, key.source), append(name, key.name), append(n, t.errors[key])
	}
	_, err := t.tx.Exec(ctx, `
		INSERT INTO error_counters AS c (owner, source, category, errors, shard)
		SELECT u.*, $5 FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS u
		ON CONFLICT (owner, source, category, shard) DO UPDATE SET errors = c.errors + excluded.errors`,
		owner, source, name, n, t.shard)
	if err != nil {
		return fmt.Errorf("count errors: %w", err)
	}
	return nil
}

func sortedKeys[K comparable, V any](m map[K]V, by func(a, b K) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, by)
	return keys
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

// callbackOptions is the form of the column callback_options.
type callbackOptions struct {
	TimeoutMS int64             `json:"timeout_ms,omitempty"`
	Header    map[string]string `json:"header,omitempty"`
}

// optionsOf returns the column of a callback, "" for NULL.
func optionsOf(cb *tandem.Callback) string {
	if cb.Timeout == 0 && len(cb.Header) == 0 {
		return ""
	}
	text, err := json.Marshal(callbackOptions{cb.Timeout.Milliseconds(), cb.Header})
	if err != nil {
		panic(err) // unreachable: a number and strings
	}
	return string(text)
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
