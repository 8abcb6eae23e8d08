package distributed

import (
	"context"
	"time"

	"github.com/riverqueue/river"

	"tandem"
	"tandem/internal/engine"
)

// deliver is a deliver job: it makes the attempt that is due, and says when the
// next one is. The row knows, whatever became of the job before: so it is read
// first. It also knows if another job of the request is at it, such as one that
// ended and could not say so: see attempts.go.
//
// The job belongs to this process for a lease from when Postgres gave it away,
// which is begun: its answer may have taken long to get here. Then it is another
// process's, and River would let both of them move it: so it is not made due
// before that one's lease has ended, too.
func (r *runner) deliver(ctx context.Context, id string, job int64, begun time.Time) error {
	r.running.begin()
	defer r.running.end()
	err := r.attempt(ctx, id, job, begun)
	if r.over(begun) {
		r.b.log.Warn("a callback's job was here past its lease and is left to other processes", "request_id", id)
		return river.JobSnooze(r.b.lease())
	}
	return err
}

// over reports whether the lease of a job has ended.
func (r *runner) over(begun time.Time) bool { return time.Since(begun) >= r.b.lease() }

// attempt makes the attempt that is due, unless it is another's. The job's
// lease must last until this process has one of the attempt, too.
func (r *runner) attempt(ctx context.Context, id string, job int64, begun time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, begun.Add(r.b.lease()))
	defer cancel()
	found, err := r.b.rows.read(ctx, id)
	req := &found.Request
	switch {
	case tandem.CodeOf(err) == tandem.CodeNotFound || err == nil && req.Callback.NextAt.IsZero():
		return nil
	case err != nil:
		return r.later("a request could not be read", id, err)
	}
	now := r.b.now()
	if wait := req.Callback.NextAt.Sub(now); wait > 0 {
		return river.JobSnooze(min(wait, longestWait))
	}
	if wait := found.leased.Sub(now); wait > 0 {
		return river.JobSnooze(min(wait, r.b.attemptLease(req)))
	}
	host := engine.HostOf(req.Callback.URL)
	if putOff := r.admit(ctx, host, begun); putOff != nil {
		return putOff
	}
	defer r.places.ended(host)
	asked := time.Now()
	err = r.b.leaseAttempt(ctx, req)
	switch {
	case err == nil:
		r.b.deliverJobs.put(id, ownJob{id: job})
		defer r.b.deliverJobs.remove(id)
		return r.send(host, req, asked)
	case tandem.CodeOf(err) == tandem.CodeConflict:
		r.steps.Leave(host)
		return river.JobSnooze(again) // the row says what has happened
	default:
		r.steps.Leave(host)
		return r.later("a delivery attempt could not be taken", id, err)
	}
}

// send makes an attempt that has been admitted, with a lease of it that was asked
// for at a time.
func (r *runner) send(host string, req *tandem.Request, asked time.Time) error {
	if time.Since(asked) >= beginWithin {
		r.steps.Leave(host)
		r.yield(req)
		return river.JobSnooze(again)
	}
	owed := *req
	err := r.steps.Deliver(r.stepCtx, host, req)
	if err := r.b.breakers.attempted(r.stepCtx, r.steps, host); err != nil {
		r.b.log.Warn("what is known of a host was not shared", "host", host, "error", err)
	}
	switch {
	case err == nil && !req.Callback.NextAt.IsZero():
		return river.JobSnooze(min(max(0, req.Callback.NextAt.Sub(r.b.now())), longestWait))
	case err == nil:
		return nil
	case tandem.CodeOf(err) == tandem.CodeConflict:
		return river.JobSnooze(again)
	}
	r.yield(&owed)
	return r.later("a delivery attempt was not recorded", req.ID, err)
}

// yield gives back the lease of an attempt that was not recorded.
func (r *runner) yield(owed *tandem.Request) {
	err := r.b.yieldAttempt(r.stepCtx, owed)
	if err != nil && tandem.CodeOf(err) != tandem.CodeConflict {
		r.b.log.Warn("the lease of a delivery attempt was not given back; it ends by itself", "request_id", owed.ID, "error", err)
	}
}

// longestWait clamps the wait for an attempt, should the wall clock have been
// set back: no retry is planned further ahead than this.
const longestWait = 24 * time.Hour

// admit takes a place for an attempt to the host, or returns when to ask again.
// Where all places to a host are taken, some jobs wait here for one to become
// free; the others go back. Once the lease of the job has ended it is another
// process's, and nothing is sent from here.
func (r *runner) admit(ctx context.Context, host string, begun time.Time) (putOff error) {
	for deadline := time.Now().Add(patience); ; {
		seen := r.places.freed(host)
		if r.over(begun) || r.ctx.Err() != nil {
			return river.JobSnooze(0)
		}
		if r.places.full() {
			return river.JobSnooze(r.places.putOff(host, 0))
		}
		admission, err := r.b.breakers.admit(ctx, r.steps, host)
		switch {
		case err != nil:
			return r.later("a host could not be asked for", "", err)
		case admission.OK:
			r.places.begun(host)
			return nil
		case !admission.Until.IsZero():
			return river.JobSnooze(r.places.putOff(host, admission.Until.Sub(r.b.now())))
		}
		if !r.places.wait(r.ctx, host, seen, time.Until(deadline)) {
			return river.JobSnooze(r.places.putOff(host, 0))
		}
	}
}
