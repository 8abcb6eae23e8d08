package engine_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
	"tandem/internal/storetest"
)

// model is engine.Backend in its plainest form: a map behind a lock, and loops
// that look through all of it. It is what the simulation runs the engine on,
// and it passes the same suite as every backend.
type model struct {
	*table
	maxPending int
	now        func() time.Time
	lookForOld time.Duration // how often

	// Of this process; the lock is the table's.
	closed   bool
	notes    []tandem.Request         // begun and not written yet
	watchers map[chan struct{}]string // value: the request's id
	held     map[string]tandem.Status // requests that a step of this process has, and how they stood then
}

// table is what outlives a process.
type table struct {
	mu       sync.Mutex
	rows     map[string]*row
	order    []*row // by Seq
	keys     map[ownedKey]claim
	counters map[standing]sums
	errors   map[ownedError]int64
	changed  chan struct{} // closed by the next commit
	version  int           // raised by every change of a row
}

type row struct {
	tandem.Request
	attempts []tandem.Attempt
}

type ownedKey struct{ owner, key string }

type claim struct {
	id          string
	fingerprint [32]byte
	at          time.Time
}

type standing struct {
	owner    string
	mode     tandem.Mode
	status   tandem.Status
	callback tandem.CallbackState
}

type sums struct {
	n          int64
	processing time.Duration
}

func newTable() *table {
	return &table{
		rows:     make(map[string]*row),
		keys:     make(map[ownedKey]claim),
		counters: make(map[standing]sums),
		errors:   make(map[ownedError]int64),
		changed:  make(chan struct{}),
	}
}

// openModel begins a process on the table, and puts right what the one before
// it left.
func openModel(t *table, maxPending int) *model {
	m := &model{
		table:      t,
		maxPending: maxPending,
		now:        func() time.Time { return time.Now().UTC().Truncate(time.Microsecond) },
		lookForOld: 100 * time.Millisecond,
		watchers:   make(map[chan struct{}]string),
		held:       make(map[string]tandem.Status),
	}
	m.rescue(func(*row) bool { return true })
	return m
}

// rescue puts right what a process that is gone left unfinished.
func (m *model) rescue(its func(*row) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.order {
		next := r.Request
		switch promised := r.Mode == tandem.Async && !r.Waited; {
		case !its(r):
			continue
		case r.Status == tandem.Processing && promised && r.Starts < tandem.MaxStarts:
			next.Status, next.StartedAt = tandem.Pending, time.Time{}
		case r.Status == tandem.Processing && promised:
			m.fail(&next, tandem.FailureCrashed)
		case r.Status == tandem.Processing || r.Status == tandem.Pending && r.Waited:
			m.fail(&next, tandem.FailureInterrupted)
		default:
			continue
		}
		m.put(r, next)
	}
	m.announce()
}

func (m *model) fail(req *tandem.Request, code tandem.FailureCode) {
	req.Status, req.WorkedAt = tandem.Failed, m.now()
	req.Failure = &tandem.Failure{Code: code, Message: "found unfinished by a restart"}
	if req.Callback.State == tandem.CallbackPending {
		req.Callback.NextAt = req.WorkedAt
	}
	m.countError(req.Owner, "work", string(code))
}

// put changes a row, and the counters with it.
func (t *table) put(r *row, next tandem.Request) {
	t.version++
	t.count(&r.Request, -1)
	r.Request = next
	t.count(&r.Request, +1)
}

func (t *table) add(req tandem.Request) *row {
	t.version++
	r := &row{Request: req}
	r.Seq = int64(len(t.order) + 1)
	t.rows[r.ID] = r
	t.order = append(t.order, r)
	t.count(&r.Request, +1)
	return r
}

func (t *table) count(req *tandem.Request, n int64) {
	key := standing{req.Owner, req.Mode, req.Status, req.Callback.State}
	c := t.counters[key]
	c.n += n
	if req.Status.Worked() {
		c.processing += time.Duration(n) * req.ProcessingTime()
	}
	t.counters[key] = c
}

func (t *table) countError(owner, source, category string) {
	t.errors[ownedError{owner, source, category}]++
}

// ownedError is what errors are counted by.
type ownedError struct{ owner, source, category string }

