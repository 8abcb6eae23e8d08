package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"tandem"
	"tandem/work"
)

// Reserve implements Steps.
func (e *Engine) Reserve(ctx context.Context, lane string) error {
	return e.slots(lane).reserve(ctx)
}

// Unreserve implements Steps.
func (e *Engine) Unreserve(lane string) { e.slots(lane).unreserve() }

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
	if now := e.opts.Now(); req.Status == tandem.Pending && !req.ExpiresAt.IsZero() && !now.Before(req.ExpiresAt) {
		slots.unreserve()
		Expire(req, now)
		return e.backend.Fail(ctx, req)
	}
	if req.Status == tandem.Pending {
		req.StartedAt = e.now()
		if err := e.backend.Start(ctx, req); err != nil {
			slots.unreserve()
			return fmt.Errorf("start request: %w", err)
		}
	}
	ctx, done := e.running.add(ctx, req.ID)
	defer done()
	out, err := e.runWork(ctx, ctx, slots, kind, req, func() (bool, error) {
		slots.unreserve()
		req.StartedAt = e.now()
		return true, nil
	})
	if err != nil { // stopped while it waited for its slot: it was started, and has not run
		slots.unreserve()
		req.StartedAt = time.Time{}
		if errors.Is(err, errHalted) {
			return e.giveBack(ctx, req)
		}
		out = outcome{err: err, cause: err, at: e.opts.Now()}
	}
	result, fail := judge(out)
	if fail != nil && fail.Code == tandem.FailureInterrupted {
		return e.giveBack(ctx, req)
	}
	finish(req, result, fail, out.at)
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

// insist repeats a write that must not be lost until storage takes it or is
// closed, the request has moved on, or the engine is halted. What ended the work
// does not end it.
func (e *Engine) insist(ctx context.Context, what, id string, write func(context.Context) error) error {
	ctx = context.WithoutCancel(ctx)
	var halted context.Context
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := write(ctx)
		switch tandem.CodeOf(err) {
		case "", tandem.CodeConflict, tandem.CodeDraining:
			return err
		}
		e.log.Error(what+" failed, trying again", "request_id", id, "error", err, "wait", wait)
		if halted == nil {
			var done func()
			halted, done = e.running.add(ctx, "") // under no id: it is not cancelled with the request
			defer done()
		}
		select {
		case <-time.After(wait):
		case <-halted.Done():
			return err
		}
	}
}

// finish writes the outcome, which came at the time, into the request.
func finish(req *tandem.Request, result json.RawMessage, fail *tandem.Failure, at time.Time) {
	req.WorkedAt = at.UTC().Truncate(time.Microsecond)
	if fail != nil {
		req.Status, req.Failure = tandem.Failed, fail
	} else {
		req.Status, req.Result = tandem.Completed, result
	}
	if req.Callback.State == tandem.CallbackPending {
		req.Callback.NextAt = at
	}
}

// outcome is what a Func came back with and when, and why its context had ended
// if it had.
type outcome struct {
	result json.RawMessage
	err    error
	cause  error
	at     time.Time
}

// returnGrace is how long a Func whose context has ended may take to return
// before it is abandoned.
const returnGrace = 50 * time.Millisecond

// runWork waits for a slot as long as waiting lasts, and runs the Func in it,
// under ctx and the work timeout, right after begin. It returns the cause of
// waiting's end if there was no slot before, and errNotBegun, with begin's own
// error in the outcome, if that says not to go on; then nothing was run. The
// Func is abandoned if it ignores the end of its context.
func (e *Engine) runWork(waiting, ctx context.Context, slots *lane, kind work.Kind, req *tandem.Request, begin func() (goOn bool, err error)) (outcome, error) {
	over := make(chan outcome, 1)
	t := &ticket{mode: req.Mode, ctx: waiting}
	t.run = func() bool {
		if goOn, err := begin(); !goOn {
			over <- outcome{err: err, cause: errNotBegun}
			return true
		}
		ctx, cancel := context.WithTimeoutCause(ctx, e.opts.WorkTimeout, errWorkDeadline)
		defer cancel()
		watch := e.watch(ctx, slots, kind, req, over)
		returned := false
		defer func() {
			if !returned { // by runtime.Goexit
				t.owns = watch.returned(outcome{err: &panicError{value: "it ended its goroutine"}, cause: context.Cause(ctx), at: e.opts.Now()})
			}
		}()
		out := call(ctx, kind.Func, work.Input{Data: req.Data, Complexity: req.Complexity})
		returned = true
		out.at = e.opts.Now()
		return watch.returned(out)
	}
	slots.enqueue(t)
	var out outcome
	select {
	case out = <-over:
	case <-waiting.Done():
		if slots.withdraw(t) {
			return outcome{}, context.Cause(waiting)
		}
		out = <-over
	}
	if errors.Is(out.cause, errNotBegun) {
		return out, errNotBegun
	}
	return out, nil
}

