package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"tandem"
	"tandem/internal/callback"
	"tandem/webhook"
)

// Admit implements Steps.
func (e *Engine) Admit(host string) Admission { return e.hosts.admit(host, e.opts.Now()) }

// Leave implements Steps.
func (e *Engine) Leave(host string) { e.hosts.leave(host, e.opts.Now(), callback.Silent) }

// Breaker implements Steps.
func (e *Engine) Breaker(host string) callback.Breaker { return e.hosts.breaker(host) }

// SetBreaker implements Steps.
func (e *Engine) SetBreaker(host string, b callback.Breaker) { e.hosts.setBreaker(host, b) }

// postponed is for how long an attempt that is due may be put off, at least,
// before its callback is given up for its age. What was planned is so tried once,
// if its host lets it: after a restart, too.
const postponed = time.Minute

// TooOld implements Steps.
func (e *Engine) TooOld() (owed, due time.Time) {
	now, maxAge := e.opts.Now(), e.opts.Policy.MaxAge
	if maxAge == 0 || now.Sub(e.started) < postponed {
		return time.Time{}, time.Time{}
	}
	return now.Add(-maxAge), now.Add(-postponed)
}

// Deliver implements Steps. It makes one attempt and records what came of it:
// delivered, due again at Callback.NextAt, or given up.
func (e *Engine) Deliver(ctx context.Context, host string, req *tandem.Request) error {
	ctx, done := e.running.add(ctx, "") // whose attempt it is does not matter: it is not cancelled with the request
	defer done()
	if err := e.owed(ctx, req); err != nil {
		e.Leave(host)
		return err
	}

	number := req.Callback.Attempts + 1
	answer := e.send(ctx, req, number)
	if answer.Interrupted { // cut off by us: not the receiver's failure, and not recorded
		e.Leave(host)
		return errHalted
	}
	e.hosts.leave(host, e.opts.Now(), callback.SignOf(answer))

	attempt := tandem.Attempt{
		Number:   number,
		At:       answer.At.UTC().Truncate(time.Microsecond),
		Duration: answer.Duration,
		Status:   answer.Status,
		Class:    answer.Class,
		Error:    answer.Error,
		Answer:   answer.Body,
	}
	e.settle(req, answer, number)
	err := e.insist(ctx, "record attempt", req.ID, func(ctx context.Context) error {
		return e.backend.RecordAttempt(ctx, req, attempt)
	})
	if err != nil {
		return fmt.Errorf("record attempt: %w", err)
	}
	e.seenAttempt(req, attempt)
	return nil
}

// owed reads the request if only its ID is known, and returns CodeConflict if
// it owes no callback.
func (e *Engine) owed(ctx context.Context, req *tandem.Request) error {
	if req.Status == "" {
		row, err := e.backend.Request(ctx, req.ID)
		if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		*req = row
	}
	if req.Callback.NextAt.IsZero() {
		return &tandem.Error{Code: tandem.CodeConflict, Message: "no callback is owed"}
	}
	return nil
}

// send makes the attempt on the wire. A message that cannot be written or signed
// is an answer too, so that such a callback is seen to fail, and is given up rather
// than tried for ever.
func (e *Engine) send(ctx context.Context, req *tandem.Request, number int) callback.Answer {
	now := e.now()
	body, err := json.Marshal(event(req, number, now))
	if err != nil {
		return callback.Answer{At: now, Class: tandem.ClassInternal, Error: "encode callback: " + err.Error()}
	}
	secrets := e.secrets(req.Owner)
	if len(secrets) == 0 { // an unsigned callback could come from anybody
		return callback.Answer{At: now, Class: tandem.ClassInternal, Error: "there is no secret to sign the callback with"}
	}
	return e.sender.Send(ctx, callback.Message{
		URL:     req.Callback.URL,
		ID:      req.ID,
		At:      now,
		Body:    body,
		Secrets: secrets,
		Timeout: req.Callback.Timeout,
		Header:  headerOf(req.Callback.Header),
	})
}

func headerOf(fields map[string]string) http.Header {
	h := make(http.Header, len(fields))
	for name, value := range fields {
		h.Set(name, value)
	}
	return h
}

// event is the body of a request's callback.
func event(req *tandem.Request, number int, now time.Time) webhook.Event {
	ev := webhook.Event{
		Type:             webhook.RequestCompleted,
		RequestID:        req.ID,
		Status:           string(tandem.Completed), // of the work, whatever became of earlier deliveries
		Result:           req.Result,
		ProcessingTimeMS: Milliseconds(req.ProcessingTime()),
		Timestamp:        req.WorkedAt,
		Metadata: webhook.Metadata{
			Attempt:     number,
			MaxAttempts: req.Callback.MaxAttempts,
			SentAt:      now,
		},
	}
	if req.Failure != nil {
		ev.Type, ev.Status = webhook.RequestFailed, string(tandem.Failed)
		ev.Error = &webhook.Error{Code: string(req.Failure.Code), Message: req.Failure.Message}
	}
	return ev
}

// settle moves the request's callback, and with it the request, to where the
// answer puts it.
func (e *Engine) settle(req *tandem.Request, answer callback.Answer, number int) {
	cb := &req.Callback
	cb.Attempts, cb.LastStatus, cb.LastError = number, answer.Status, answer.Error
	cb.NextAt = time.Time{}
	switch callback.Judge(answer) {
	case callback.Delivered:
		cb.State = tandem.CallbackDelivered
		if req.Status.Succeeded() {
			req.Status = tandem.CallbackSent
		}
		return
	case callback.Retry:
		policy := e.opts.Policy
		policy.Attempts = cb.MaxAttempts
		since := req.WorkedAt
		if !cb.Since.IsZero() { // begun anew
			since = cb.Since
		}
		at, again := policy.NextAttempt(e.opts.Now(), since, number, answer.RetryAfter, e.opts.Jitter())
		if again {
			cb.NextAt = at
			return
		}
	case callback.Stop:
	}
	cb.State = tandem.CallbackGivenUp
	if req.Status == tandem.Completed {
		req.Status = tandem.CallbackFailed
	}
}

// Milliseconds returns d as the API shows it: milliseconds to the microsecond.
func Milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
