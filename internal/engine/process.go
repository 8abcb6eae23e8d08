package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"tandem"
	"tandem/work"
)

// Reserve implements Steps.
func (e *Engine) Reserve(ctx context.Context, lane string) error {
	return e.slots(lane).reserve(ctx)
}

// slots returns the lane of a request. One accepted by a program that had
// other lanes runs in the narrowest of ours.
func (e *Engine) slots(name string) *lane {
	if l, ok := e.lanes[name]; ok {
		return l
	}
	return e.lanes[work.CPU.String()]
}

// Process implements Steps. It counts the start on disk, waits for a slot,
// runs the work, and records the outcome.
func (e *Engine) Process(ctx context.Context, req *tandem.Request) error {
	kind, known := e.registry.Lookup(req.Workload)
	if !known {
		kind.Func = unknownWorkload
	}
	slots := e.slots(req.Lane)
	req.StartedAt = e.now()
	if err := e.backend.Start(ctx, req); err != nil {
		slots.unreserve()
		return fmt.Errorf("start request: %w", err)
	}
	ctx, done := e.running.add(ctx, req.ID)
	defer done()
	err := slots.acquire(ctx, tandem.Async)
	slots.unreserve()
	if err != nil {
		return e.giveBack(ctx, req)
	}

	req.StartedAt = e.now()
	result, fail := e.runWork(ctx, slots, kind, req)
	if fail != nil && fail.Code == tandem.FailureInterrupted {
		return e.giveBack(ctx, req)
	}
	e.finish(req, result, fail)
	err = e.insist(ctx, "record outcome", req.ID, func(ctx context.Context) error {
		return e.backend.Complete(ctx, req)
	})
	if err != nil {
		return fmt.Errorf("record outcome: %w", err)
	}
	e.seenWorked(req)
	return nil
}

// giveBack returns a request whose work was stopped by Halt.
func (e *Engine) giveBack(ctx context.Context, req *tandem.Request) error {
	if err := e.backend.Requeue(context.WithoutCancel(ctx), req); err != nil {
		return fmt.Errorf("requeue: %w", err)
	}
	return nil
}

// insist repeats a write that must not be lost until storage takes it, the
// request has moved on, or the engine is halted.
func (e *Engine) insist(ctx context.Context, what, id string, write func(context.Context) error) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := write(context.WithoutCancel(ctx))
		if err == nil || tandem.CodeOf(err) == tandem.CodeConflict {
			return err
		}
		e.log.Error(what+" failed, trying again", "request_id", id, "error", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

// finish writes the outcome into the request.
func (e *Engine) finish(req *tandem.Request, result json.RawMessage, fail *tandem.Failure) {
	req.WorkedAt = e.now()
	if fail != nil {
		req.Status, req.Failure = tandem.Failed, fail
	} else {
		req.Status, req.Result = tandem.Completed, result
	}
	if req.Callback.State == tandem.CallbackPending {
		req.Callback.NextAt = req.WorkedAt
	}
}

// outcome is what a Func came back with.
type outcome struct {
	result json.RawMessage
	err    error
}

// returnGrace is how long a Func whose context has ended may take to return
// before it is abandoned.
const returnGrace = 50 * time.Millisecond

// runWork runs the Func in a slot the caller holds, and sees to it that the slot
// is released as soon as the Func returns. A panic, an error, a deadline or a
// cancellation comes back as a Failure; the Func is abandoned if it ignores the
// end of its context.
func (e *Engine) runWork(ctx context.Context, slots *lane, kind work.Kind, req *tandem.Request) (json.RawMessage, *tandem.Failure) {
	ctx, cancel := context.WithTimeoutCause(ctx, e.opts.WorkTimeout, errWorkDeadline)
	defer cancel()

	start := time.Now()
	var over atomic.Bool // the Func has returned or was abandoned, whichever came first
	returned := make(chan outcome, 1)
	go func() {
		result, err := call(kind.Func, ctx, work.Input{Data: req.Data, Complexity: req.Complexity})
		if over.CompareAndSwap(false, true) {
			slots.release(time.Since(start))
		}
		returned <- outcome{result, err}
	}()
	var out outcome
	select {
	case out = <-returned:
	case <-ctx.Done():
		select {
		case out = <-returned:
		case <-time.After(returnGrace):
			if !over.CompareAndSwap(false, true) { // it is returning right now
				out = <-returned
				break
			}
			out.err = context.Cause(ctx)
			e.log.Warn("work ignored the end of its context and was abandoned", "request_id", req.ID, "workload", kind.Name)
			slots.abandon(time.Since(start), returned)
		}
	}
	return judge(ctx, out)
}

// call runs the Func and turns a panic into an error.
func call(f work.Func, ctx context.Context, in work.Input) (result json.RawMessage, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{value: p, stack: debug.Stack()}
		}
	}()
	return f(ctx, in)
}

type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("the work panicked: %v", p.value) }

var errWorkDeadline = errors.New("the work ran past its deadline")

// judge decides what a returned Func means for its request.
func judge(ctx context.Context, out outcome) (json.RawMessage, *tandem.Failure) {
	switch cause := context.Cause(ctx); {
	case out.err == nil && len(out.result) > tandem.MaxResult:
		return nil, &tandem.Failure{Code: tandem.FailureTooLarge, Message: fmt.Sprintf("the result is %d bytes, over the limit of %d", len(out.result), tandem.MaxResult)}
	case out.err == nil && !json.Valid(out.result):
		return nil, &tandem.Failure{Code: tandem.FailureWork, Message: "the work returned something that is not JSON"}
	case out.err == nil:
		return out.result, nil
	case cause == nil:
		return nil, failureOf(out.err)
	case errors.Is(cause, errHalted):
		return nil, &tandem.Failure{Code: tandem.FailureInterrupted, Message: "interrupted by a shutdown"}
	case errors.Is(cause, errWorkDeadline) || errors.Is(cause, context.DeadlineExceeded):
		return nil, &tandem.Failure{Code: tandem.FailureTimeout, Message: errWorkDeadline.Error()}
	default:
		return nil, &tandem.Failure{Code: tandem.FailureClientGone, Message: "the caller left before the work was done"}
	}
}

// failureOf sorts the error of a Func whose context had not ended.
func failureOf(err error) *tandem.Failure {
	if p, ok := errors.AsType[*panicError](err); ok {
		return &tandem.Failure{Code: tandem.FailurePanic, Message: p.Error()}
	}
	if u, ok := errors.AsType[*work.UpstreamError](err); ok {
		return &tandem.Failure{Code: tandem.FailureUpstream, Message: u.Error(), Upstream: u.Status}
	}
	if f, ok := errors.AsType[*tandem.Failure](err); ok {
		return f
	}
	return &tandem.Failure{Code: tandem.FailureWork, Message: err.Error()}
}

func unknownWorkload(context.Context, work.Input) (json.RawMessage, error) {
	return nil, &tandem.Failure{Code: tandem.FailureNoWorkload, Message: "this service no longer has the workload"}
}
