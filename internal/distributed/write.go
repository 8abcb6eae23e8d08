package distributed

import (
	"context"
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
	w := &write{kind: inserting, req: *req, key: key}
	err = b.writer.Do(ctx, w, func(err error) {
		inserted := err == nil && w.holder == ""
		if inserted && w.req.Status == tandem.Processing {
			b.working.add(&w.req)
		}
		if w.by != nil {
			w.by.accepted(w.req, w.heldJob, inserted)
		}
	})
	if err != nil {
		return "", err
	}
	if w.holder == "" {
		req.Seq = w.seq
	}
	return w.holder, nil
}

// Begin implements engine.Store.
func (b *Backend) Begin(req *tandem.Request) {
	b.working.add(req)
	// If the queue takes it, its outcome is of no interest: Complete writes
	// the row if this note was lost, for whatever reason.
	_ = b.writer.Note(&write{kind: inserting, req: *req, note: b.notes.Add(req.ID)})
}

// Start implements engine.Store.
func (b *Backend) Start(ctx context.Context, req *tandem.Request) error {
	w := &write{kind: starting, req: *req}
	err := b.writer.Do(ctx, w, func(err error) {
		if err == nil {
			w.req.Status, w.req.Starts, w.req.Epoch = tandem.Processing, w.req.Starts+1, w.req.Epoch+1
			b.working.add(&w.req)
		}
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
	w := &write{kind: requeuing, req: *req, starts: starts, job: b.processJobs.of(req.ID)}
	err := b.writer.Do(ctx, w, func(err error) { b.noLongerWorking(w.req.ID, err) })
	if err == nil {
		req.Status, req.StartedAt = tandem.Pending, time.Time{}
		req.Starts -= starts
	}
	return err
}

// noLongerWorking is told that a request has left this process, or had done so
// before.
func (b *Backend) noLongerWorking(id string, err error) {
	if err == nil || tandem.CodeOf(err) == tandem.CodeConflict {
		b.working.remove(id)
		b.processJobs.remove(id)
	}
}

// Complete implements engine.Store.
func (b *Backend) Complete(ctx context.Context, req *tandem.Request) error {
	b.notes.Drop(req.ID)
	return b.work(ctx, finishing, req)
}

// Fail implements engine.Store.
func (b *Backend) Fail(ctx context.Context, req *tandem.Request) error {
	return b.work(ctx, failing, req)
}

// work makes a write that ends the work of a request, tells those who wait for
// it, and fills in what the request owes now.
func (b *Backend) work(ctx context.Context, kind kind, req *tandem.Request) error {
	w := &write{kind: kind, req: *req, job: b.processJobs.of(req.ID)}
	r, host, here, asked := b.here.Load(), "", false, time.Now()
	if kind == finishing {
		if host, here = r.mayDeliver(req); here {
			w.hold = b.attemptLease(req)
		}
	}
	err := b.writer.Do(ctx, w, func(err error) {
		b.noLongerWorking(w.req.ID, err)
		if err == nil {
			b.announce(w.req.ID)
		} else {
			w.heldJob = 0
		}
		if here {
			r.owes(w.req, host, w.heldJob, asked)
		}
	})
	if err == nil {
		req.Status, req.Callback.State, req.Callback.NextAt = w.req.Status, w.req.Callback.State, w.req.Callback.NextAt
	}
	return err
}

// Release implements engine.Store.
func (b *Backend) Release(ctx context.Context, req *tandem.Request) error {
	err := b.writer.Do(ctx, &write{kind: releasing, req: *req}, nil)
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
	err := b.writer.Do(ctx, &write{kind: redelivering, req: *req}, nil)
	if err == nil {
		req.Callback.State = tandem.CallbackPending
	}
	return err
}

// RecordAttempt implements engine.Store.
func (b *Backend) RecordAttempt(ctx context.Context, req *tandem.Request, a tandem.Attempt) error {
	return b.writer.Do(ctx, &write{kind: settling, req: *req, attempt: &a, job: b.deliverJobs.of(req.ID)}, nil)
}

// Interrupt implements engine.Store. The row keeps what is asked, for a process
// that misses the notification.
func (b *Backend) Interrupt(ctx context.Context, id string, why tandem.FailureCode) error {
	req := tandem.Request{ID: id, Failure: &tandem.Failure{Code: why}}
	err := b.writer.Do(ctx, &write{kind: interrupting, req: req}, nil)
	if err == nil {
		b.signals.tell(stopSignal, id+" "+string(why))
	}
	return err
}

// Ready implements engine.Store. It writes: nothing else proves that it can.
func (b *Backend) Ready(ctx context.Context) error {
	return b.writer.Do(ctx, &write{kind: touching}, nil)
}

// Watch implements engine.Store. A request that another process works is
// reported by that one's signal, or by a look at its row should that be lost.
func (b *Backend) Watch(id string) (worked <-chan struct{}, stop func()) { return b.watchers.Watch(id) }

// announce tells everybody that a request is worked.
func (b *Backend) announce(id string) {
	b.watchers.Tell(id)
	b.signals.tell(workedSignal, id)
}
