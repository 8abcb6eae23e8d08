package distributed

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
	"tandem/work"
)

const (
	// patience is how long a callback waits here for its host before its job goes
	// back, for any other process to take.
	patience = time.Second
	// again is when a step is tried again that could not be recorded.
	again = time.Second
	// stopGrace is how long River may take to put its jobs away once all steps
	// have ended.
	stopGrace = 10 * time.Second
)

// Run implements engine.Backend.
func (b *Backend) Run(ctx context.Context, steps engine.Steps) error {
	b.signals.steps.Store(&steps)
	defer b.signals.steps.Store(nil)
	if err := b.breakers.look(ctx); err != nil && ctx.Err() == nil {
		b.log.Warn("which hosts are left alone is not known yet; it will be read again", "error", err)
	}
	if b.opts.NoSteps {
		<-ctx.Done()
		return nil
	}
	r := &runner{
		b:        b,
		steps:    steps,
		ctx:      ctx,
		stepCtx:  context.WithoutCancel(ctx),
		suspects: make(chan struct{}, 1),
		lines:    make(map[string]*line),
		places:   newPlaces(b.opts.MaxAttempts),
	}
	for _, lane := range []string{work.CPU.String(), work.Waits.String()} {
		r.lines[processQueue(lane)] = &line{slots: b.opts.Slots[lane]}
	}
	if err := b.lookForPauses(ctx); err != nil { // it is looked for again soon
		b.log.Warn("no step is taken at once yet", "error", err)
	}
	b.here.Store(r)
	defer b.here.Store(nil)
	client, err := r.start()
	if err != nil {
		return err
	}
	var loops sync.WaitGroup
	loops.Go(func() { r.every(expiryCheck, "failing expired requests", r.expire) })
	loops.Go(func() { r.every(overdueCheck, "failing interrupted requests", r.failOverdue) })
	loops.Go(func() { r.every(time.Minute, "deleting what is too old", r.forget) })
	loops.Go(func() { r.every(restoreCheck, "making lost jobs again", b.restore) })
	if b.opts.Retain > 0 {
		loops.Go(func() { r.every(store.PruneEvery(b.opts.Retain), "deleting old requests", b.prune) })
	}
	<-ctx.Done()
	r.running.close()
	if client != nil {
		r.stop(client)
	}
	r.running.wait()
	loops.Wait()
	return nil
}

// runner is one Run under way.
type runner struct {
	b        *Backend
	steps    engine.Steps
	ctx      context.Context  // Run's
	stepCtx  context.Context  // of the steps; it does not end with Run's
	running  atWork           // the jobs
	suspects chan struct{}    // held by the one suspect that runs
	lines    map[string]*line // of process jobs, by their queue
	places   *places
}

// line is where the requests of a lane wait for their slot.
func (r *runner) line(lane string) *line { return r.lines[processQueue(lane)] }

// start makes a client that takes jobs. It tries until it has one, or nil when
// ctx ends: Postgres may be away for a moment.
func (r *runner) start() (*riverClient, error) {
	config := r.b.riverConfig(kinds(r))
	config.Queues = map[string]river.QueueConfig{deliverQueue: {MaxWorkers: min(r.b.opts.MaxAttempts, river.QueueNumWorkersMax)}}
	for queue, line := range r.lines {
		config.Queues[queue] = river.QueueConfig{MaxWorkers: line.most()}
	}
	for r.ctx.Err() == nil {
		client, err := river.NewClient(fewer{riverpgxv5.New(r.b.queue), r.lines}, config)
		if err != nil {
			return nil, fmt.Errorf("open the queue: %w", err)
		}
		if err = client.Start(r.stepCtx); err == nil {
			return client, nil
		}
		r.b.log.Error("starting the queue failed, trying again", "error", err)
		store.Pause(r.ctx, again)
	}
	return nil, nil
}

