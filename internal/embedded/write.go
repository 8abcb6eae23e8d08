package embedded

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

// Accept implements engine.Store.
func (b *Backend) Accept(ctx context.Context, req *tandem.Request) error {
	_, err := b.insert(ctx, req, nil)
	return err
}

// Claim implements engine.Store.
func (b *Backend) Claim(ctx context.Context, req *tandem.Request, key engine.IdempotencyKey) (holder string, err error) {
	return b.insert(ctx, req, &key)
}

// insert commits a new request, and with it the key that it was submitted
// under. If another request holds the key, it returns that one's id and inserts
// nothing. A request that may be worked at once is started in the same write.
func (b *Backend) insert(ctx context.Context, req *tandem.Request, key *engine.IdempotencyKey) (holder string, err error) {
	row := *req // the caller may be gone by the time it is written
	r := b.runner.Load()
	started := r.mayStart(req)
	if started {
		row.Status, row.StartedAt, row.Starts, row.Epoch = tandem.Processing, b.now(), req.Starts+1, req.Epoch+1
	}
	held := ""
	err = b.writer.Do(ctx, func(t *transaction) (err error) {
		held = ""
		if key != nil {
			if held, err = t.holder(&row, key, b.now()); err != nil || held != "" {
				return err
			}
		}
		if row.Status == tandem.Pending && t.Pending >= t.room {
			return engine.ErrFull
		}
		if err := t.write(&t.insert, &row.Seq, insertArgs(&row)...); err != nil {
			return err
		}
		if key != nil {
			if _, err := t.claim.Exec(row.Owner, key.Key, key.Fingerprint[:], row.ID, micros(row.CreatedAt)); err != nil {
				return err
			}
		}
		t.Count(&row, row.Status, row.Callback.State, +1)
		return nil
	}, func(err error) {
		inserted, queued := err == nil && held == "", row // a copy to work on
		switch {
		case started:
			r.accepted(&queued, inserted)
		case inserted && row.Status == tandem.Pending:
			// On the writer's goroutine, so that the backlog sees requests in
			// the order of Seq.
			b.backlogs[row.Lane].push(&queued)
		}
	})
	if err != nil {
		return "", err
	}
	if held == "" {
		req.Seq = row.Seq
	}
	return held, nil
}

// holder returns the id of the request that an Idempotency-Key stands for, or
// "" if it is free. It is CodeInvalid if that was another request.
func (t *transaction) holder(req *tandem.Request, key *engine.IdempotencyKey, now time.Time) (id string, err error) {
	var fingerprint []byte
	err = t.holds.QueryRow(req.Owner, key.Key, micros(now.Add(-engine.IdempotencyKept))).Scan(&id, &fingerprint)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err == nil && !bytes.Equal(fingerprint, key.Fingerprint[:]) {
		return "", engine.ErrKeyReused
	}
	return id, err
}

// Holder implements engine.Store.
func (b *Backend) Holder(ctx context.Context, owner string, key engine.IdempotencyKey) (id string, err error) {
	var fingerprint []byte
	err = b.read.QueryRowContext(ctx, holdsQuery, owner, key.Key, micros(b.now().Add(-engine.IdempotencyKept))).Scan(&id, &fingerprint)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read idempotency key: %w", err)
	}
	if !bytes.Equal(fingerprint, key.Fingerprint[:]) {
		return "", engine.ErrKeyReused
	}
	return id, nil
}

// forgetKeys deletes Idempotency-Keys that are too old to be kept.
func (b *Backend) forgetKeys(ctx context.Context) error {
	return b.do(ctx, func(t *transaction) error {
		_, err := t.forget.Exec(micros(b.now().Add(-engine.IdempotencyKept)))
		return err
	})
}

// Fail implements engine.Store.
func (b *Backend) Fail(ctx context.Context, req *tandem.Request) error {
	row := *req // the caller may be gone by the time it is written
	err := b.owe(ctx, &row, func(t *transaction) error {
		f := row.Failure
		if err := t.readState(&row); err != nil {
			return err
		}
		if row.Waited && row.Callback.State == tandem.CallbackPending {
			row.Callback.NextAt = b.opts.Now()
		}
		if err := t.changed(t.fail, micros(row.WorkedAt), string(f.Code), f.Message, micros(row.Callback.NextAt), row.ID, row.Epoch); err != nil {
			return err
		}
		t.Count(&row, tandem.Pending, row.Callback.State, -1)
		t.Count(&row, tandem.Failed, row.Callback.State, +1)
		t.CountError(&row, "work", string(f.Code))
		return nil
	}, func() {
		row.Status = tandem.Failed
		b.watchers.Tell(row.ID)
	})
	if err == nil {
		req.Status, req.Callback = row.Status, row.Callback
	}
	return err
}

