package engine_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"tandem"
	"tandem/internal/engine"
)

// asked is one submission, as its caller knows it.
type asked struct {
	n        int
	callback bool
	key      string

	id       string
	safe     bool            // its caller was told that the request will be worked
	answer   *tandem.Request // its caller was told this outcome
	refused  bool            // its caller was told that it was not taken
	canceled bool            // somebody was told that it is cancelled

	notBefore time.Time
}

// maxAsked bounds the requests of one world, so that they meet each other.
const maxAsked = 30

// ask lets somebody ask for something.
func (w *world) ask() {
	n := w.rng.IntN(100)
	if len(w.asked) >= maxAsked {
		n = 65 + n*35/100
	}
	switch {
	case n < 40:
		w.accept()
	case n < 53:
		w.do()
	case n < 65:
		w.try()
	case n < 78:
		w.cancel()
	case n < 90:
		w.redeliver()
	default:
		w.leave()
	}
}

// caller is somebody who waits for an answer.
type caller struct {
	name  string
	leave context.CancelFunc
}

// call asks the live process for something. heard is told what to make of the
// answer, unless the process has crashed or the caller has left before it came.
func (w *world) call(name string, do func(ctx context.Context, e *engine.Engine) (err error), heard func(err error)) {
	p := w.live
	ctx, leave := context.WithCancel(context.Background())
	c := &caller{name, leave}
	w.note("p%d is asked to %s", p.n, name)
	w.mu.Lock()
	p.calls++
	w.callers = append(w.callers, c)
	w.mu.Unlock()
	go func() {
		err := do(ctx, p.engine)
		w.mu.Lock()
		p.calls--
		w.callers = slices.DeleteFunc(w.callers, func(other *caller) bool { return other == c })
		dead := p.dead
		w.mu.Unlock()
		if dead || ctx.Err() != nil {
			return
		}
		leave()
		w.note("p%d answers %s: %v", p.n, name, err)
		heard(err)
	}()
}

// submission makes up what somebody submits.
func (w *world) submission(async bool) (engine.Submission, *asked) {
	a := &asked{n: len(w.asked)}
	sub := engine.Submission{
		Workload:   []string{"burn", "idle"}[w.rng.IntN(2)],
		Complexity: 1,
		Data:       fmt.Appendf(nil, `{"r":%d}`, a.n),
		Owner:      []string{"", "ann"}[w.rng.IntN(2)],
	}
	if async && w.rng.IntN(10) < 7 {
		a.callback = true
		sub.CallbackURL = fmt.Sprintf("http://%c.example.com/hook", 'a'+w.rng.IntN(2))
		sub.CallbackAttempts = w.rng.IntN(4) // 0: as many as the service makes
	}
	soon := func() time.Duration {
		return []time.Duration{100 * time.Millisecond, 3 * time.Second, min(time.Hour, w.store.longest())}[w.rng.IntN(3)]
	}
	from := time.Now().UTC().Truncate(time.Microsecond)
	if async && w.rng.IntN(7) == 0 {
		a.notBefore = from.Add(soon())
		sub.NotBefore, from = a.notBefore, a.notBefore
	}
	if async && w.rng.IntN(5) == 0 {
		sub.ExpiresAt = from.Add(soon())
	}
	if w.rng.IntN(4) == 0 {
		a.key = strconv.Itoa(w.rng.IntN(5))
		sub.Idempotency.Key = a.key
		if async {
			sub.Idempotency.Fingerprint[0] = 1
		}
		a.key = sub.Owner + "/" + a.key
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, a)
	return sub, a
}

// told writes down what a caller was told of a submission.
func (w *world) told(a *asked, req *tandem.Request, replayed bool, refusal bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil:
		switch tandem.CodeOf(err) {
		case tandem.CodeBusy, tandem.CodeDraining, tandem.CodeInvalid:
			a.refused = true
		case tandem.CodeUnavailable:
			a.refused = refusal
		case tandem.CodeUnknown, tandem.CodeConflict:
		default:
			w.brokeLocked("r%d: the answer is %v", a.n, err)
		}
		return
	case replayed:
		w.happened["replayed"]++
		a.refused = true // its own request is not on record
		first := w.of[req.ID]
		if first == nil || first.key != a.key {
			w.brokeLocked("r%d under key %s is answered with %s, which is of another", a.n, a.key, w.names[req.ID])
			return
		}
		switch {
		case !req.Status.Worked():
			first.safe = true
			w.happened["replayed as a promise"]++
		case first.answer == nil:
			copied := *req
			first.answer = &copied
		}
		first.id = req.ID
		return
	}
	a.id = req.ID
	if req.Status.Worked() {
		copied := *req
		a.answer = &copied
	} else {
		a.safe = true
	}
}

