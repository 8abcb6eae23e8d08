package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tandem"
)

// Why the work of a request was stopped.
var (
	errCancelled  = errors.New("the request was cancelled")
	errCallerLeft = errors.New("the caller left")
)

func cancelled() *tandem.Failure {
	return &tandem.Failure{Code: tandem.FailureCancelled, Message: "cancelled"}
}

// reason is a cause as it is told to another process, and causeOf turns it back.
func reason(cause error) tandem.FailureCode {
	if errors.Is(cause, errCancelled) {
		return tandem.FailureCancelled
	}
	return tandem.FailureClientGone
}

func causeOf(why tandem.FailureCode) error {
	if why == tandem.FailureCancelled {
		return errCancelled
	}
	return errCallerLeft
}

// Interrupt implements Steps.
func (e *Engine) Interrupt(id string, why tandem.FailureCode) { e.running.cancel(id, causeOf(why)) }

// Cancel ends a request of the caller that is not worked yet: one that waits
// fails at once, one that runs is stopped. The request it returns is worked. It
// returns CodeConflict if it was worked already, and CodeNotFound.
func (e *Engine) Cancel(ctx context.Context, who tandem.Caller, id string) (tandem.Request, error) {
	req, err := e.request(ctx, who, id)
	if err != nil {
		return req, err
	}
	return e.cancel(ctx, &req, errCancelled)
}

// stopPatience is how long the work may take to come to its end once it was
// told to stop, and the end to be committed.
const stopPatience = 10 * time.Second

func (e *Engine) cancel(ctx context.Context, req *tandem.Request, cause error) (tandem.Request, error) {
	worked, stop := e.backend.Watch(req.ID)
	defer stop()
	patience := time.NewTimer(stopPatience)
	defer patience.Stop()
	told := false // somebody was told to stop it
	for {
		found, err := e.backend.Request(ctx, req.ID)
		if err != nil {
			return found, err
		}
		switch found.Status {
		case tandem.Pending:
			fail := cancelled()
			if !errors.Is(cause, errCancelled) {
				_, fail = judge(outcome{err: cause, cause: cause})
			}
			finish(&found, nil, fail, e.opts.Now())
			err := e.backend.Fail(ctx, &found)
			if tandem.CodeOf(err) == tandem.CodeConflict {
				continue // it has just been started
			}
			return found, err
		case tandem.Processing:
			if !e.running.cancel(found.ID, cause) && !told { // it may run elsewhere
				if err := e.backend.Interrupt(ctx, found.ID, reason(cause)); err != nil {
					return found, err
				}
			}
			told = true
		default:
			if told && wasCancelled(&found) { // read before we heard of it
				return found, nil
			}
			return found, errFinal
		}
		select {
		case <-worked:
			found, err := e.backend.Request(ctx, req.ID)
			if err == nil && !wasCancelled(&found) {
				err = errFinal // it came to its own end first
			}
			return found, err
		case <-time.After(20 * time.Millisecond): // it may not have been running yet when it was told
		case <-patience.C:
			return found, &tandem.Error{Code: tandem.CodeConflict, Message: "the work was told to stop and has not ended yet; look again", RetryAfter: time.Second}
		case <-ctx.Done():
			return found, ctx.Err()
		}
	}
}

func wasCancelled(req *tandem.Request) bool {
	return req.Failure != nil && req.Failure.Code == tandem.FailureCancelled
}

var errFinal = &tandem.Error{Code: tandem.CodeConflict, Message: "the request is worked: there is nothing left to cancel"}

// Expire gives a pending request the outcome of one whose time is over.
func Expire(req *tandem.Request, now time.Time) {
	finish(req, nil, &tandem.Failure{Code: tandem.FailureExpired, Message: "it had not begun when expires_at was reached"}, now)
}

// StartsAgain reports whether a request whose process died while it worked it
// becomes pending again: if somebody was promised it, and it was not interrupted
// too often. Else it is Interrupted.
func StartsAgain(req *tandem.Request) bool {
	return req.Mode == tandem.Async && !req.Waited && req.Starts < tandem.MaxStarts
}

// Interrupted gives a request that is not started again, after the process that
// worked it has died, its outcome.
func Interrupted(req *tandem.Request, now time.Time) *tandem.Request {
	req.Status, req.WorkedAt = tandem.Failed, now
	req.Failure = &tandem.Failure{Code: tandem.FailureInterrupted, Message: "interrupted by a restart"}
	if req.Mode == tandem.Async && !req.Waited {
		req.Failure = &tandem.Failure{
			Code:    tandem.FailureCrashed,
			Message: fmt.Sprintf("the service went down during each of %d starts of this work", req.Starts),
		}
	}
	if req.Callback.State == tandem.CallbackPending {
		req.Callback.NextAt = now
	}
	return req
}

// Redeliver owes the callback of a request of the caller once more, with as many
// further attempts as the policy has, whatever the caller had asked for at first,
// under the same webhook-id. It returns CodeConflict if it has no callback or that
// is still being delivered.
func (e *Engine) Redeliver(ctx context.Context, who tandem.Caller, id string) (tandem.Request, error) {
	req, err := e.request(ctx, who, id)
	if err != nil {
		return req, err
	}
	switch cb := &req.Callback; {
	case cb.URL == "":
		return req, &tandem.Error{Code: tandem.CodeConflict, Message: "the request has no callback"}
	case cb.State == tandem.CallbackPending || !req.Status.Worked():
		return req, &tandem.Error{Code: tandem.CodeConflict, Message: "the callback is still being delivered"}
	case cb.State == tandem.CallbackNone:
		return req, &tandem.Error{Code: tandem.CodeConflict, Message: "the caller had the outcome as an answer: no callback was owed"}
	}
	err = e.redeliver(ctx, &req)
	return req, err
}

func (e *Engine) redeliver(ctx context.Context, req *tandem.Request) error {
	cb := &req.Callback
	cb.Since = e.now()
	cb.NextAt = e.opts.Now()
	cb.MaxAttempts = cb.Attempts + e.opts.Policy.Attempts
	return e.backend.Redeliver(ctx, req)
}

// RedeliverMany owes the callbacks again that q selects, at most q.Limit of
// them, the newest first. dryRun only looks. It returns the ids of the requests,
// and whether there are more.
func (e *Engine) RedeliverMany(ctx context.Context, q Query, dryRun bool) (ids []string, more bool, err error) {
	for left := q.Limit; ; {
		q.Limit = left
		page, err := e.backend.Requests(ctx, q)
		if err != nil {
			return ids, false, err
		}
		for i := range page.Requests {
			req := &page.Requests[i]
			if !dryRun {
				err := e.redeliver(ctx, req)
				if tandem.CodeOf(err) == tandem.CodeConflict {
					continue // somebody else has done it
				}
				if err != nil {
					return ids, false, err
				}
			}
			ids = append(ids, req.ID)
		}
		left -= len(page.Requests)
		if page.Next == "" || left == 0 {
			return ids, page.Next != "", nil
		}
		q.Cursor = page.Next
	}
}
