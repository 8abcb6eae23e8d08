package loadtest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"tandem"
	"tandem/internal/target"
)

// send sends one request, records its answer, and reports whether its callback
// is awaited; settled, if not nil, is sent to once that has come. When outcomes
// are polled for, it returns with the outcome.
func (r *run) send(ctx context.Context, p planned, settled chan<- struct{}) (awaiting bool) {
	calledBack := p.mode == tandem.Async && r.opts.Completion == Callback
	values := target.Values{
		ID: r.id + "-" + strconv.Itoa(p.arm) + "-" + strconv.Itoa(p.seq), Seq: p.seq,
		Workload: r.spec.Workload, Complexity: r.spec.Complexity, Data: string(input(p.seq)),
	}
	if calledBack {
		values.CallbackURL = r.callbackURL(p.seq)
		r.book.post(p.seq, p.at, settled)
	}
	message := r.target.Request(p.mode, values)

	x := r.client.write(message)
	r.recorder.record(func(t *tally) {
		t.arms[p.arm].sent++
		if x.err == nil {
			t.lag.record(x.written - max(p.at, p.free) - x.connecting)
		}
	})
	if x.err == nil {
		r.client.read(&x)
	}
	r.opts.throttle.learn(p.grant, x.status, x.header, time.Now())
	if x.err != nil {
		r.client.done(x)
		r.lost(p, x, calledBack)
		return false
	}
	answer := r.target.Sort(p.mode, x.status, x.header, x.body)
	var poll target.Message
	unpollable := ""
	if answer.Kind == target.Accepted && p.mode == tandem.Async && !calledBack {
		var err error
		if poll, err = r.target.PollRequest(answer, r.client.uri(message)); err != nil {
			answer.Kind, answer.Category, unpollable = target.BadAnswer, CategoryBadAnswer, err.Error()
		}
	}
	if answer.Kind == target.BadAnswer || answer.Kind == target.Rejected && x.status != http.StatusTooManyRequests {
		r.refusals[p.arm].CompareAndSwap(nil, &refusal{x.status, cmp.Or(unpollable, reasonIn(x.body))})
	}
	r.client.done(x)
	r.answered(p, x, answer)
	switch accepted := answer.Kind == target.Accepted; {
	case calledBack && accepted:
		return r.acknowledged(p, x, answer)
	case calledBack && answer.Kind == target.BadAnswer:
		r.giveUp(p) // it may have been taken up all the same
	case calledBack:
		r.book.refused(p.seq)
	case p.mode == tandem.Async && accepted:
		r.poll(ctx, p, poll, answer.ID)
	}
	return false
}

// refusal is an answer that did not take a request, or did not tell its outcome,
// as an example of its kind.
type refusal struct {
	status int    // 0: no answer came
	reason string // in one line
}

// maxReason bounds what is told of a refusal, in runes.
const maxReason = 200

// reasonIn is what a body says of why: the detail of a problem document (RFC
// 9457), or how the body begins.
func reasonIn(body []byte) string {
	var problem struct {
		Detail string `json:"detail"`
	}
	text := string(body[:min(len(body), 4*maxReason)])
	if err := json.Unmarshal(body, &problem); err == nil && problem.Detail != "" {
		text = problem.Detail
	}
	return clean(text)
}

// clean makes one line of a text, of at most maxReason runes.
func clean(text string) string {
	plain := strings.Join(strings.FieldsFunc(text, func(c rune) bool { return unicode.IsSpace(c) || !unicode.IsPrint(c) || c == utf8.RuneError }), " ")
	if runes := []rune(plain); len(runes) > maxReason {
		return string(runes[:maxReason]) + "..."
	}
	return plain
}

// String is the status, and the reason if there is one.
func (f *refusal) String() string {
	switch {
	case f.status == 0:
		return "not answered: " + f.reason
	case f.reason == "":
		return fmt.Sprintf("answered with %d, and no reason", f.status)
	}
	return fmt.Sprintf("answered with %d: \"%s\"", f.status, f.reason)
}

// lost records a request that no answer came to.
func (r *run) lost(p planned, x exchange, calledBack bool) {
	why := category(x.err)
	r.recorder.record(func(t *tally) {
		a := &t.arms[p.arm]
		if x.written != 0 {
			a.answered++
			a.waited += x.answered - x.written
		}
		a.errors[why]++
		if why == CategoryTimeout {
			a.timedOut++
		} else {
			a.errored++
		}
		a.unsuccessful.record(r.now() - p.at)
	})
	if calledBack {
		r.giveUp(p)
	}
}

// giveUp notes that it is not known whether a callback is due.
func (r *run) giveUp(p planned) {
	if r.book.lost(p.seq) {
		r.received.correct(func(c *Callbacks) { c.OfUnacknowledged++ })
	}
}

