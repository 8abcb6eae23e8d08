package storetest

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"tandem"
	"tandem/internal/callback"
	"tandem/internal/engine"
)

// steps stands in for the engine, to see what a backend runs and to make it
// fail where a case wants that.
type steps struct {
	b engine.Backend

	// process, if set, decides what becomes of a started request.
	process func(req *tandem.Request) error
	// committed, if set, is called when the outcome of a request is committed,
	// before the backend is told so.
	committed func(req *tandem.Request)
	// admit and deliver, if set, do the same for attempts; without them every
	// host admits, and every attempt delivers.
	admit   func(host string) engine.Admission
	deliver func(req *tandem.Request)
	// tooOld, if set, says which callbacks are too old; without it none is.
	tooOld func() (owed, due time.Time)

	processed chan string // ids, in the order of their outcome
	delivered chan string

	interrupted chan string // ids and reasons

	attempting sync.Map     // ids of requests with an attempt under way
	twice      atomic.Int32 // attempts that were under way beside another of the same request
	early      atomic.Int32 // attempts that were made before they were due
}

func newSteps(b engine.Backend) *steps {
	return &steps{b: b, processed: make(chan string, 10_000), delivered: make(chan string, 10_000), interrupted: make(chan string, 100)}
}

func (st *steps) Reserve(context.Context, string) error { return nil }
func (st *steps) Unreserve(string)                      {}

func (st *steps) Process(ctx context.Context, req *tandem.Request) error {
	if req.Status == tandem.Pending {
		req.StartedAt = now()
		if err := st.b.Start(ctx, req); err != nil {
			return err
		}
	}
	if st.process != nil {
		if err := st.process(req); err != nil {
			return err
		}
	}
	if err := st.b.Complete(ctx, succeed(req)); err != nil {
		return err
	}
	if st.committed != nil {
		st.committed(req)
	}
	st.processed <- req.ID
	return nil
}

func (st *steps) Interrupt(id string, why tandem.FailureCode) {
	select {
	case st.interrupted <- id + " " + string(why):
	default:
	}
}

// Breaker and SetBreaker: steps has no breakers of its own.
func (st *steps) Breaker(string) callback.Breaker     { return callback.Breaker{} }
func (st *steps) SetBreaker(string, callback.Breaker) {}

func (st *steps) Admit(host string) engine.Admission {
	if st.admit != nil {
		return st.admit(host)
	}
	return engine.Admission{OK: true}
}

func (st *steps) Leave(string) {}

func (st *steps) TooOld() (owed, due time.Time) {
	if st.tooOld != nil {
		return st.tooOld()
	}
	return time.Time{}, time.Time{}
}

func (st *steps) Deliver(ctx context.Context, host string, req *tandem.Request) error {
	if req.Status == "" {
		row, err := st.b.Request(ctx, req.ID)
		if err != nil {
			return err
		}
		*req = row
	}
	if req.Callback.NextAt.IsZero() {
		return &tandem.Error{Code: tandem.CodeConflict, Message: "nothing is owed"}
	}
	if time.Until(req.Callback.NextAt) > 100*time.Millisecond { // by which the clock may be set
		st.early.Add(1)
	}
	if _, other := st.attempting.LoadOrStore(req.ID, true); other {
		st.twice.Add(1)
	}
	a := tandem.Attempt{Number: req.Callback.Attempts + 1, At: now(), Status: 204}
	cb := &req.Callback
	cb.Attempts, cb.State, cb.NextAt, req.Status = a.Number, tandem.CallbackDelivered, time.Time{}, tandem.CallbackSent
	if st.deliver != nil {
		st.deliver(req)
	}
	st.attempting.Delete(req.ID)
	if err := st.b.RecordAttempt(ctx, req, a); err != nil {
		if tandem.CodeOf(err) == tandem.CodeConflict {
			st.twice.Add(1)
		}
		return err
	}
	st.delivered <- req.ID
	return nil
}

// flakyStart fails the first start as a full disk would.
type flakyStart struct {
	*steps
	once sync.Once
}

func (f *flakyStart) Process(ctx context.Context, req *tandem.Request) error {
	var err error
	f.once.Do(func() { err = &tandem.Error{Code: tandem.CodeUnavailable, Message: "storage cannot be written"} })
	if err != nil {
		return err
	}
	return f.steps.Process(ctx, req)
}

// flakyDelivery is told to go on with the first attempt of a callback, and then
// cannot record it.
type flakyDelivery struct {
	*steps
	id   string
	goOn chan struct{}
	once sync.Once
}

func (f *flakyDelivery) Deliver(ctx context.Context, host string, req *tandem.Request) error {
	var err error
	if req.ID == f.id {
		f.once.Do(func() {
			<-f.goOn
			err = &tandem.Error{Code: tandem.CodeUnavailable, Message: "storage cannot be written"}
		})
	}
	if err != nil {
		return err
	}
	return f.steps.Deliver(ctx, host, req)
}
