package engine

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	"tandem"
	"tandem/work"
)

// Submission is what a caller hands in, decoded and within the API's limits.
type Submission struct {
	Owner       string
	Workload    string
	Complexity  int
	Data        []byte // a JSON object
	CallbackURL string // async only; empty if the caller polls

	// What is asked of the callback. Zero means the service's own.
	CallbackAttempts int
	CallbackTimeout  time.Duration
	CallbackHeader   map[string]string

	NotBefore time.Time // async only: the work begins no earlier
	ExpiresAt time.Time // async only: and not at all from then on

	Idempotency IdempotencyKey // if it has one
}

// Do runs a submission for a caller who waits: it takes a slot, or returns
// CodeBusy if too many wait for one or none becomes free in time; runs the work
// under the smaller of ctx's deadline and the work timeout; and returns once the
// outcome is committed. The request it returns is worked; a failed one carries
// its Failure and is no error of Do. After a disconnect the outcome is still
// written.
//
// Under an Idempotency-Key the work goes on when the caller leaves, and a
// submission that repeats an earlier one runs nothing: replayed is true and the
// request the earlier one, or the error CodeConflict while that is worked.
func (e *Engine) Do(ctx context.Context, sub Submission) (req *tandem.Request, replayed bool, err error) {
	kind, err := e.admissible(sub)
	if err != nil {
		return nil, false, err
	}
	keyed := sub.Idempotency.Key != ""
	if keyed {
		holder, err := e.backend.Holder(ctx, sub.Owner, sub.Idempotency)
		if err != nil || holder != "" {
			req, err := e.replay(ctx, holder, err)
			return req, true, err
		}
		ctx = context.WithoutCancel(ctx)
	}
	if e.opts.Paused {
		return nil, false, errPaused
	}
	req = e.newRequest(tandem.Sync, kind, sub)
	req, holder, err := e.do(ctx, kind, req, sub.Idempotency)
	if holder != "" {
		req, err = e.replay(ctx, holder, err)
		return req, true, err
	}
	return req, false, err
}

// replay reads the request that holds an Idempotency-Key. One that is not worked
// yet becomes a promise, if it was none: the caller who waited for it may have
// been lost, and this one will be told that it is accepted.
func (e *Engine) replay(ctx context.Context, holder string, err error) (*tandem.Request, error) {
	if err != nil {
		return nil, err
	}
	req, err := e.backend.Request(ctx, holder)
	if err != nil {
		return nil, err
	}
	switch {
	case req.Status.Worked():
		return &req, nil
	case req.Mode == tandem.Sync:
		return nil, errStillWorked
	case req.Waited:
		return e.release(ctx, &req)
	}
	return &req, nil
}

// release makes a request that a caller waits for a promise, and returns it as it
// stands then: worked already, or promised by another call, too.
func (e *Engine) release(ctx context.Context, req *tandem.Request) (*tandem.Request, error) {
	err := e.backend.Release(ctx, req)
	if tandem.CodeOf(err) == tandem.CodeConflict {
		var found tandem.Request
		found, err = e.backend.Request(ctx, req.ID)
		req = &found
	}
	if err != nil {
		return nil, err
	}
	return req, nil
}

// do runs a sync request. Of one with an Idempotency-Key that another request
// holds, it returns that one's id, having run nothing.
func (e *Engine) do(ctx context.Context, kind work.Kind, req *tandem.Request, key IdempotencyKey) (_ *tandem.Request, holder string, err error) {
	permit, err := e.limiters[req.Lane].acquire(req)
	if err != nil {
		return nil, "", err
	}
	ctx, done := e.running.add(ctx, req.ID)
	defer done()
	waiting, cancel := context.WithTimeoutCause(ctx, e.opts.SyncQueueTimeout, errSyncQueue)
	defer cancel()
	out, err := e.runWork(waiting, ctx, e.slots(req.Lane), kind, req, func() (goOn bool, err error) {
		if e.unwritten.Load() >= maxUnwritten {
			return false, errUnwritten
		}
		permit.begun = time.Now()
		req.Status, req.Starts, req.Epoch = tandem.Processing, 1, 1
		req.StartedAt = e.now()
		if key.Key == "" {
			e.backend.Begin(req)
			return true, nil
		}
		holder, err = e.backend.Claim(ctx, req, key)
		return err == nil && holder == "", err
	})
	switch {
	case errors.Is(err, errNotBegun):
		permit.drop()
		return nil, holder, out.err
	case errors.Is(err, errSyncQueue) || errors.Is(err, context.DeadlineExceeded):
		return nil, "", permit.timeOut()
	case err != nil:
		permit.drop()
		return nil, "", &tandem.Error{Code: tandem.CodeUnknown, Message: "the caller left before a slot was free", Err: err}
	}
	result, fail := judge(out)
	finish(req, result, fail, out.at)
	err = e.backend.Complete(context.WithoutCancel(ctx), req)
	if fail != nil && cutShort[fail.Code] {
		permit.drop()
	} else {
		permit.record()
	}
	if err != nil {
		if tandem.CodeOf(err) != tandem.CodeConflict {
			e.writeLater(req)
		}
		return nil, "", err
	}
	e.seenWorked(req)
	return req, "", nil
}

