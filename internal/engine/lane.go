package engine

import (
	"container/list"
	"context"
	"sync"
	"time"

	"tandem"
	"tandem/work"
)

// lane is the slots for one class of work, shared by both modes. When sync
// callers and async requests both wait, a freed slot goes to the mode that has
// had less of the slots' time, and freed slots alternate if the work of both is
// as long: so neither a flood of callers nor a long backlog starves the other.
//
// A slot is a goroutine that runs one ticket after the other for as long as any
// wait: so under load the work stays on the threads and cores it is on, and
// everything else has the spare processor to itself.
//
// An async request is started on disk before its work begins, which takes a
// commit. So that slots do not stand idle for it, a few requests are started
// ahead of their slot: as many as the slots will need while a commit takes its
// time, and none when the work is long (see startAhead) - but while sync callers
// wait as many as their work leaves time for, and one at least, because a request
// has its turn only once it is started.
type lane struct {
	slots    int
	burnsCPU bool // its work computes, rather than waits

	mu      sync.Mutex
	free    int
	waiting map[tandem.Mode]*list.List // of *ticket, first come first
	turn    tandem.Mode                // who gets the next slot if both wait and have had as much
	lead    time.Duration              // by which sync work has had more of the slots' time than async

	syncBegan time.Time // when sync work has got a slot last

	reserved int           // async requests reserved or started, without a slot yet
	room     chan struct{} // not nil while someone waits to reserve; closed when there may be room

	means map[tandem.Mode]time.Duration // moving mean of how long a slot is held, of each mode

	abandoned int // Funcs that run on although their request is over
	held      int // slots that abandoned Funcs keep
}

// ticket is one piece of work and its place in the queue of a lane.
type ticket struct {
	mode tandem.Mode
	ctx  context.Context // of who waits; once it has ended the ticket is skipped
	// run runs the work in the slot, and returns whether the slot is still its
	// own: it is not if the work was abandoned meanwhile. If the work ends its
	// goroutine, run does not return; then owns says the same.
	run  func() bool
	owns bool

	place   *list.Element // while it waits
	taken   bool          // it has a slot, or had one
	charged time.Duration // slot time that was counted to its mode when it got its slot
}

func newLane(class work.Class, slots int) *lane {
	return &lane{
		slots:    slots,
		burnsCPU: class == work.CPU,
		free:     slots,
		turn:     tandem.Sync,
		means:    make(map[tandem.Mode]time.Duration),
		waiting: map[tandem.Mode]*list.List{
			tandem.Sync:  list.New(),
			tandem.Async: list.New(),
		},
	}
}

// enqueue runs the ticket as soon as there is a slot for it.
func (l *lane) enqueue(t *ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free > 0 {
		l.free--
		l.begin(t)
		go l.work(t)
		return
	}
	t.place = l.waiting[t.mode].PushBack(t)
	if t.mode == tandem.Sync {
		l.announceRoom()
	}
}

// withdraw takes back a ticket that still waits. It returns false if the
// ticket has got its slot.
func (l *lane) withdraw(t *ticket) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.taken {
		return false
	}
	l.waiting[t.mode].Remove(t.place) // does nothing if next has skipped it
	return true
}

// work is a slot in use: it runs tickets until none waits. If it computes on
// and on it lets all other threads go first, so that requests are accepted at
// once however busy the slots are.
func (l *lane) work(t *ticket) {
	politely, returned := false, false
	defer func() {
		if !returned && t.owns { // by runtime.Goexit: the slot goes on in another goroutine
			go func() { l.work(l.next()) }()
		}
	}()
	for ; t != nil; t = l.next() {
		start := time.Now()
		if !t.run() {
			break
		}
		if mean := l.note(t, time.Since(start)); l.burnsCPU && mean >= time.Millisecond && !politely {
			letOthersFirst()
			politely = true
		}
	}
	returned = true
}

// begin gives a ticket its slot. Its mode is charged with what its work is
// expected to take; note puts that right. The caller holds mu.
func (l *lane) begin(t *ticket) {
	t.taken = true
	if t.mode == tandem.Sync {
		l.syncBegan = time.Now()
	}
	t.charged = l.means[t.mode]
	l.charge(t.mode, t.charged)
}

// charge counts slot time to a mode. What is behind catches up over two rounds
// of the slots at most: a mode that had nothing to do does not save up its time
// to shut out the other later. The caller holds mu.
func (l *lane) charge(mode tandem.Mode, held time.Duration) {
	if mode == tandem.Async {
		held = -held
	}
	bound := 2 * time.Duration(l.slots) * max(l.means[tandem.Sync], l.means[tandem.Async])
	l.lead = max(-bound, min(l.lead+held, bound))
}

