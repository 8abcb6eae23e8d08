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
	// memory, and debtsLoaded the bytes of the requests that are held with them.
	debtsPerHost = 1024
	debtsLoaded  = 32 << 20

	// longestWait clamps the wait for an attempt, should the wall clock have
	// been set back: no retry is planned further ahead than this.
	longestWait = 24 * time.Hour
)

// deliveries decides when each owed callback is attempted. Every host has a
// queue of its own, so that none waits behind another's dead receiver. A queue
// is a cache of the rows most urgently owed to its host; the disk has them
// all.
//
// What is read from disk may be known here already, or be out of date. So a
// callback has holders: the write that may make it owed, from before that is
// committed; then its host's queue; then the attempt. Each hands it on to the
// next, or lets go of it. A page takes up only what has no holder, and had none
// while it was read.
type deliveries struct {
	owed        func(ctx context.Context, host string, limit int) ([]debt, error)
	now         func() time.Time // the wall clock
	maxInFlight int
	log         *slog.Logger

	mu       sync.Mutex
	hosts    map[string]*hostQueue
	agenda   agenda          // when to look at which host
	held     map[string]int  // how many hold each callback: of two writes about one request, one will find that it has moved on
	letGo    map[string]bool // what was let go of since a page is being read; nil while none is
	inFlight int
	loaded   int // engine.Weight of the requests that are held with debts
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
	debts    []debt // sorted, the most urgent first
	inFlight int

	onDisk  bool // there may be more on disk than in debts
	skipped int  // callbacks that were left to the disk, ever
	read    int  // skipped when the disk was last read

	lookAt time.Time // when it is on the agenda for
	place  int       // on the agenda, from 1 on; 0: it is not on it
}

func newDeliveries(owed func(context.Context, string, int) ([]debt, error), opts Options) *deliveries {
	return &deliveries{
		owed:        owed,
		now:         opts.Now,
		maxInFlight: opts.MaxAttempts,
		log:         opts.Logger,
		hosts:       make(map[string]*hostQueue),
		held:        make(map[string]int),
		wake:        make(chan struct{}, 1),
	}
}

// hold is called before a write that may make a callback owed, and followed by
// one of push, begin and leave.
func (d *deliveries) hold(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held[id]++
}

// push queues a callback that is owed, on behalf of its holder.
func (d *deliveries) push(req *tandem.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	h := d.host(engine.HostOf(req.Callback.URL))
	if h.onDisk || len(h.debts) >= debtsPerHost {
		d.leaveToDisk(h, req.ID)
	} else {
		owed := debt{id: req.ID, at: d.monotonic(now, req.Callback.NextAt)}
		if weight := engine.Weight(req); !owed.at.After(now) && d.loaded+weight <= debtsLoaded {
			owed.req = req
			d.loaded += weight
		}
		h.insert(owed)
	}
	d.lookAt(h, now)
}

// begin takes up a callback that is owed, on behalf of its holder, if an attempt
// may be made now and nothing waits that would go before it: what else is owed to
// its host, or any host whose turn it is. The caller makes the attempt. Unless it
// is ok, the holder is the caller still.
func (d *deliveries) begin(req *tandem.Request, steps engine.Steps) (owed debt, host string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	host = engine.HostOf(req.Callback.URL)
	owed = debt{id: req.ID, at: d.monotonic(now, req.Callback.NextAt), req: req}
	h := d.hosts[host]
	othersWait := h != nil && (h.onDisk || len(h.debts) > 0) || len(d.agenda) > 0 && !d.agenda[0].lookAt.After(now)
	if othersWait || owed.at.After(now) || d.inFlight >= d.maxInFlight || !steps.Admit(host).OK {
		return debt{}, "", false
	}
	d.takeOff(d.host(host))
	return owed, host, true
}

// leave lets go of a callback to the host that may be owed, as far as its holder
// knows: after a while, what is on disk says so.
func (d *deliveries) leave(id, host string, after time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.host(host)
	d.leaveToDisk(h, id)
	d.lookAt(h, time.Now().Add(after))
}

// settled lets go of a callback that is owed no more.
func (d *deliveries) settled(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.release(id)
}