// cutShort are the failures of work that was not let finish: how long it took
// says nothing.
var cutShort = map[tandem.FailureCode]bool{
	tandem.FailureClientGone:  true,
	tandem.FailureInterrupted: true,
	tandem.FailureCancelled:   true,
}

// maxUnwritten is how many outcomes of sync requests may wait until storage can
// be written, besides those of the work that runs; past it none is begun.
const maxUnwritten = 256

// writeLater goes on trying to write the outcome of a sync request, whose caller
// is told that it could not be written: else it would read as processing until
// a restart. Once the engine is halted or storage closed, that takes it up.
func (e *Engine) writeLater(req *tandem.Request) {
	e.unwritten.Add(1)
	go func() {
		defer e.unwritten.Add(-1)
		err := e.insist(context.Background(), "record outcome", req.ID, func(ctx context.Context) error {
			return e.backend.Complete(ctx, req)
		})
		if err == nil {
			e.seenWorked(req)
		}
	}()
}

// Accept promises a submission to a caller who does not wait: when it returns
// nil the request is committed and will be worked, whatever happens to this
// process. It returns CodeBusy when the backlog is full, and CodeUnknown if
// ctx ended before the commit was known: then the request may exist.
//
// A submission that repeats an earlier one under its Idempotency-Key accepts
// nothing: replayed is true and the request the earlier one.
func (e *Engine) Accept(ctx context.Context, sub Submission) (req *tandem.Request, replayed bool, err error) {
	req, err = e.newAsync(sub)
	if err != nil {
		return nil, false, err
	}
	return e.accept(ctx, req, sub.Idempotency)
}

func (e *Engine) accept(ctx context.Context, req *tandem.Request, key IdempotencyKey) (_ *tandem.Request, replayed bool, err error) {
	if key.Key == "" {
		return req, false, e.withRetryAfter(e.backend.Accept(ctx, req))
	}
	holder, err := e.backend.Claim(ctx, req, key)
	if holder != "" {
		req, err = e.replay(ctx, holder, err)
		return req, true, err
	}
	return req, false, e.withRetryAfter(err)
}

// Try accepts a submission and waits for its outcome, as long as the caller
// does. If it is worked by then, it is the caller's answer and no callback is
// owed. Otherwise it becomes a promise, as Accept's are, before Try returns. If
// the caller leaves, the work is stopped, unless an Idempotency-Key lets the
// caller come back.
func (e *Engine) Try(ctx context.Context, sub Submission, wait time.Duration) (req *tandem.Request, replayed bool, err error) {
	req, err = e.newAsync(sub)
	if err != nil {
		return nil, false, err
	}
	req.Waited, req.Callback.State = true, tandem.CallbackNone
	worked, stop := e.backend.Watch(req.ID)
	defer stop()
	if req, replayed, err = e.accept(ctx, req, sub.Idempotency); err != nil || replayed {
		return req, replayed, err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-worked:
	case <-timer.C:
	case <-e.drained:
	case <-ctx.Done():
		if sub.Idempotency.Key == "" {
			_, err := e.cancel(context.WithoutCancel(ctx), req, errCallerLeft)
			return req, false, errors.Join(ctx.Err(), err)
		}
	}
	req, err = e.release(context.WithoutCancel(ctx), req)
	return req, false, err
}