// stop takes no more jobs and waits for those that run. It leaves what River
// cannot put away to be rescued.
func (r *runner) stop(client *riverClient) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() {
		r.running.wait()
		store.Pause(ctx, stopGrace)
		cancel(errors.New("the database does not answer"))
	}()
	if err := client.Stop(ctx); err != nil {
		r.b.log.Warn("the queue was not stopped in order; its jobs will be rescued", "error", context.Cause(ctx))
	}
}

// process is a process job: it runs the step if it is due, and says when to look
// again if it is not.
func (r *runner) process(ctx context.Context, id string, job age) error {
	r.running.begin()
	defer r.running.end()
	for {
		found, err := r.b.rows.read(ctx, id)
		req := &found.Request
		switch {
		case tandem.CodeOf(err) == tandem.CodeNotFound || err == nil && req.Status.Worked():
			return nil
		case err != nil:
			return r.later("a request could not be read", id, err)
		case req.Status == tandem.Pending:
			return r.begin(ctx, req, job)
		}
		// It is being processed, or was by a process that is dead.
		wait := r.b.lease() - r.b.now().Sub(req.StartedAt)
		if found.startedBy == r.b.name && !r.b.working.has(id) { // here, and the commit was not known
			wait = 0
		}
		if wait > 0 {
			return river.JobSnooze(min(wait, r.b.lease()))
		}
		err = r.b.takeOver(r.stepCtx, req)
		if err != nil && tandem.CodeOf(err) != tandem.CodeConflict {
			return r.later("a request could not be taken over", id, err)
		}
		r.b.log.Info("took over a request from a process that has gone", "request_id", id, "from", found.startedBy)
	}
}

// begin runs the work of a pending request, if it may begin. If it has to wait
// for too long, the job goes back to its place in the queue.
func (r *runner) begin(ctx context.Context, req *tandem.Request, job age) error {
	if wait := req.NotBefore.Sub(r.b.now()); wait > 0 {
		return river.JobSnooze(wait)
	}
	line := r.line(req.Lane)
	waiting, cancel := context.WithTimeout(ctx, slotPatience)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	if req.Starts > 0 {
		// An earlier start was interrupted, by a crash that it may have caused.
		// Suspects run one at a time: so the one that takes the process down
		// does not use up the starts of the others.
		trusted, ok := line.suspect()
		if !ok { // those that are none go first, or nothing else would be taken
			return river.JobSnooze(slotPatience)
		}
		select {
		case r.suspects <- struct{}{}:
			trusted()
			defer func() { <-r.suspects }()
		case <-waiting.Done():
			trusted()
			return keepPlace(job)
		}
	}
	err := line.reserve(waiting, job, func(ctx context.Context) error { return r.steps.Reserve(ctx, req.Lane) })
	switch {
	case err != nil:
		return keepPlace(job)
	case r.ctx.Err() != nil:
		r.steps.Unreserve(req.Lane)
		return keepPlace(job)
	}
	r.b.processJobs.put(req.ID, ownJob{id: job.id})
	defer r.b.processJobs.remove(req.ID)
	line.begin()
	err = r.steps.Process(r.stepCtx, req)
	line.end()
	switch {
	case err == nil && req.Status == tandem.Pending: // given back
		return keepPlace(job)
	case err == nil:
		return nil
	case tandem.CodeOf(err) == tandem.CodeConflict:
		return river.JobSnooze(0) // the row says what has happened
	default:
		return r.later("a request could not be worked to its end", req.ID, err)
	}
}

// later puts off a job whose step could not be recorded.
func (r *runner) later(what, id string, err error) error {
	if r.ctx.Err() != nil {
		return river.JobSnooze(0) // another process may have more luck
	}
	r.b.log.Error(what+", trying again", "request_id", id, "error", err)
	return river.JobSnooze(again)
}

const (
	// expiryCheck is how often requests are looked for that have expired while
	// they waited, and overdueCheck sync requests whose process is gone.
	expiryCheck  = 500 * time.Millisecond
	overdueCheck = 5 * time.Second
	// standIn is how long the other processes leave to the one that leads the
	// queue what it may fail: it may have died, and another not lead yet.
	standIn = 5 * time.Second
)

