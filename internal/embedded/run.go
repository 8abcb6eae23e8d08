package embedded

import (
	"context"
	"fmt"
	"sync"
	"time"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
	"tandem/work"
)

// lanes are the kinds of slots; each has a backlog of its own, so that waiting
// work is not held up behind CPU-bound work.
var lanes = []string{work.CPU.String(), work.Waits.String()}

// inStep bounds the requests of one lane that are between leaving the backlog
// and having their outcome on disk.
const inStep = 1024

// Run implements engine.Backend.
func (b *Backend) Run(ctx context.Context, steps engine.Steps) error {
	hosts, err := b.owedHosts(ctx)
	if ctx.Err() != nil { // stopped before it began
		return nil
	}
	if err != nil {
		return fmt.Errorf("take up owed callbacks: %w", err)
	}
	for _, host := range hosts {
		b.deliveries.takeUp(host)
	}
	r := &runner{
		backend:  b,
		steps:    steps,
		ctx:      ctx,
		stepCtx:  context.WithoutCancel(ctx),
		suspects: make(chan struct{}, 1),
		rooms:    make(map[string]chan struct{}),
	}
	for _, lane := range lanes {
		r.rooms[lane] = make(chan struct{}, inStep)
	}
	b.runner.Store(r)
	var loops sync.WaitGroup
	for _, lane := range lanes {
		loops.Go(func() { r.work(ctx, lane) })
	}
	loops.Go(func() { b.deliveries.run(ctx, steps, r.deliver) })
	loops.Go(func() { r.expire(ctx) })
	loops.Go(func() { r.giveUp(ctx) })
	loops.Go(func() { r.forgetKeys(ctx) })
	if b.opts.Retain > 0 {
		loops.Go(func() { r.prune(ctx) })
	}
	loops.Wait()
	r.endAccepting()
	r.running.Wait()
	return nil
}

// runner is one Run under way.
type runner struct {
	backend  *Backend
	steps    engine.Steps
	ctx      context.Context // Run's
	stepCtx  context.Context // of the steps; it does not end with Run's
	running  crew            // the steps
	suspects chan struct{}   // held by the one suspect that runs

	rooms map[string]chan struct{} // by lane: held by each request in step

	mu        sync.Mutex
	ended     bool           // mayStart lets none begin any more
	accepting sync.WaitGroup // those that it has let begin, and accepted has not heard of
}

// mayStart reports whether a request that is about to be accepted may be started
// in the same write: there is a slot for it, and nothing that was accepted before
// waits for one. What becomes of it is told to accepted.
func (r *runner) mayStart(req *tandem.Request) bool {
	if r == nil || req.Mode != tandem.Async || req.Status != tandem.Pending || !req.NotBefore.IsZero() || !r.backend.backlogs[req.Lane].empty() {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || r.ctx.Err() != nil {
		return false
	}
	select {
	case r.rooms[req.Lane] <- struct{}{}:
	default:
		return false
	}
	if r.steps.Reserve(store.AtOnce, req.Lane) != nil {
		<-r.rooms[req.Lane]
		return false
	}
	r.accepting.Add(1)
	return true
}

// accepted is told what has become of a request that mayStart let begin: it is on
// disk, and started, or it is not.
func (r *runner) accepted(req *tandem.Request, started bool) {
	defer r.accepting.Done()
	if !started {
		r.steps.Unreserve(req.Lane)
		<-r.rooms[req.Lane]
		return
	}
	r.running.Go(func() { r.step(r.ctx, req.Lane, req) })
}

// endAccepting waits for the writes of those that mayStart has let begin. They
// are the last to be worked.
func (r *runner) endAccepting() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.accepting.Wait()
}

// work starts the requests of a lane, in order, until ctx ends.
func (r *runner) work(ctx context.Context, lane string) {
	queue := r.backend.backlogs[lane]
	room := r.rooms[lane]
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		req, err := queue.pop(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.backend.log.Error("reading the backlog failed, trying again", "lane", lane, "error", err)
			store.Pause(ctx, time.Second)
			<-room
			continue
		case req.Starts > 0:
			r.running.Go(func() {
				owes := r.processSuspect(ctx, lane, req)
				<-room
				if owes {
					r.handOn(ctx, req)
				}
			})
			continue
		}
		if r.steps.Reserve(ctx, lane) != nil { // ctx ended; the request stays pending on disk
			return
		}
		r.running.Go(func() { r.step(ctx, lane, req) })
	}
}

