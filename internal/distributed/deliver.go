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
func (r *runner) deliver(ctx context.Context, id string) error {
	r.running.Add(1)
	defer r.running.Done()
	begun := time.Now()
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
	for deadline := begun.Add(patience); ; {
		seen := r.places.freed(host)
		if time.Since(begun) >= r.b.lease() || r.ctx.Err() != nil {
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