// answered records an answer. A sync request is complete with it.
func (r *run) answered(p planned, x exchange, answer target.Answer) {
	r.recorder.record(func(t *tally) {
		a := &t.arms[p.arm]
		a.answered++
		a.waited += x.answered - x.written
		latency := x.answered - p.at
		if answer.Category != "" {
			a.errors[answer.Category]++
		}
		switch answer.Kind {
		case target.Rejected:
			a.rejected++
			a.unsuccessful.record(latency)
			return
		case target.BadAnswer:
			a.errored++
			a.unsuccessful.record(latency)
			return
		}
		a.accepted++
		a.windowAccepted += r.recorder.inWindow(x.answered)
		if answer.Kind == target.WorkFailed {
			a.failed++
			a.unsuccessful.record(latency)
			return
		}
		a.response.record(latency)
		a.uncorrected.record(x.answered - x.written)
		if p.mode == tandem.Sync {
			a.completed++
			a.windowCompleted += r.recorder.inWindow(x.answered)
			a.completion.record(latency)
		}
	})
}

// acknowledged joins a 202 with its callback, if that is here already.
func (r *run) acknowledged(p planned, x exchange, answer target.Answer) (awaiting bool) {
	complete, wrongID := r.book.accepted(p.seq, answer.ID, x.answered)
	if wrongID {
		r.received.correct(func(c *Callbacks) { c.Verified--; c.Malformed++ })
	}
	return !complete
}

// completed records an async request that was acknowledged and called back.
func (r *run) completed(j joined) {
	if j.givenUp {
		r.overlong.Add(1)
	}
	early := j.first < j.answered
	if early {
		r.received.correct(func(c *Callbacks) { c.Early++ })
	}
	r.recorder.record(func(t *tally) {
		t.verification.record(j.verified - j.first)
		if !early {
			t.callbackLag.record(j.first - j.answered)
		}
		t.arms[1].outcome(j.callback.completed, j.verified-j.at, r.recorder.inWindow(j.verified))
	})
}

// outcome records what became of an accepted async request.
func (a *armTally) outcome(completed bool, latency time.Duration, inWindow int) {
	if completed {
		a.completed++
		a.windowCompleted += inWindow
		a.completion.record(latency)
		return
	}
	a.failed++
	a.errors[CategoryWork]++
	a.unsuccessful.record(latency)
}

// The pause between two polls that found nothing grows from shortestPause to
// longestPause. A service that holds its answer until there is an outcome is
// asked again at once.
const (
	shortestPause = 20 * time.Millisecond
	longestPause  = time.Second
)

// poll asks for the outcome of an accepted request until it is there, or
// Options.Drain or the run is over.
func (r *run) poll(ctx context.Context, p planned, poll target.Message, id string) {
	r.polling.Add(1)
	defer r.polling.Add(-1)
	deadline := r.now() + r.opts.Drain
	var failed *refusal // the last poll
	for pause := shortestPause; r.now() < deadline && ctx.Err() == nil; pause = min(2*pause, longestPause) {
		asked := r.now()
		var outcome target.Outcome
		var done bool
		if outcome, done, failed = r.ask(poll, id); done {
			r.recorder.record(func(t *tally) {
				t.arms[p.arm].outcome(outcome.Completed, r.now()-p.at, r.recorder.inWindow(r.now()))
			})
			return
		}
		select {
		case <-time.After(pause - (r.now() - asked)): // at once, if the service has held its answer for as long
		case <-ctx.Done():
		}
	}
	r.missing.add(id, p.seq)
	if ctx.Err() != nil {
		return
	}
	r.gaveUp.Add(1)
	if failed != nil {
		r.unpolled.CompareAndSwap(nil, failed)
	} else {
		r.overlong.Add(1)
	}
}

// ask polls once. failed is nil if it has told the outcome, or that there is none
// yet; what is wrong with it is worth another try.
func (r *run) ask(poll target.Message, id string) (o target.Outcome, done bool, failed *refusal) {
	x := r.poller.write(poll)
	if x.err == nil {
		r.poller.read(&x)
	}
	defer r.poller.done(x)
	if x.err != nil {
		return o, false, &refusal{0, x.err.Error()}
	}
	switch o, done = r.target.SortPoll(x.status, x.body); {
	case done && o.ID != "" && o.ID != id:
		return o, false, &refusal{x.status, "the outcome of another request, " + clean(o.ID)}
	case !done && (x.status != http.StatusOK || !json.Valid(x.body)):
		return o, false, &refusal{x.status, reasonIn(x.body)}
	}
	return o, done, nil
}