// step works a request that has a reservation and room, and makes the first
// attempt at the callback that it owes then.
func (r *runner) step(ctx context.Context, lane string, req *tandem.Request) {
	owes := r.process(ctx, lane, req)
	<-r.rooms[lane]
	if owes {
		r.handOn(ctx, req)
	}
}

// processSuspect runs a request whose earlier start was interrupted, by a crash
// that it may have caused. Suspects run one at a time: so the one that takes
// the process down does not use up the starts of the others.
func (r *runner) processSuspect(ctx context.Context, lane string, req *tandem.Request) (owes bool) {
	select {
	case r.suspects <- struct{}{}:
		defer func() { <-r.suspects }()
	case <-ctx.Done():
		return false
	}
	return r.steps.Reserve(ctx, lane) == nil && r.process(ctx, lane, req)
}

// process runs the step of one request, and reports whether it owes a callback
// now. Then that is held, for handOn.
func (r *runner) process(ctx context.Context, lane string, req *tandem.Request) (owes bool) {
	if id, url := req.ID, req.Callback.URL; url != "" {
		r.backend.deliveries.hold(id)
		defer func() {
			if !owes {
				r.backend.deliveries.leave(id, engine.HostOf(url), 0)
			}
		}()
	}
	err := r.steps.Process(r.stepCtx, req)
	switch {
	case err == nil:
		return !req.Callback.NextAt.IsZero()
	case tandem.CodeOf(err) == tandem.CodeConflict:
		// It was cancelled or has expired: nothing is left to do.
	case req.Status == tandem.Pending && ctx.Err() == nil:
		r.backend.log.Error("a request could not be started, trying again", "request_id", req.ID, "error", err)
		store.Pause(ctx, time.Second)
		r.backend.backlogs[lane].pushFront(req)
	case ctx.Err() == nil:
		r.backend.log.Error("a request could not be finished; a restart takes it up", "request_id", req.ID, "error", err)
	}
	return false
}

// handOn makes the first attempt at a callback that was just committed as owed,
// without a detour, if it may be made now; else it queues the callback.
func (r *runner) handOn(ctx context.Context, req *tandem.Request) {
	if ctx.Err() == nil {
		if owed, host, ok := r.backend.deliveries.begin(req, r.steps); ok {
			r.attempt(owed, host)
			return
		}
	}
	r.backend.deliveries.push(req)
}

// expiryCheck is how often requests are looked for that have expired while they
// waited.
const expiryCheck = 500 * time.Millisecond

// expire fails what has expired, until ctx ends.
func (r *runner) expire(ctx context.Context) {
	for ; ctx.Err() == nil; store.Pause(ctx, expiryCheck) {
		expired, err := r.backend.expired(ctx, r.backend.now(), backlogCap)
		if err != nil && ctx.Err() == nil {
			r.backend.log.Error("reading expired requests failed, trying again", "error", err)
		}
		err = store.Each(expired, func(req *tandem.Request) error {
			engine.Expire(req, r.backend.opts.Now())
			return r.backend.Fail(ctx, req)
		})
		if err != nil && ctx.Err() == nil {
			r.backend.log.Error("failing expired requests failed, trying again", "error", err)
		}
	}
}

// forgetKeys deletes old Idempotency-Keys, until ctx ends.
func (r *runner) forgetKeys(ctx context.Context) {
	for ; ctx.Err() == nil; store.Pause(ctx, time.Minute) {
		if err := r.backend.forgetKeys(ctx); err != nil && ctx.Err() == nil {
			r.backend.log.Error("deleting old idempotency keys failed, trying again", "error", err)
		}
	}
}

// deliver makes one attempt in the background.
func (r *runner) deliver(owed debt, host string) {
	r.running.Go(func() { r.attempt(owed, host) })
}

// attempt makes one attempt.
func (r *runner) attempt(owed debt, host string) {
	req := owed.req
	if req == nil {
		req = &tandem.Request{ID: owed.id}
	}
	err := r.steps.Deliver(r.stepCtx, host, req)
	deliveries := r.backend.deliveries
	deliveries.ended(host)
	switch {
	case err == nil && !req.Callback.NextAt.IsZero():
		deliveries.push(req)
	case err == nil, tandem.CodeOf(err) == tandem.CodeConflict: // someone else has delivered it, or given it up
		deliveries.settled(owed.id)
	default:
		r.backend.log.Warn("a delivery attempt was not recorded and will be repeated", "request_id", owed.id, "error", err)
		deliveries.leave(owed.id, host, time.Second) // not at once: what failed will fail again
	}
}
