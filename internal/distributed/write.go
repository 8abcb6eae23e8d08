package distributed

import (
	"context"
	"sync/atomic"
	"time"

	"tandem"
	"tandem/internal/engine"
)

// Accept implements engine.Store.
func (b *Backend) Accept(ctx context.Context, req *tandem.Request) error {
	_, err := b.insertRequest(ctx, req, nil)
	return err
}

// Claim implements engine.Store.
func (b *Backend) Claim(ctx context.Context, req *tandem.Request, key engine.IdempotencyKey) (holder string, err error) {
	return b.insertRequest(ctx, req, &key)
}

// insertRequest commits a new request, and with it the key that it was submitted
// under and the job to process it. If another request holds the key, it returns
// that one's id and inserts nothing.
func (b *Backend) insertRequest(ctx context.Context, req *tandem.Request, key *engine.IdempotencyKey) (holder string, err error) {
	type outcome struct {
		holder string
		seq    int64
	}
	got := make(chan outcome, 1)
	err = b.do(ctx, &write{kind: inserting, req: *req, key: key, done: func(w *write, err error) {
		if err == nil && w.holder == "" && w.req.Status == tandem.Processing {
			b.working.add(&w.req)
		}
		got <- outcome{w.holder, w.seq}
	}})
	if err != nil {
		return "", err
	}
	o := <-got
	if o.holder == "" {
		req.Seq = o.seq
	}
	return o.holder, nil
}

// note is that a sync request has begun. It waits a moment for a write to share
// a commit with, and is dropped if the request's own outcome comes before it is
// written: that writes the whole row.
type note struct{ state atomic.Int32 }

const (
	noteWaits int32 = iota
	noteWritten
	noteDropped
)

// Begin implements engine.Store.
func (b *Backend) Begin(req *tandem.Request) {
	n := &note{}
	b.notes.Store(req.ID, n)
	b.working.add(req)
	// If the queue takes it, its outcome is of no interest: Complete writes
	// the row if this note was lost, for whatever reason.
	_ = b.post(context.Background(), &write{kind: inserting, req: *req, note: n})
}

// Start implements engine.Store.
func (b *Backend) Start(ctx context.Context, req *tandem.Request) error {
	err := b.do(ctx, &write{kind: starting, req: *req, done: func(w *write, err error) {
		if err == nil {
			w.req.Status, w.req.Starts, w.req.Epoch = tandem.Processing, w.req.Starts+1, w.req.Epoch+1
			b.working.add(&w.req)
		}
	}})
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
	err := b.do(ctx, &write{kind: requeuing, req: *req, starts: starts, done: b.noLongerWorking})
	if err == nil {
		req.Status, req.StartedAt = tandem.Pending, time.Time{}
		req.Starts -= starts
	}
	return err
}

// noLongerWorking is told that a request has left this process, or had done so
// before.
func (b *Backend) noLongerWorking(w *write, err error) {
	if err == nil || tandem.CodeOf(err) == tandem.CodeConflict {
		b.working.remove(w.req.ID)
	}
}

// Complete implements engine.Store.
func (b *Backend) Complete(ctx context.Context, req *tandem.Request) error {
	if n, ok := b.notes.LoadAndDelete(req.ID); ok {
		n.(*note).state.CompareAndSwap(noteWaits, noteDropped)
	}
	return b.work(ctx, finishing, req)
}

// Fail implements engine.Store.
func (b *Backend) Fail(ctx context.Context, req *tandem.Request) error {
	return b.work(ctx, failing, req)
}

// work makes a write that ends the work of a request, tells those who wait for
// it, and fills in what the request owes now.
func (b *Backend) work(ctx context.Context, kind kind, req *tandem.Request) error {
	got := make(chan tandem.Request, 1)
	err := b.do(ctx, &write{kind: kind, req: *req, done: func(w *write, err error) {
		b.noLongerWorking(w, err)
		if err == nil {
			b.announce(w.req.ID)
		}
		got <- w.req
	}})
	if err == nil {
		done := <-got
		req.Status, req.Callback.State, req.Callback.NextAt = done.Status, done.Callback.State, done.Callback.NextAt
	}
	return err
}

// Release implements engine.Store.
func (b *Backend) Release(ctx context.Context, req *tandem.Request) error {
	err := b.do(ctx, &write{kind: releasing, req: *req})
	if err == nil {
		req.Waited, req.Callback.State = false, tandem.CallbackNone
		if req.Callback.URL != "" {
			req.Callback.State = tandem.CallbackPending
		}
	}
	return err
}

// Redeliver implements engine.Store.
func (b *Backend) Redeliver(ctx context.Context, req *tandem.Request) error {
	err := b.do(ctx, &write{kind: redelivering, req: *req})
	if err == nil {
		req.Callback.State = tandem.CallbackPending
	}
	return err
}

// RecordAttempt implements engine.Store.
func (b *Backend) RecordAttempt(ctx context.Context, req *tandem.Request, a tandem.Attempt) error {
	return b.do(ctx, &write{kind: settling, req: *req, attempt: &a})
}

// Interrupt implements engine.Store. The row keeps what is asked, for a process
// that misses the notification.
func (b *Backend) Interrupt(ctx context.Context, id string, why tandem.FailureCode) error {
	req := tandem.Request{ID: id, Failure: &tandem.Failure{Code: why}}
	err := b.do(ctx, &write{kind: interrupting, req: req})
	if err == nil {
		b.signals.tell(stopSignal, id+" "+string(why))
	}
	return err
}

// Ready implements engine.Store. It writes: nothing else proves that it can.
func (b *Backend) Ready(ctx context.Context) error {
	return b.do(ctx, &write{kind: touching})
}
