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
}

// Do runs a submission for a caller who waits: it takes a slot, or returns
// CodeBusy if none becomes free in time; runs the work under the smaller of
// ctx's deadline and the work timeout; and returns once the outcome is
// committed. The request it returns is worked; a failed one carries its
// Failure and is no error of Do. After a disconnect the outcome is still
// written.
func (e *Engine) Do(ctx context.Context, sub Submission) (*tandem.Request, error) {
	kind, err := e.admissible(sub)
	if err != nil {
		return nil, err
	}
	if e.opts.Paused {
		return nil, errPaused
	}
	req := e.newRequest(tandem.Sync, kind, sub)
	ctx, done := e.running.add(ctx, req.ID)
	defer done()
	waiting, cancel := context.WithTimeoutCause(ctx, e.opts.SyncQueueTimeout, errSyncQueue)
	defer cancel()
	out, err := e.runWork(waiting, ctx, e.slots(req.Lane), kind, req, func() {
		req.Status, req.Starts, req.Epoch = tandem.Processing, 1, 1
		req.StartedAt = e.now()
		e.backend.Begin(req)
	})
	if errors.Is(err, errSyncQueue) || errors.Is(err, context.DeadlineExceeded) {
		return nil, errSyncQueue
	}
	if err != nil {
		return nil, &tandem.Error{Code: tandem.CodeUnknown, Message: "the caller left before a slot was free", Err: err}
	}
	result, fail := judge(out)
	finish(req, result, fail, out.at)
	if err := e.backend.Complete(context.WithoutCancel(ctx), req); err != nil {
		return nil, err
	}
	e.seenWorked(req)
	return req, nil
}

// Accept promises a submission to a caller who does not wait: when it returns
// nil the request is committed and will be worked, whatever happens to this
// process. It returns CodeBusy when the backlog is full, and CodeUnknown if
// ctx ended before the commit was known: then the request may exist.
func (e *Engine) Accept(ctx context.Context, sub Submission) (*tandem.Request, error) {
	kind, err := e.admissible(sub)
	if err != nil {
		return nil, err
	}
	req := e.newRequest(tandem.Async, kind, sub)
	if sub.CallbackURL != "" {
		if _, err := e.guard.CheckURL(sub.CallbackURL); err != nil {
			return nil, tandem.Invalid("callback_url", "%s", err)
		}
		req.Callback = tandem.Callback{
			URL:         sub.CallbackURL,
			State:       tandem.CallbackPending,
			MaxAttempts: e.opts.Policy.Attempts,
		}
	}
	if err := e.backend.Accept(ctx, req); err != nil {
		return nil, err
	}
	return req, nil
}

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
		return tandem.Request{}, errNotFound
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