// Release implements engine.Store.
func (b *Backend) Release(ctx context.Context, req *tandem.Request) error {
	state := tandem.CallbackNone
	if req.Callback.URL != "" {
		state = tandem.CallbackPending
	}
	err := b.do(ctx, func(t *transaction) error {
		var status tandem.Status
		if err := t.read(t.statusOf, req.ID, &status); err != nil {
			return err
		}
		if err := t.changed(t.release, string(state), req.ID); err != nil {
			return err
		}
		t.Count(req, status, tandem.CallbackNone, -1)
		t.Count(req, status, state, +1)
		return nil
	})
	if err == nil {
		req.Waited, req.Callback.State = false, state
	}
	return err
}

// Redeliver implements engine.Store.
func (b *Backend) Redeliver(ctx context.Context, req *tandem.Request) error {
	row := *req // the caller may be gone by the time it is written
	err := b.owe(ctx, &row, func(t *transaction) error {
		cb := &row.Callback
		if err := t.changed(t.redeliver, micros(cb.NextAt), micros(cb.Since), cb.MaxAttempts, row.ID, string(row.Status), string(cb.State)); err != nil {
			return err
		}
		t.Count(&row, row.Status, cb.State, -1)
		t.Count(&row, row.Status, tandem.CallbackPending, +1)
		return nil
	}, func() { row.Callback.State = tandem.CallbackPending })
	if err == nil {
		req.Callback.State = tandem.CallbackPending
	}
	return err
}

// Begin implements engine.Store.
func (b *Backend) Begin(req *tandem.Request) {
	row, n := *req, b.notes.Add(req.ID)
	// If the queue takes it, its outcome is of no interest: Complete writes
	// the row if this note was lost, for whatever reason.
	_ = b.writer.Note(func(t *transaction) error {
		if !n.Take() {
			return nil
		}
		if err := t.write(&t.insert, nil, insertArgs(&row)...); err != nil {
			return err
		}
		t.Count(&row, row.Status, row.Callback.State, +1)
		return nil
	})
}

// Start implements engine.Store.
func (b *Backend) Start(ctx context.Context, req *tandem.Request) error {
	err := b.do(ctx, func(t *transaction) error {
		if err := t.readState(req); err != nil {
			return err
		}
		if err := t.write(&t.start, nil, micros(req.StartedAt), req.ID, req.Epoch); err != nil {
			return err
		}
		t.Count(req, tandem.Pending, req.Callback.State, -1)
		t.Count(req, tandem.Processing, req.Callback.State, +1)
		return nil
	})
	if err == nil {
		req.Status = tandem.Processing
		req.Starts++
		req.Epoch++
	}
	return err
}

// Requeue implements engine.Store.
func (b *Backend) Requeue(ctx context.Context, req *tandem.Request) error {
	return b.requeue(ctx, req, 1)
}

// requeue makes a started request pending again and takes back so many of its
// starts.
func (b *Backend) requeue(ctx context.Context, req *tandem.Request, starts int) error {
	err := b.do(ctx, func(t *transaction) error {
		if err := t.readState(req); err != nil {
			return err
		}
		if err := t.changed(t.requeue, starts, req.ID, req.Epoch); err != nil {
			return err
		}
		t.Count(req, tandem.Processing, req.Callback.State, -1)
		t.Count(req, tandem.Pending, req.Callback.State, +1)
		return nil
	})
	if err == nil {
		req.Status, req.StartedAt = tandem.Pending, time.Time{}
		req.Starts -= starts
	}
	return err
}

// Complete implements engine.Store.
func (b *Backend) Complete(ctx context.Context, req *tandem.Request) error {
	noted := !b.notes.Drop(req.ID)
	err := b.do(ctx, func(t *transaction) error {
		if err := t.readState(req); err != nil {
			return err
		}
		if req.Waited {
			req.Callback.NextAt = time.Time{}
			if req.Callback.State == tandem.CallbackPending {
				req.Callback.NextAt = b.opts.Now()
			}
		}
		insert := !noted
		if noted {
			err := t.write(&t.finish, nil, finishArgs(req)...)
			switch {
			case err == nil:
				t.Count(req, tandem.Processing, req.Callback.State, -1)
			case tandem.CodeOf(err) == tandem.CodeConflict && req.Mode == tandem.Sync:
				insert = true // the note was lost, or the request has an outcome
			default:
				return err
			}
		}
		if insert {
			if err := t.write(&t.insert, nil, insertArgs(req)...); err != nil {
				return err
			}
		}
		t.Count(req, req.Status, req.Callback.State, +1)
		if req.Failure != nil {
			t.CountError(req, "work", string(req.Failure.Code))
		}
		return nil
	})
	if err == nil {
		b.watchers.Tell(req.ID)
	}
	return err
}

