package embedded

import (
	"cmp"
	"container/heap"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"tandem"
	"tandem/internal/engine"
)

const (
	// debtsPerHost bounds the owed callbacks of one host that are held in
	// memory, and debtsLoaded those whose request is held with them.
	debtsPerHost = 1024
	debtsLoaded  = 4096

	// longestWait clamps the wait for an attempt, should the wall clock have
	// been set back: no retry is planned further ahead than this.
	longestWait = 24 * time.Hour
)

// deliveries decides when each owed callback is attempted. Every host has a
// queue of its own, so that none waits behind another's dead receiver. A queue
// is a cache of the rows most urgently owed to its host; the disk has them
// all.
type deliveries struct {
	owed        func(ctx context.Context, host string, limit int) ([]debt, error)
	now         func() time.Time // the wall clock
	maxInFlight int
	log         *slog.Logger

	mu       sync.Mutex
	hosts    map[string]*hostQueue
	agenda   agenda // when to look at which host
	inFlight int
	loaded   int
	wake     chan struct{}
}

// debt is one callback that is owed.
type debt struct {
	id  string
	at  time.Time       // when it is due, on the monotonic clock
	req *tandem.Request // nil: read it when it is due
}

// hostQueue is the callbacks owed to one host.
type hostQueue struct {
	name     string
	debts    []debt          // sorted, the most urgent first
	flying   map[string]bool // ids in flight; nil if none is, for many hosts are owed one callback each
	inFlight int

	onDisk  bool // there may be more on disk than in debts
	skipped int  // pushes that were left to the disk, ever
	read    int  // skipped when the disk was last read
	lookAt  time.Time
}

func newDeliveries(owed func(context.Context, string, int) ([]debt, error), opts Options) *deliveries {
	return &deliveries{
		owed:        owed,
		now:         opts.Now,
		maxInFlight: opts.MaxAttempts,
		log:         opts.Logger,
		hosts:       make(map[string]*hostQueue),
		wake:        make(chan struct{}, 1),
	}
}

// push adds a callback that was just committed as owed.
func (d *deliveries) push(req *tandem.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	h := d.host(engine.HostOf(req.Callback.URL))
	if h.onDisk || len(h.debts) >= debtsPerHost {
		h.onDisk = true
		h.skipped++
	} else {
		owed := debt{id: req.ID, at: d.monotonic(now, req.Callback.NextAt)}
		if !owed.at.After(now) && d.loaded < debtsLoaded {
			owed.req = req
			d.loaded++
		}
		h.insert(owed)
	}
	d.lookAt(h, now)
}

// begin takes up a callback that was just committed as owed, if an attempt may
// be made now and nothing waits that would go before it: what else is owed to
// its host, or any host whose turn it is. The caller makes the attempt.
func (d *deliveries) begin(req *tandem.Request, steps engine.Steps) (owed debt, host string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	host = engine.HostOf(req.Callback.URL)
	owed = debt{id: req.ID, at: d.monotonic(now, req.Callback.NextAt), req: req}
	h := d.hosts[host]
	othersWait := h != nil && (h.onDisk || len(h.debts) > 0) || len(d.agenda) > 0 && !d.agenda[0].at.After(now)
	if othersWait || owed.at.After(now) || d.inFlight >= d.maxInFlight || !steps.Admit(host).OK {
		return debt{}, "", false
	}
	h = d.host(host)
	d.takeOff(h, owed)
	return owed, host, true
}

// pushHost adds a host whose callbacks are on disk, to be looked at after a
// while.
func (d *deliveries) pushHost(name string, after time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.host(name)
	h.onDisk = true
	h.skipped++
	d.lookAt(h, time.Now().Add(after))
}

// ended notes that an attempt to the host is over.
func (d *deliveries) ended(owed debt, host string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inFlight--
	h := d.hosts[host]
	h.inFlight--
	if delete(h.flying, owed.id); h.inFlight == 0 {
		h.flying = nil
	}
	switch {
	case h.onDisk || len(h.debts) > 0:
		d.lookAt(h, time.Now())
	case h.inFlight == 0 && h.lookAt.IsZero():
		delete(d.hosts, host)
	}
	if d.inFlight == d.maxInFlight-1 {
		d.signal() // there may be a host that waits for room
	}
}

func (d *deliveries) host(name string) *hostQueue {
	h := d.hosts[name]
	if h == nil {
		h = &hostQueue{name: name}
		d.hosts[name] = h
	}
	return h
}

// monotonic turns a time of the wall clock into one that no clock change moves.
// One that has a monotonic reading of its own is not moved by a change that was
// made since it was planned, either.
func (d *deliveries) monotonic(now, wall time.Time) time.Time {
	return now.Add(min(wall.Sub(d.now()), longestWait))
}

