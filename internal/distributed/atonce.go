package distributed

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

// A step that may be taken at once is taken by the process that has made it due,
// without the way through the queue: a request is started by the transaction that
// accepts it, if a slot is free for it here, and its attempt is taken by the
// transaction that records its outcome, if there is room to make it here. So the
// job is not fetched and not completed, and the row not read, leased or started
// by a transaction of its own.
//
// The job comes in the same transaction all the same, but is held: River does not
// give it away before the time at which this process counts as dead. What ends
// the step deletes its job in its own transaction, or makes another that is due.

// ownJobs are the jobs of this process by the ids of their requests, those of one
// kind.
type ownJobs struct{ byRequest sync.Map }

// ownJob is a job that is held for this process, or that River has given to it.
type ownJob struct {
	id   int64
	held bool
}

func (o *ownJobs) put(request string, job ownJob) { o.byRequest.Store(request, job) }

func (o *ownJobs) remove(request string) { o.byRequest.Delete(request) }

// of returns the job of a request, the zero one if there is none.
func (o *ownJobs) of(request string) ownJob {
	job, _ := o.byRequest.Load(request)
	own, _ := job.(ownJob)
	return own
}

// mayStart reserves a slot for a request that is being accepted, if there is one
// free and nothing that was accepted before waits for it. What becomes of the
// request is told to accepted.
func (r *runner) mayStart(req *tandem.Request) bool {
	if r == nil || r.ctx.Err() != nil || req.Mode != tandem.Async || req.Status != tandem.Pending || req.NotBefore.After(r.b.now()) {
		return false
	}
	if r.b.isPaused(processQueue(req.Lane)) || !r.line(req.Lane).isEmpty() || !r.running.mayBegin() {
		return false
	}
	if r.steps.Reserve(store.AtOnce, req.Lane) != nil {
		r.running.end()
		return false
	}
	return true
}

// accepted is told what has become of a request that was to be started as it was
// accepted: it is on disk so if started is true.
func (r *runner) accepted(req tandem.Request, job int64, started bool) {
	if !started {
		r.steps.Unreserve(req.Lane)
		r.running.end()
		return
	}
	r.b.processJobs.put(req.ID, ownJob{job, true})
	go func() {
		defer r.running.end()
		begun := req
		err := r.steps.Process(r.stepCtx, &req)
		if err == nil || tandem.CodeOf(err) == tandem.CodeConflict {
			return
		}
		r.b.log.Error("a request could not be worked to its end, and goes to the queue", "request_id", req.ID, "error", err)
		if err := r.b.takeOver(r.stepCtx, &begun); err != nil && tandem.CodeOf(err) != tandem.CodeConflict {
			r.b.log.Error("a request could not be given to the queue; its job comes when this process counts as dead", "request_id", req.ID, "error", err)
		}
	}()
}

// lookForPauses finds out which queues operators have paused: no step of theirs is
// taken at once either.
func (b *Backend) lookForPauses(ctx context.Context) error {
	rows, err := b.pool.Query(ctx, pausedQuery)
	if err != nil {
		return fmt.Errorf("look for paused queues: %w", err)
	}
	paused, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for paused queues: %w", err)
	}
	b.paused.Store(&paused)
	return nil
}

const pausedQuery = `SELECT name FROM river_queue WHERE paused_at IS NOT NULL`

// isPaused reports whether a queue is paused, as far as is known: until it has
// been looked for once, all are.
func (b *Backend) isPaused(queue string) bool {
	paused := b.paused.Load()
	return paused == nil || slices.Contains(*paused, queue)
}

// mayDeliver reports whether this process may deliver what a request is about to
// owe: the host takes callbacks, and there is room here to wait for a place. What
// becomes of the callback is told to owes.
func (r *runner) mayDeliver(req *tandem.Request) (host string, may bool) {
	if r == nil || r.ctx.Err() != nil || req.Callback.State != tandem.CallbackPending || req.Callback.NextAt.After(r.b.now()) {
		return "", false
	}
	host = engine.HostOf(req.Callback.URL)
	return host, !r.b.isPaused(deliverQueue) && r.b.breakers.closed(host) && r.places.roomFor(host) && r.running.mayBegin()
}

// owes is told what has become of a callback that this process may deliver: it is
// owed, and its attempt leased, if job is not 0. asked is when that was asked for.
func (r *runner) owes(req tandem.Request, host string, job int64, asked time.Time) {
	if job == 0 {
		r.running.end()
		return
	}
	go func() {
		defer r.running.end()
		r.b.deliverJobs.put(req.ID, ownJob{job, true})
		defer r.b.deliverJobs.remove(req.ID)
		if r.admit(r.stepCtx, host, asked) != nil {
			r.yield(&req)
			return
		}
		defer r.places.ended(host)
		_ = r.send(host, &req, asked) // when to come back is in the job that it has made
	}()
}