// announce wakes the loops, of all processes.
func (t *table) announce() {
	close(t.changed)
	t.changed = make(chan struct{})
}

var (
	errMoved   = &tandem.Error{Code: tandem.CodeConflict, Message: "the request has moved on"}
	errMissing = &tandem.Error{Code: tandem.CodeNotFound, Message: "there is no such request"}
)

// commit makes a change, and writes what was only noted along with it.
func (m *model) commit(change func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return &tandem.Error{Code: tandem.CodeDraining, Message: "closed"}
	}
	for _, req := range m.notes {
		if m.rows[req.ID] == nil {
			m.add(req)
		}
	}
	m.notes = nil
	err := change()
	m.announce()
	return err
}

// change makes a change to one row if it stands as guard asks.
func (m *model) change(ctx context.Context, req *tandem.Request, guard func(*row) bool, to func(*row, *tandem.Request)) error {
	return unlessLeft(ctx, m.commit(func() error {
		r := m.rows[req.ID]
		if r == nil || !guard(r) {
			return errMoved
		}
		next := r.Request
		to(r, &next)
		if next.Status.Worked() && !r.Status.Worked() {
			m.tell(r.ID)
		}
		m.put(r, next)
		return nil
	}))
}

// unlessLeft is the outcome of a write for a caller who may have left.
func unlessLeft(ctx context.Context, err error) error {
	if err == nil && ctx.Err() != nil {
		return &tandem.Error{Code: tandem.CodeUnknown, Message: "the caller left", Err: ctx.Err()}
	}
	return err
}

func (m *model) tell(id string) {
	for ch, of := range m.watchers {
		if of == id {
			close(ch)
			delete(m.watchers, ch)
		}
	}
}

func (m *model) Accept(ctx context.Context, req *tandem.Request) error {
	_, err := m.insert(ctx, req, nil)
	return err
}

func (m *model) Claim(ctx context.Context, req *tandem.Request, key engine.IdempotencyKey) (string, error) {
	return m.insert(ctx, req, &key)
}

func (m *model) insert(ctx context.Context, req *tandem.Request, key *engine.IdempotencyKey) (holder string, err error) {
	err = m.commit(func() error {
		if key != nil {
			if holder, err = m.holder(req.Owner, *key); err != nil || holder != "" {
				return err
			}
		}
		if req.Status == tandem.Pending && m.pending() >= int64(m.maxPending) {
			return &tandem.Error{Code: tandem.CodeBusy, Message: "the backlog is full", RetryAfter: time.Second}
		}
		req.Seq = m.add(*req).Seq
		if key != nil {
			m.keys[ownedKey{req.Owner, key.Key}] = claim{req.ID, key.Fingerprint, req.CreatedAt}
		}
		return nil
	})
	if err := unlessLeft(ctx, err); err != nil {
		return "", err
	}
	return holder, nil
}

func (m *model) pending() (n int64) {
	for key, c := range m.counters {
		if key.mode == tandem.Async && key.status == tandem.Pending {
			n += c.n
		}
	}
	return n
}

func (m *model) holder(owner string, key engine.IdempotencyKey) (string, error) {
	c, ok := m.keys[ownedKey{owner, key.Key}]
	switch {
	case !ok || c.at.Before(m.now().Add(-engine.IdempotencyKept)):
		return "", nil
	case c.fingerprint != key.Fingerprint:
		return "", engine.ErrKeyReused
	}
	return c.id, nil
}

func (m *model) Holder(_ context.Context, owner string, key engine.IdempotencyKey) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.holder(owner, key)
}

func (m *model) Begin(req *tandem.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notes = append(m.notes, *req)
}

func (m *model) Start(ctx context.Context, req *tandem.Request) error {
	return m.change(ctx, req,
		func(r *row) bool { return r.Status == tandem.Pending && r.Epoch == req.Epoch },
		func(r *row, next *tandem.Request) {
			next.Status, next.StartedAt = tandem.Processing, req.StartedAt
			next.Starts++
			next.Epoch++
			req.Status, req.Starts, req.Epoch = next.Status, next.Starts, next.Epoch
		})
}