var errNotBegun = errors.New("the work was not begun")

// watch sees to it that a Func which ignores the end of its context is
// abandoned: then its request is over, and its slot goes on without it.
type watch struct {
	over chan<- outcome // told once, by whoever is first
	stop func() bool

	mu      sync.Mutex
	decided bool
	returns func() bool // of the lane; set if the Func was abandoned
}

func (e *Engine) watch(ctx context.Context, slots *lane, kind work.Kind, req *tandem.Request, over chan<- outcome) *watch {
	w := &watch{over: over}
	w.stop = context.AfterFunc(ctx, func() {
		time.Sleep(returnGrace)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.decided {
			return
		}
		w.decided = true
		w.returns = slots.abandon()
		e.log.Warn("work ignored the end of its context and was abandoned", "request_id", req.ID, "workload", kind.Name)
		over <- outcome{err: context.Cause(ctx), cause: context.Cause(ctx), at: e.opts.Now()}
	})
	return w
}

// returned tells the outcome of a Func that has returned. It returns whether
// the slot is still its own.
func (w *watch) returned(out outcome) bool {
	w.stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.decided {
		return w.returns()
	}
	w.decided = true
	w.over <- out
	return true
}

// call runs the Func and turns a panic into an error.
func call(ctx context.Context, f work.Func, in work.Input) (out outcome) {
	defer func() {
		if p := recover(); p != nil {
			out.err = &panicError{value: p, stack: debug.Stack()}
		}
		out.cause = context.Cause(ctx)
	}()
	out.result, out.err = f(ctx, in)
	return out
}

type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("the work panicked: %v", p.value) }

var errWorkDeadline = errors.New("the work ran past its deadline")

// maxMessage is how much of what the work says of its failure is kept, in bytes.
const maxMessage = 1 << 10

// tidy bounds a message that may be of any size, and keeps it text.
func tidy(s string) string {
	text := strings.ToValidUTF8(s[:min(len(s), maxMessage)], "\uFFFD")
	if len(s) <= maxMessage && len(text) <= maxMessage {
		return text
	}
	const more = "..."
	return strings.ToValidUTF8(text[:min(len(text), maxMessage-len(more))], "") + more
}

// judge decides what a returned Func means for its request. The message of a
// failure is text of at most maxMessage bytes.
func judge(out outcome) (json.RawMessage, *tandem.Failure) {
	switch {
	case out.err == nil && len(out.result) > tandem.MaxResult:
		return nil, &tandem.Failure{Code: tandem.FailureTooLarge, Message: fmt.Sprintf("the result is %d bytes, over the limit of %d", len(out.result), tandem.MaxResult)}
	case out.err == nil && !json.Valid(out.result):
		return nil, &tandem.Failure{Code: tandem.FailureWork, Message: "the work returned something that is not JSON"}
	case out.err == nil:
		return out.result, nil
	case out.cause == nil:
		return nil, failureOf(out.err)
	case errors.Is(out.cause, errHalted):
		return nil, &tandem.Failure{Code: tandem.FailureInterrupted, Message: "interrupted by a shutdown"}
	case errors.Is(out.cause, errCancelled):
		return nil, cancelled()
	case errors.Is(out.cause, errWorkDeadline) || errors.Is(out.cause, context.DeadlineExceeded):
		return nil, &tandem.Failure{Code: tandem.FailureTimeout, Message: errWorkDeadline.Error()}
	default:
		return nil, &tandem.Failure{Code: tandem.FailureClientGone, Message: "the caller left before the work was done"}
	}
}

// failureOf sorts the error of a Func whose context had not ended.
func failureOf(err error) *tandem.Failure {
	if p, ok := errors.AsType[*panicError](err); ok {
		return &tandem.Failure{Code: tandem.FailurePanic, Message: tidy(p.Error())}
	}
	if u, ok := errors.AsType[*work.UpstreamError](err); ok {
		return &tandem.Failure{Code: tandem.FailureUpstream, Message: tidy(u.Error()), Upstream: u.Status}
	}
	if f, ok := errors.AsType[*tandem.Failure](err); ok {
		return &tandem.Failure{Code: f.Code, Message: tidy(f.Message), Upstream: f.Upstream}
	}
	return &tandem.Failure{Code: tandem.FailureWork, Message: tidy(err.Error())}
}

func unknownWorkload(context.Context, work.Input) (json.RawMessage, error) {
	return nil, &tandem.Failure{Code: tandem.FailureNoWorkload, Message: "this service no longer has the workload"}
}