// newAsync makes the async request that a submission asks for, or says why it
// cannot be.
func (e *Engine) newAsync(sub Submission) (*tandem.Request, error) {
	kind, err := e.admissible(sub)
	if err != nil {
		return nil, err
	}
	req := e.newRequest(tandem.Async, kind, sub)
	req.NotBefore, req.ExpiresAt = sub.NotBefore, sub.ExpiresAt
	switch {
	case !req.ExpiresAt.IsZero() && !req.ExpiresAt.After(req.CreatedAt):
		return nil, tandem.Invalid("expires_at", "is over; it must be a time to come")
	case !req.ExpiresAt.IsZero() && !req.ExpiresAt.After(req.NotBefore):
		return nil, tandem.Invalid("expires_at", "must be after not_before, or nothing would ever be worked")
	case req.NotBefore.Sub(req.CreatedAt) > MaxDelay:
		return nil, tandem.Invalid("not_before", "must be at most %.0f days ahead", MaxDelay.Hours()/24)
	}
	if sub.CallbackURL == "" {
		return req, nil
	}
	if _, err := e.guard.CheckURL(sub.CallbackURL); err != nil {
		return nil, tandem.Invalid("callback_url", "%s", err)
	}
	req.Callback = tandem.Callback{
		URL:         sub.CallbackURL,
		State:       tandem.CallbackPending,
		MaxAttempts: sub.CallbackAttempts,
		Timeout:     sub.CallbackTimeout,
		Header:      sub.CallbackHeader,
	}
	if req.Callback.MaxAttempts == 0 {
		req.Callback.MaxAttempts = e.opts.Policy.Attempts
	}
	return req, nil
}

// MaxDelay is how far ahead a request may be put off.
const MaxDelay = 366 * 24 * time.Hour

// admissible returns the kind of work that is asked for, or why it cannot be.
func (e *Engine) admissible(sub Submission) (work.Kind, error) {
	if e.draining() {
		return work.Kind{}, errDraining
	}
	kind, ok := e.registry.Lookup(sub.Workload)
	if !ok {
		return kind, tandem.Invalid("workload", "unknown workload; known are %s", strings.Join(e.registry.Names(), ", "))
	}
	if kind.Check != nil {
		if err := kind.Check(work.Input{Data: sub.Data, Complexity: sub.Complexity}); err != nil {
			return kind, tandem.Invalid("data", "%s", err)
		}
	}
	return kind, nil
}

func (e *Engine) newRequest(mode tandem.Mode, kind work.Kind, sub Submission) *tandem.Request {
	now := e.now()
	return &tandem.Request{
		ID:         tandem.NewID(now),
		Owner:      sub.Owner,
		Mode:       mode,
		Status:     tandem.Pending,
		Workload:   kind.Name,
		Lane:       kind.Class.String(),
		Complexity: sub.Complexity,
		Data:       sub.Data,
		Callback:   tandem.Callback{State: tandem.CallbackNone},
		CreatedAt:  now,
	}
}

// Find returns the record of a request of the caller, or CodeNotFound. If it is
// not worked yet, Find waits for that up to the given time, and then returns it
// as it stands.
func (e *Engine) Find(ctx context.Context, who tandem.Caller, id string, wait time.Duration) (tandem.Request, error) {
	if wait <= 0 {
		return e.request(ctx, who, id)
	}
	worked, stop := e.backend.Watch(id)
	defer stop()
	req, err := e.request(ctx, who, id)
	if err != nil || req.Status.Worked() {
		return req, err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-worked:
	case <-timer.C:
	case <-e.drained:
	case <-ctx.Done():
		return req, ctx.Err()
	}
	return e.backend.Request(ctx, id)
}

// request reads a request of the caller. One of somebody else does not exist.
func (e *Engine) request(ctx context.Context, who tandem.Caller, id string) (tandem.Request, error) {
	req, err := e.backend.Request(ctx, id)
	if err == nil && !who.Owns(req.Owner) {
		return tandem.Request{}, ErrNotFound
	}
	return req, err
}

// Requests returns one page of the caller's requests, newest first.
func (e *Engine) Requests(ctx context.Context, q Query) (Page, error) {
	return e.backend.Requests(ctx, q)
}

// Attempts returns the delivery attempts of a request of the caller, first one
// first, or CodeNotFound.
func (e *Engine) Attempts(ctx context.Context, who tandem.Caller, id string) ([]tandem.Attempt, error) {
	if _, err := e.request(ctx, who, id); err != nil {
		return nil, err
	}
	return e.backend.Attempts(ctx, id)
}

// HostOf returns the host and port of a callback URL, lower-cased: what the
// breaker and the per-host limit count by.
func HostOf(callbackURL string) string {
	u, err := url.Parse(callbackURL)
	if err != nil {
		return "" // unreachable: the URL was checked when it was accepted
	}
	host := strings.ToLower(u.Host)
	if u.Port() != "" {
		return host
	}
	if u.Scheme == "https" {
		return host + ":443"
	}
	return host + ":80"
}

// LongestSync is how long Do may take at most, storage apart.
func (e *Engine) LongestSync() time.Duration {
	return e.opts.SyncQueueTimeout + e.opts.WorkTimeout + returnGrace
}