// note keeps the mean of how long slots are held by work of the ticket's mode,
// and returns it.
func (l *lane) note(t *ticket, held time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.means[t.mode] = movingMean(l.means[t.mode], held)
	l.charge(t.mode, held-t.charged)
	return l.means[t.mode]
}

func movingMean(mean, next time.Duration) time.Duration {
	if mean == 0 {
		return next
	}
	return mean + (next-mean)/16
}

// next takes the next ticket for a slot, or frees the slot and returns nil.
func (l *lane) next() *ticket {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.turn
	switch {
	case l.lead > 0:
		first = tandem.Async
	case l.lead < 0:
		first = tandem.Sync
	}
	second := other(first)
	if t := l.take(first); t != nil {
		l.turn = second
		return t
	}
	if t := l.take(second); t != nil {
		return t
	}
	l.free++
	l.announceRoom()
	return nil
}

func other(mode tandem.Mode) tandem.Mode {
	if mode == tandem.Sync {
		return tandem.Async
	}
	return tandem.Sync
}

// take takes the first ticket of the mode that somebody still waits for.
func (l *lane) take(mode tandem.Mode) *ticket {
	for q := l.waiting[mode]; q.Len() > 0; {
		t := q.Remove(q.Front()).(*ticket)
		if t.ctx.Err() == nil {
			l.begin(t)
			return t
		}
		// Its deadline is past: skipped without running.
	}
	return nil
}

// reserve waits until one more async request may be started.
func (l *lane) reserve(ctx context.Context) error {
	for {
		l.mu.Lock()
		if l.reserved < l.free+l.startAhead() {
			l.reserved++
			l.mu.Unlock()
			return nil
		}
		if l.room == nil {
			l.room = make(chan struct{})
		}
		room := l.room
		l.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// unreserve ends a reservation: its request has its slot, or will not run.
func (l *lane) unreserve() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved--
	l.announceRoom()
}

func (l *lane) announceRoom() {
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
}

// busy returns how many slots are held.
func (l *lane) busy() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.slots - l.free
}

// commitTime is what a start on disk may take, generously. maxAhead bounds what
// a crash could find started and not running. Work longer than longWork, and than
// what it is started ahead of, is not: its request would read as processing, and wait.
const (
	commitTime = 20 * time.Millisecond
	longWork   = 100 * time.Millisecond
	maxAhead   = 256
)

// startAhead returns how many requests to start beyond the free slots. While only
// async requests are here, what is started must last for a commit. While sync
// callers wait or have a slot, it must last for as long as their work holds the slots
// as well, or async work that is shorter would miss its turn. The caller holds mu.
func (l *lane) startAhead() int {
	async, sync := l.means[tandem.Async], l.means[tandem.Sync]
	if l.waiting[tandem.Sync].Len() == 0 && time.Since(l.syncBegan) >= sync {
		return startAhead(l.slots, async, commitTime)
	}
	return max(1, startAhead(l.slots, async, commitTime+sync))
}

// startAhead returns how many requests, of work that takes as long as the mean,
// keep slots busy for a span of time: one a slot at least, since slots like to
// free together.
func startAhead(slots int, mean, span time.Duration) int {
	if mean > max(longWork, span) {
		return 0
	}
	ahead := int64(slots)
	if mean > 0 && mean < span {
		ahead = ahead * int64(span) / int64(mean)
	}
	return int(min(ahead, maxAhead))
}

// abandon gives up on a Func that ignored the end of its context: its slot
// goes on with the next ticket although the Func still runs. Past twice the
// lane's slots of such Funcs the slot is kept until the Func returns, because
// more of them would only pile up. When it returns its goroutine calls returned,
// which says whether the slot is its own again.
func (l *lane) abandon() (returned func() (owns bool)) {
	l.mu.Lock()
	l.abandoned++
	keep := l.abandoned > 2*l.slots
	if keep {
		l.held++
	}
	l.mu.Unlock()
	if !keep {
		go func() { l.work(l.next()) }()
	}
	return func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.abandoned--
		if keep {
			l.held--
		}
		return keep
	}
}

// heldByAbandoned returns how many slots abandoned work keeps from others.
func (l *lane) heldByAbandoned() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held
}

// abandonedNow returns how many abandoned Funcs still run.
func (l *lane) abandonedNow() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.abandoned
}