func (m *model) Requeue(ctx context.Context, req *tandem.Request) error {
	return m.change(ctx, req,
		func(r *row) bool { return r.Status == tandem.Processing && r.Epoch == req.Epoch },
		func(r *row, next *tandem.Request) {
			next.Status, next.StartedAt = tandem.Pending, time.Time{}
			next.Starts--
			req.Status, req.StartedAt, req.Starts = next.Status, next.StartedAt, next.Starts
		})
}

func (m *model) Complete(ctx context.Context, req *tandem.Request) error {
	m.mu.Lock()
	m.notes = slices.DeleteFunc(m.notes, func(note tandem.Request) bool { return note.ID == req.ID })
	missing := m.rows[req.ID] == nil
	m.mu.Unlock()
	if missing && req.Mode == tandem.Sync {
		return m.commit(func() error {
			m.add(*req)
			m.tell(req.ID)
			m.countFailure(req)
			return nil
		})
	}
	return m.change(ctx, req,
		func(r *row) bool { return r.Status == tandem.Processing && r.Epoch == req.Epoch },
		func(r *row, next *tandem.Request) {
			next.Status, next.Result, next.Failure = req.Status, req.Result, req.Failure
			next.StartedAt, next.WorkedAt = req.StartedAt, req.WorkedAt
			m.owe(req, next)
			m.countFailure(req)
		})
}

func (m *model) Fail(ctx context.Context, req *tandem.Request) error {
	return m.change(ctx, req,
		func(r *row) bool { return r.Status == tandem.Pending && r.Epoch == req.Epoch },
		func(r *row, next *tandem.Request) {
			next.Status, next.Failure, next.WorkedAt = tandem.Failed, req.Failure, req.WorkedAt
			m.owe(req, next)
			m.countFailure(req)
			req.Status = tandem.Failed
		})
}

// owe notes the debt of a callback. A request that was waited for may have been
// released meanwhile.
func (m *model) owe(req, next *tandem.Request) {
	if req.Waited {
		req.Callback.State, req.Callback.NextAt = next.Callback.State, time.Time{}
		if next.Callback.State == tandem.CallbackPending {
			req.Callback.NextAt = req.WorkedAt
		}
	}
	next.Callback.NextAt = req.Callback.NextAt
}

func (m *model) countFailure(req *tandem.Request) {
	if req.Failure != nil {
		m.countError(req.Owner, "work", string(req.Failure.Code))
	}
}

func (m *model) Release(ctx context.Context, req *tandem.Request) error {
	return m.change(ctx, req,
		func(r *row) bool { return r.Waited && !r.Status.Worked() },
		func(r *row, next *tandem.Request) {
			next.Waited = false
			if next.Callback.URL != "" {
				next.Callback.State = tandem.CallbackPending
			}
			req.Waited, req.Callback.State = false, next.Callback.State
		})
}

// Interrupt has nobody to ask: all that works on a model is in one process.
func (m *model) Interrupt(context.Context, string, tandem.FailureCode) error { return nil }

func (m *model) Redeliver(ctx context.Context, req *tandem.Request) error {
	return m.change(ctx, req,
		func(r *row) bool { return r.Status == req.Status && r.Callback.State == req.Callback.State },
		func(r *row, next *tandem.Request) {
			next.Callback.State, req.Callback.State = tandem.CallbackPending, tandem.CallbackPending
			next.Callback.NextAt, next.Callback.Since, next.Callback.MaxAttempts = req.Callback.NextAt, req.Callback.Since, req.Callback.MaxAttempts
		})
}

func (m *model) RecordAttempt(ctx context.Context, req *tandem.Request, a tandem.Attempt) error {
	return m.change(ctx, req,
		func(r *row) bool {
			return r.Callback.State == tandem.CallbackPending && r.Status.Worked() && r.Callback.Attempts == a.Number-1
		},
		func(r *row, next *tandem.Request) {
			r.attempts = append(r.attempts, a)
			cb := &next.Callback
			next.Status, cb.State, cb.Attempts, cb.NextAt = req.Status, req.Callback.State, req.Callback.Attempts, req.Callback.NextAt
			cb.LastStatus, cb.LastError = req.Callback.LastStatus, req.Callback.LastError
			if a.Class != tandem.ClassNone {
				m.countError(req.Owner, "callback", string(a.Class))
			}
		})
}