// every runs a chore until ctx ends. All processes run all of them: each is a
// guarded write, and harmless if another was first.
//
// Those that fail requests in great numbers are the leading process's: the others
// would but read the same rows and wait for its locks. What it has left undone for
// standIn, they do.
func (r *runner) every(interval time.Duration, what string, chore func(context.Context) error) {
	for ; r.ctx.Err() == nil; store.Pause(r.ctx, interval) {
		if err := chore(r.ctx); err != nil && r.ctx.Err() == nil {
			r.b.log.Error(what+" failed, trying again", "error", err)
		}
	}
}

// ours is since when what has come due is this process's to see to.
func (r *runner) ours(ctx context.Context) (time.Time, error) {
	leads, err := r.b.leads(ctx)
	if leads {
		return r.b.now(), err
	}
	return r.b.now().Add(-standIn), err
}

// expire fails what has expired.
func (r *runner) expire(ctx context.Context) error {
	before, err := r.ours(ctx)
	if err != nil {
		return err
	}
	expired, err := r.b.expired(ctx, before)
	if err != nil {
		return err
	}
	return r.each(expired, func(req *tandem.Request) error {
		engine.Expire(req, r.b.now())
		return r.b.Fail(ctx, req)
	})
}

// failOverdue fails sync requests that no process can still be working.
func (r *runner) failOverdue(ctx context.Context) error {
	before, err := r.ours(ctx)
	if err != nil {
		return err
	}
	overdue, err := r.b.overdue(ctx, before.Add(-r.b.lease()))
	if err != nil {
		return err
	}
	return r.each(overdue, func(req *tandem.Request) error {
		if r.b.working.has(req.ID) {
			return nil
		}
		return r.b.Complete(ctx, engine.Interrupted(req, r.b.now()))
	})
}

// each does something about every row, all at once so that they share commits.
func (r *runner) each(rows []row, do func(*tandem.Request) error) error {
	faults := make([]error, len(rows))
	var all sync.WaitGroup
	for i := range rows {
		all.Go(func() {
			if err := do(&rows[i].Request); tandem.CodeOf(err) != tandem.CodeConflict {
				faults[i] = err
			}
		})
	}
	all.Wait()
	return errors.Join(faults...)
}

// forget deletes what is too old to matter.
func (r *runner) forget(ctx context.Context) error {
	_, err := r.b.pool.Exec(ctx, forgetKeysQuery, r.b.now().Add(-engine.IdempotencyKept).UnixMicro())
	_, ratesErr := r.b.queue.Exec(ctx, forgetRatesQuery)
	return errors.Join(err, ratesErr, r.b.breakers.forget(ctx))
}

const forgetRatesQuery = `DELETE FROM rate_limits WHERE till < (extract(epoch FROM now()) * 1000000)::bigint`

// A key that is taken anew meanwhile is not too old any more.
const forgetKeysQuery = `DELETE FROM idempotency_keys WHERE created_at < $1 AND ctid = ANY(ARRAY(
	SELECT ctid FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT 1000))`

// atWork counts the jobs that run. Unlike a sync.WaitGroup it can be waited for
// while River begins another: one that it had fetched already.
type atWork struct {
	mu     sync.Mutex
	n      int
	closed bool
	idle   chan struct{} // closed when n comes to 0; nil while nobody waits
}

// mayBegin begins one, unless no more are to.
func (a *atWork) mayBegin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.n++
	}
	return !a.closed
}

// close lets mayBegin begin no more.
func (a *atWork) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
}

func (a *atWork) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n++
}

func (a *atWork) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.n--; a.n == 0 && a.idle != nil {
		close(a.idle)
		a.idle = nil
	}
}

// wait returns once none runs.
func (a *atWork) wait() {
	a.mu.Lock()
	if a.n == 0 {
		a.mu.Unlock()
		return
	}
	if a.idle == nil {
		a.idle = make(chan struct{})
	}
	idle := a.idle
	a.mu.Unlock()
	<-idle
}