// RecordAttempt implements engine.Store.
func (b *Backend) RecordAttempt(ctx context.Context, req *tandem.Request, a tandem.Attempt) error {
	before := tandem.Completed
	if req.Failure != nil {
		before = tandem.Failed
	}
	return b.do(ctx, func(t *transaction) error {
		cb := &req.Callback
		if !cb.Since.IsZero() { // it was settled before
			if err := t.read(t.statusOf, req.ID, &before); err != nil {
				return err
			}
		}
		err := t.write(&t.settle, nil, string(req.Status), string(cb.State), cb.Attempts, micros(cb.NextAt),
			cb.LastStatus, cb.LastError, req.ID, string(before), a.Number-1)
		if err != nil {
			return err
		}
		err = t.write(&t.insertAttempt, nil, req.ID, a.Number, micros(a.At), a.Duration.Microseconds(),
			a.Status, string(a.Class), a.Error, a.Answer)
		if err != nil {
			return err
		}
		t.Count(req, before, tandem.CallbackPending, -1)
		t.Count(req, req.Status, cb.State, +1)
		if a.Class != tandem.ClassNone {
			t.CountError(req, "callback", string(a.Class))
		}
		return nil
	})
}

// Interrupt implements engine.Store. No other process works a request of this
// file.
func (b *Backend) Interrupt(context.Context, string, tandem.FailureCode) error { return nil }

// Ready implements engine.Store. It writes: nothing else proves that it can.
// What it writes is new each time, because SQLite leaves the file alone when a
// page stays the same.
func (b *Backend) Ready(ctx context.Context) error {
	return b.do(ctx, func(t *transaction) error {
		_, err := t.touch.Exec(time.Now().UnixMicro())
		return err
	})
}

// Watch implements engine.Store.
func (b *Backend) Watch(id string) (worked <-chan struct{}, stop func()) { return b.watchers.Watch(id) }

// do queues a change and waits for its commit.
func (b *Backend) do(ctx context.Context, apply change) error {
	return b.writer.Do(ctx, apply, nil)
}

// owe queues a change after which the request may owe its callback, and waits for
// its commit. What follows from that is done even if the caller has left by then:
// first then, which must not block.
func (b *Backend) owe(ctx context.Context, row *tandem.Request, apply change, then func()) error {
	hasCallback := row.Callback.URL != ""
	if hasCallback {
		b.deliveries.hold(row.ID)
	}
	return b.writer.Do(ctx, apply, func(err error) {
		if err == nil {
			then()
		}
		switch {
		case !hasCallback:
		case err == nil && !row.Callback.NextAt.IsZero():
			owed := *row
			b.deliveries.push(&owed)
		default:
			b.deliveries.leave(row.ID, engine.HostOf(row.Callback.URL), 0)
		}
	})
}

func insertArgs(req *tandem.Request) []any {
	cb := &req.Callback
	var url, host any
	if cb.URL != "" {
		url, host = cb.URL, engine.HostOf(cb.URL)
	}
	var code, message, upstream any
	if f := req.Failure; f != nil {
		code, message, upstream = string(f.Code), f.Message, f.Upstream
	}
	var options any
	if text := store.CallbackOptions(cb); text != "" {
		options = text
	}
	return []any{
		req.ID, req.Owner, string(req.Mode), string(req.Status), req.Lane, req.Workload, req.Complexity, string(req.Data),
		url, host, string(cb.State), cb.MaxAttempts,
		micros(req.CreatedAt), micros(req.StartedAt), req.Starts, req.Epoch,
		micros(req.WorkedAt), text(req.Result), code, message, upstream,
		micros(req.NotBefore), micros(req.ExpiresAt), options, req.Waited,
	}
}

func finishArgs(req *tandem.Request) []any {
	var code, message, upstream any
	if f := req.Failure; f != nil {
		code, message, upstream = string(f.Code), f.Message, f.Upstream
	}
	return []any{
		string(req.Status), micros(req.StartedAt), micros(req.WorkedAt), text(req.Result),
		code, message, upstream, micros(req.Callback.NextAt),
		req.ID, req.Epoch,
	}
}

// micros is a time as rows carry it: microseconds since 1970, NULL for zero.
func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

func text(b []byte) any {
	if b == nil {
		return nil
	}
	return string(b)
}

func fromMicros(n sql.NullInt64) time.Time {
	if !n.Valid {
		return time.Time{}
	}
	return time.UnixMicro(n.Int64).UTC()
}
