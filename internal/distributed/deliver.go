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
// first.
//
// The job belongs to this process for a lease from when Postgres gave it away,
// which is begun: its answer may have taken long to get here. Then it is another
// process's, whose attempt may be under way; nothing is sent from here, and the
// job, which River would let both of them move, is not made due before that one's
// lease has ended, too.
func (r *runner) deliver(ctx context.Context, id string, begun time.Time) error {
	r.running.begin()
	defer r.running.end()
	if _, other := r.delivering.LoadOrStore(id, true); other {
		// Another job of the same request, such as one that ended and could not
		// say so, is at it: two attempts at once would be one too many.
		return river.JobSnooze(r.b.lease())
	}
	defer r.delivering.Delete(id)
	err := r.attempt(ctx, id, begun)
	if r.over(begun) {
		r.b.log.Warn("a callback's job was here past its lease and is left to other processes", "request_id", id)
		return river.JobSnooze(r.b.lease())
	}
	return err
}

// over reports whether the lease of a job has ended.
func (r *runner) over(begun time.Time) bool { return time.Since(begun) >= r.b.lease() }

// attempt makes the attempt that is due, if the lease lasts until it begins.
func (r *runner) attempt(ctx context.Context, id string, begun time.Time) error {
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
	if wait := req.Callback.NextAt.Sub(r.b.now()); wait > 0 {
		return river.JobSnooze(min(wait, longestWait))
	}
	host := engine.HostOf(req.Callback.URL)
	if putOff := r.admit(ctx, host, begun); putOff != nil {
		return putOff
	}
	defer r.places.ended(host)
	err = r.steps.Deliver(r.stepCtx, host, req)
	if err := r.b.breakers.attempted(r.stepCtx, r.steps, host); err != nil {
		r.b.log.Warn("what is known of a host was not shared", "host", host, "error", err)
	}
	switch {
	case err == nil && !req.Callback.NextAt.IsZero():
		return river.JobSnooze(min(max(0, req.Callback.NextAt.Sub(r.b.now())), longestWait))
	case err == nil:
		return nil
	default:
		return r.later("a delivery attempt was not recorded", id, err)
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