// lookAt puts the host on the agenda, unless it is on it for an earlier time.
func (d *deliveries) lookAt(h *hostQueue, at time.Time) {
	if !h.lookAt.IsZero() && !h.lookAt.After(at) {
		return
	}
	h.lookAt = at
	heap.Push(&d.agenda, appointment{at, h})
	d.signal()
}

func (d *deliveries) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run hands every callback to deliver when it is due and steps admits it. It
// returns when ctx ends, with deliver calls possibly still running.
func (d *deliveries) run(ctx context.Context, steps engine.Steps, deliver func(debt, string)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		timer.Reset(d.serveDue(ctx, steps, deliver))
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-timer.C:
		}
	}
}

// serveDue serves every host whose time has come, and returns how long until
// the next one's.
func (d *deliveries) serveDue(ctx context.Context, steps engine.Steps, deliver func(debt, string)) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.agenda) > 0 {
		now := time.Now()
		next := d.agenda[0]
		if next.at.After(now) {
			return next.at.Sub(now)
		}
		if d.inFlight >= d.maxInFlight {
			break // an attempt that ends wakes us
		}
		heap.Pop(&d.agenda)
		if next.host.lookAt.Equal(next.at) { // else it was moved to an earlier time
			next.host.lookAt = time.Time{}
			d.serve(ctx, next.host, now, steps, deliver)
		}
	}
	return time.Hour
}

// serve hands out what is due to one host, as far as steps admits it. The
// caller holds mu.
func (d *deliveries) serve(ctx context.Context, h *hostQueue, now time.Time, steps engine.Steps, deliver func(debt, string)) {
	for {
		if h.onDisk && (len(h.debts) == 0 || h.debts[0].at.After(now) && h.read != h.skipped) {
			if err := d.page(ctx, h); err != nil {
				d.log.Error("reading owed callbacks failed, trying again", "host", h.name, "error", err)
				d.lookAt(h, now.Add(time.Second))
				return
			}
		}
		switch {
		case len(h.debts) == 0:
			if h.inFlight == 0 && !h.onDisk {
				delete(d.hosts, h.name)
			}
			return
		case h.debts[0].at.After(now):
			d.lookAt(h, h.debts[0].at)
			return
		case d.inFlight >= d.maxInFlight:
			d.lookAt(h, now)
			return
		}
		if admission := steps.Admit(h.name); !admission.OK {
			if !admission.Until.IsZero() {
				d.lookAt(h, d.monotonic(now, admission.Until))
			}
			return // else an attempt that ends brings us back
		}
		owed := h.debts[0]
		h.debts = h.debts[1:]
		d.takeOff(h, owed)
		if owed.req != nil {
			d.loaded--
		}
		deliver(owed, h.name)
	}
}

// takeOff notes that an attempt to the host begins.
func (d *deliveries) takeOff(h *hostQueue, owed debt) {
	if h.flying == nil {
		h.flying = make(map[string]bool)
	}
	h.flying[owed.id] = true
	h.inFlight++
	d.inFlight++
}

// page fills a host's queue from disk with what is most urgent, and drops what
// it held: that is on disk too.
func (d *deliveries) page(ctx context.Context, h *hostQueue) error {
	skipped := h.skipped
	d.mu.Unlock() // the read must not hold up those who push
	rows, err := d.owed(ctx, h.name, debtsPerHost)
	d.mu.Lock()
	if err != nil {
		return err
	}
	for _, dropped := range h.debts {
		if dropped.req != nil {
			d.loaded--
		}
	}
	h.debts = h.debts[:0]
	now := time.Now()
	for _, row := range rows {
		if !h.flying[row.id] { // else what comes next of it is pushed
			h.insert(debt{id: row.id, at: d.monotonic(now, row.at)})
		}
	}
	h.read = skipped
	if len(rows) < debtsPerHost && h.skipped == skipped {
		h.onDisk = false
	}
	return nil
}

// insert keeps debts sorted. Most come with the latest time, at the end.
func (h *hostQueue) insert(owed debt) {
	i, _ := slices.BinarySearchFunc(h.debts, owed, func(a, b debt) int {
		return cmp.Or(a.at.Compare(b.at), -1)
	})
	h.debts = slices.Insert(h.debts, i, owed)
}

// agenda is a heap of appointments, the earliest first.
type agenda []appointment

type appointment struct {
	at   time.Time
	host *hostQueue
}

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a agenda) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)        { *a = append(*a, x.(appointment)) }
func (a *agenda) Pop() any {
	last := len(*a) - 1
	x := (*a)[last]
	*a = (*a)[:last]
	return x
}