func (m *model) Request(_ context.Context, id string) (tandem.Request, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.rows[id]; r != nil {
		return r.Request, nil
	}
	return tandem.Request{}, errMissing
}

func (m *model) Requests(_ context.Context, q engine.Query) (engine.Page, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, err := store.ReadCursor(q.Cursor)
	if err != nil {
		return engine.Page{}, err
	}
	page := store.NewPager(q.Limit)
	skip := q.Offset
	for i := min(before-1, int64(len(m.order))) - 1; i >= 0; i-- {
		r := &m.order[i].Request
		switch {
		case !q.Caller.Owns(r.Owner),
			q.Mode != "" && q.Mode != r.Mode,
			q.Status != "" && q.Status != r.Status,
			q.Callback != "" && q.Callback != r.Callback.State,
			q.Host != "" && q.Host != engine.HostOf(r.Callback.URL),
			!q.From.IsZero() && r.WorkedAt.Before(q.From),
			!q.To.IsZero() && (r.WorkedAt.IsZero() || !r.WorkedAt.Before(q.To)):
			continue
		case skip > 0:
			skip--
			continue
		}
		if !page.Add(r) {
			break
		}
	}
	return page.Page, nil
}

func (m *model) Attempts(_ context.Context, id string) ([]tandem.Attempt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.rows[id]; r != nil {
		return r.attempts, nil
	}
	return nil, errMissing
}

func (m *model) Counts(_ context.Context, who tandem.Caller) (c engine.Counts, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, s := range m.counters {
		if who.Owns(key.owner) {
			c.Requests = append(c.Requests, engine.RequestCount{Mode: key.mode, Status: key.status, Callback: key.callback, N: s.n, Processing: s.processing})
		}
	}
	sums := make(map[engine.ErrorCount]int64) // by all but N
	for e, n := range m.errors {
		if who.Owns(e.owner) {
			sums[engine.ErrorCount{Source: e.source, Category: e.category}] += n
		}
	}
	for _, source := range []string{"callback", "work"} {
		for e, n := range sums {
			if e.Source == source {
				e.N = n
				c.Errors = append(c.Errors, e)
			}
		}
	}
	return c, nil
}

func (m *model) Watch(id string) (worked <-chan struct{}, stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ch := make(chan struct{})
	m.watchers[ch] = id
	return ch, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers, ch)
	}
}

func (m *model) Backlog(context.Context) (n int, oldest time.Time, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.order {
		since := later(r.NotBefore, r.CreatedAt)
		if r.Mode != tandem.Async || r.Status != tandem.Pending || since.After(m.now()) {
			continue
		}
		if n++; n == 1 || since.Before(oldest) {
			oldest = since
		}
	}
	return n, oldest, nil
}

func (m *model) Ready(context.Context) error { return m.commit(func() error { return nil }) }
func (m *model) Name() string                { return "model" }
func (m *model) Durable() bool               { return false }

func (m *model) Close() error {
	err := m.Ready(context.Background())
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return err
}

// Run implements engine.Backend.
func (m *model) Run(ctx context.Context, steps engine.Steps) error {
	var loops, running sync.WaitGroup
	stepCtx := context.WithoutCancel(ctx)
	for _, lane := range []string{"cpu", "io"} {
		loops.Go(func() {
			for {
				req := m.next(ctx, func(r *row) time.Time { return m.startable(r, lane) })
				if req == nil {
					return
				}
				if steps.Reserve(ctx, lane) != nil {
					m.letGo(req.ID)
					return
				}
				running.Go(func() {
					err := steps.Process(stepCtx, req)
					if err != nil && tandem.CodeOf(err) != tandem.CodeConflict && req.Status == tandem.Pending {
						sleep(ctx, time.Second)
					}
					m.letGo(req.ID)
				})
			}
		})
	}
	loops.Go(func() {
		m.deliver(ctx, steps, func(step func(context.Context)) { running.Go(func() { step(stepCtx) }) })
	})
	loops.Go(func() {
		for {
			req := m.next(ctx, m.expiring)
			if req == nil {
				return
			}
			engine.Expire(req, m.now())
			_ = m.Fail(ctx, req) // fails if it was started meanwhile
			m.letGo(req.ID)
		}
	})
	loops.Go(func() {
		for ; ctx.Err() == nil; sleep(ctx, m.lookForOld) {
			m.giveUpOld(steps.TooOld())
		}
	})
	loops.Wait()
	running.Wait()
	return nil
}