// takeBack takes callbacks out of the queues of their hosts, and returns those that
// the caller holds now, for settled or leave: not those that others hold, who are
// attempting them or about to queue them.
func (d *deliveries) takeBack(all []overdue) (taken []overdue) {
	d.mu.Lock()
	defer d.mu.Unlock()
	wanted, hosts := make(map[string]bool, len(all)), make(map[string]bool)
	for _, o := range all {
		wanted[o.id], hosts[o.host] = true, true
	}
	queued := make(map[string]bool)
	for name := range hosts {
		h := d.hosts[name]
		if h == nil {
			continue
		}
		h.debts = slices.DeleteFunc(h.debts, func(owed debt) bool {
			if !wanted[owed.id] {
				return false
			}
			queued[owed.id] = true
			d.unload(owed)
			return true
		})
	}
	for _, o := range all {
		if !queued[o.id] && d.held[o.id] == 0 { // it is on disk only
			d.held[o.id] = 1
			queued[o.id] = true
		}
		if queued[o.id] {
			taken = append(taken, o)
		}
	}
	return taken
}

// takeUp begins with a host to which callbacks are owed, on disk.
func (d *deliveries) takeUp(host string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.host(host)
	h.onDisk = true
	h.skipped++
	d.lookAt(h, time.Now())
}

// ended notes that an attempt to the host is over. Its callback is still held,
// for push, leave or settled.
func (d *deliveries) ended(host string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inFlight--
	h := d.hosts[host]
	h.inFlight--
	switch {
	case h.onDisk || len(h.debts) > 0:
		d.lookAt(h, time.Now())
	case h.inFlight == 0 && h.place == 0:
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

func (d *deliveries) leaveToDisk(h *hostQueue, id string) {
	h.onDisk = true
	h.skipped++
	d.release(id)
}

func (d *deliveries) release(id string) {
	if d.held[id]--; d.held[id] == 0 {
		delete(d.held, id)
	}
	if d.letGo != nil {
		d.letGo[id] = true
	}
}

// monotonic turns a time of the wall clock into one that no clock change moves.
// One that has a monotonic reading of its own is not moved by a change that was
// made since it was planned, either.
func (d *deliveries) monotonic(now, wall time.Time) time.Time {
	return now.Add(min(wall.Sub(d.now()), longestWait))
}

// lookAt puts the host on the agenda, unless it is on it for an earlier time.
func (d *deliveries) lookAt(h *hostQueue, at time.Time) {
	switch {
	case h.place == 0:
		h.lookAt = at
		heap.Push(&d.agenda, h)
	case at.Before(h.lookAt):
		h.lookAt = at
		heap.Fix(&d.agenda, h.place-1)
	default:
		return
	}
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
// the next one's. Calls come one after the other.
func (d *deliveries) serveDue(ctx context.Context, steps engine.Steps, deliver func(debt, string)) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.agenda) > 0 {
		now := time.Now()
		if next := d.agenda[0]; next.lookAt.After(now) {
			return next.lookAt.Sub(now)
		}
		if d.inFlight >= d.maxInFlight {
			break // an attempt that ends wakes us
		}
		d.serve(ctx, heap.Pop(&d.agenda).(*hostQueue), now, steps, deliver)
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
		d.takeOff(h)
		d.unload(owed)
		deliver(owed, h.name)
	}
}

// unload notes that a debt is not waiting any more, with the request it may have.
func (d *deliveries) unload(owed debt) {
	if owed.req != nil {
		d.loaded -= engine.Weight(owed.req)
	}
}

// takeOff notes that an attempt to the host begins.
func (d *deliveries) takeOff(h *hostQueue) {
	h.inFlight++
	d.inFlight++
}

// page fills a host's queue from disk with what is most urgent, and drops what
// it held: that is on disk too.
func (d *deliveries) page(ctx context.Context, h *hostQueue) error {
	skipped := h.skipped
	d.letGo = make(map[string]bool)
	d.mu.Unlock() // the read must not hold up those who push
	rows, err := d.owed(ctx, h.name, debtsPerHost)
	d.mu.Lock()
	outdated := d.letGo
	d.letGo = nil
	if err != nil {
		return err
	}
	for _, dropped := range h.debts {
		d.release(dropped.id)
		d.unload(dropped)
	}
	h.debts = h.debts[:0]
	now := time.Now()
	for _, row := range rows {
		if d.held[row.id] == 0 && !outdated[row.id] { // else whoever holds it hands it on, or did
			d.held[row.id] = 1
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

// agenda is a heap of the hosts that are to be looked at, the next one first.
// Each is in it once.
type agenda []*hostQueue

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].lookAt.Before(a[j].lookAt) }
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].place, a[j].place = i+1, j+1
}
func (a *agenda) Push(x any) {
	*a = append(*a, x.(*hostQueue))
	x.(*hostQueue).place = len(*a)
}
func (a *agenda) Pop() any {
	last := len(*a) - 1
	h := (*a)[last]
	h.place = 0
	(*a)[last] = nil
	*a = (*a)[:last]
	return h
}