func (w *world) accept() {
	sub, a := w.submission(true)
	w.count("accept")
	var req *tandem.Request
	var replayed bool
	w.call(fmt.Sprintf("accept r%d %s", a.n, a.key), func(ctx context.Context, e *engine.Engine) (err error) {
		req, replayed, err = e.Accept(ctx, sub)
		return err
	}, func(err error) {
		w.told(a, req, replayed, true, err)
		if err == nil {
			w.count("accepted")
		}
	})
}

func (w *world) do() {
	sub, a := w.submission(false)
	w.count("do")
	var req *tandem.Request
	var replayed bool
	w.call(fmt.Sprintf("do r%d %s", a.n, a.key), func(ctx context.Context, e *engine.Engine) (err error) {
		req, replayed, err = e.Do(ctx, sub)
		return err
	}, func(err error) {
		w.told(a, req, replayed, false, err)
		if err == nil {
			w.count("done")
		}
	})
}

func (w *world) try() {
	sub, a := w.submission(true)
	w.count("try")
	patience := []time.Duration{10 * time.Millisecond, time.Second, 20 * time.Second}[w.rng.IntN(3)]
	var req *tandem.Request
	var replayed bool
	w.call(fmt.Sprintf("try r%d %s for %v", a.n, a.key, patience), func(ctx context.Context, e *engine.Engine) (err error) {
		req, replayed, err = e.Try(ctx, sub, patience)
		return err
	}, func(err error) {
		w.told(a, req, replayed, false, err)
		switch {
		case err != nil:
		case a.safe:
			w.count("try promised")
		default:
			w.count("try answered")
		}
	})
}

// someRow draws a request that is on record; "" if none is.
func (w *world) someRow(suits func(*tandem.Request) bool) string {
	all := slices.SortedFunc(maps.Keys(w.rows), func(a, b string) int { return strings.Compare(w.names[a], w.names[b]) })
	all = slices.DeleteFunc(all, func(id string) bool {
		r := w.rows[id]
		return !suits(&r)
	})
	if len(all) == 0 {
		return ""
	}
	return all[w.rng.IntN(len(all))]
}

func (w *world) cancel() {
	id := w.someRow(func(r *tandem.Request) bool { return !r.Status.Worked() || w.rng.IntN(20) == 0 })
	if id == "" {
		return
	}
	w.call("cancel "+w.name(id), func(ctx context.Context, e *engine.Engine) error {
		_, err := e.Cancel(ctx, tandem.Anyone, id)
		return err
	}, func(err error) {
		if err == nil {
			w.count("cancelled")
			w.mu.Lock()
			defer w.mu.Unlock()
			w.of[id].canceled = true
		}
	})
}

func (w *world) redeliver() {
	if w.rng.IntN(4) == 0 {
		w.call("redeliver all that was given up", func(ctx context.Context, e *engine.Engine) error {
			_, _, err := e.RedeliverMany(ctx, engine.Query{Caller: tandem.Anyone, Callback: tandem.CallbackGivenUp, Limit: 3}, false)
			return err
		}, func(error) {})
		return
	}
	id := w.someRow(func(r *tandem.Request) bool { return r.Callback.URL != "" && r.Settled() })
	if id == "" {
		return
	}
	w.call("redeliver "+w.name(id), func(ctx context.Context, e *engine.Engine) error {
		_, err := e.Redeliver(ctx, tandem.Anyone, id)
		return err
	}, func(err error) {
		if err == nil {
			w.count("redelivered")
		}
	})
}

// leave lets one of those who wait go away.
func (w *world) leave() {
	w.mu.Lock()
	all := slices.Clone(w.callers)
	w.mu.Unlock()
	if len(all) == 0 {
		return
	}
	slices.SortStableFunc(all, func(a, b *caller) int { return strings.Compare(a.name, b.name) })
	c := all[w.rng.IntN(len(all))]
	w.note("who asked to %s leaves", c.name)
	w.count("caller leaves")
	c.leave()
}