// giveUpOld gives up the callbacks that are too old.
func (m *model) giveUpOld(owed, due time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.order {
		cb := r.Callback
		stood, held := m.held[r.ID]
		if attempted := held && stood.Worked(); attempted || cb.NextAt.IsZero() || !cb.NextAt.Before(due) || !later(r.WorkedAt, cb.Since).Before(owed) {
			continue
		}
		next := r.Request
		next.Callback.State, next.Callback.NextAt, next.Callback.LastError = tandem.CallbackGivenUp, time.Time{}, engine.LastTooOld
		if next.Status == tandem.Completed {
			next.Status = tandem.CallbackFailed
		}
		m.put(r, next)
	}
}

// startable is when a row may be started; never is the zero time.
func (m *model) startable(r *row, lane string) time.Time {
	if r.Status != tandem.Pending || r.Lane != lane {
		return time.Time{}
	}
	return later(r.NotBefore, r.CreatedAt)
}

// expiring is when a row that waits expires.
func (m *model) expiring(r *row) time.Time {
	if r.Status != tandem.Pending {
		return time.Time{}
	}
	return r.ExpiresAt
}

// deliver hands out what is owed when it is due, as far as the hosts are
// admitted.
func (m *model) deliver(ctx context.Context, steps engine.Steps, do func(func(context.Context))) {
	var mu sync.Mutex
	closed := make(map[string]time.Time) // hosts that are left alone until then
	for {
		req := m.next(ctx, func(r *row) time.Time {
			mu.Lock()
			defer mu.Unlock()
			if r.Callback.NextAt.IsZero() {
				return time.Time{}
			}
			return later(r.Callback.NextAt, closed[engine.HostOf(r.Callback.URL)])
		})
		if req == nil {
			return
		}
		host := engine.HostOf(req.Callback.URL)
		if admission := steps.Admit(host); !admission.OK {
			until := admission.Until
			if until.IsZero() {
				until = time.Now().Add(longest) // or until an attempt ends
			}
			mu.Lock()
			closed[host] = until
			mu.Unlock()
			m.letGo(req.ID)
			continue
		}
		do(func(ctx context.Context) {
			id := req.ID
			if req.Seq%2 == 1 { // the engine reads those of which it has only the id
				req = &tandem.Request{ID: id}
			}
			_ = steps.Deliver(ctx, host, req) // what is still owed is found again
			mu.Lock()
			delete(closed, host)
			mu.Unlock()
			m.letGo(id)
		})
	}
}

// longest is how long anything waits without looking again.
const longest = 1000 * time.Hour

// next waits for the first row, by Seq, whose time has come and that no step
// has, and takes it; nil once ctx has ended. The zero time never comes.
func (m *model) next(ctx context.Context, due func(*row) time.Time) *tandem.Request {
	for ctx.Err() == nil {
		now := time.Now()
		wait := longest
		m.mu.Lock()
		for _, r := range m.order {
			at := due(r)
			if _, held := m.held[r.ID]; held || at.IsZero() {
				continue
			}
			if !at.After(now) {
				m.held[r.ID] = r.Status
				req := r.Request
				m.mu.Unlock()
				return &req
			}
			wait = min(wait, at.Sub(now))
		}
		changed := m.changed
		m.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

// letGo ends what a step does with a row.
func (m *model) letGo(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.held, id)
	m.announce()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func TestModelKeepsTheContract(t *testing.T) {
	var places sync.Map // of *table
	storetest.Exercise(t, func(t *testing.T, place string, opts storetest.Options) engine.Backend {
		if opts.MaxPending == 0 {
			opts.MaxPending = 1_000_000
		}
		found, _ := places.LoadOrStore(place, newTable())
		return openModel(found.(*table), opts.MaxPending)
	})
}

func (s standing) String() string {
	return fmt.Sprintf("%s/%s/%s of %q", s.mode, s.status, s.callback, s.owner)
}
