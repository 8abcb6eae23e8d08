package engine

import (
	"container/list"
	"context"
	"sync"
	"time"

	"tandem"
)

// lane is the slots for one class of work, shared by both modes. When sync
// callers and async requests both wait, freed slots alternate between them, so
// that neither a flood of callers nor a long backlog starves the other.
//
// An async request is started on disk before its work begins, which takes a
// commit. So that slots do not stand idle for it, a few requests are started
// ahead of their slot: as many as the slots will need while a commit takes its
// time, and none when the work is long (see startAhead) - but one while sync
// callers wait, because a request has its turn only once it is started.
type lane struct {
	slots int

	mu      sync.Mutex
	free    int
	waiting map[tandem.Mode]*list.List // of *ticket, first come first
	turn    tandem.Mode                // who gets the next slot if both wait

	reserved int           // async requests reserved or started, without a slot yet
	room     chan struct{} // not nil while someone waits to reserve; closed when there may be room
	meanWork time.Duration // moving mean of how long a slot is held

	abandoned int // Funcs that run on although their request is over
	held      int // slots that abandoned Funcs keep
}

// ticket is one waiter's place in the queue of a lane.
type ticket struct {
	ctx     context.Context
	granted chan struct{}
}

func newLane(slots int) *lane {
	return &lane{
		slots: slots,
		free:  slots,
		turn:  tandem.Sync,
		waiting: map[tandem.Mode]*list.List{
			tandem.Sync:  list.New(),
			tandem.Async: list.New(),
		},
	}
}

// acquire waits for a slot. It returns ctx's cause if that ends first; then no
// slot is held.
func (l *lane) acquire(ctx context.Context, mode tandem.Mode) error {
	l.mu.Lock()
	if l.free > 0 {
		l.free--
		l.mu.Unlock()
		return nil
	}
	t := &ticket{ctx: ctx, granted: make(chan struct{})}
	place := l.waiting[mode].PushBack(t)
	if mode == tandem.Sync {
		l.announceRoom()
	}
	l.mu.Unlock()

	select {
	case <-t.granted:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-t.granted: // granted while ctx ended: pass the slot on
		l.passOn()
	default:
		l.waiting[mode].Remove(place)
	}
	return context.Cause(ctx)
}

// release gives a slot back after it was held for the given time.
func (l *lane) release(held time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.meanWork == 0 {
		l.meanWork = held
	}
	l.meanWork += (held - l.meanWork) / 16
	l.passOn()
}

// passOn hands one slot to the next waiter, or frees it. The caller holds mu.
func (l *lane) passOn() {
	first, second := l.turn, tandem.Async
	if first == tandem.Async {
		second = tandem.Sync
	}
	for _, mode := range []tandem.Mode{first, second} {
		if l.grant(mode) {
			if mode == first {
				l.turn = second
			}
			return
		}
	}
	l.free++
	l.announceRoom()
}

// grant gives a slot to the first waiter of the mode who is still there.
func (l *lane) grant(mode tandem.Mode) bool {
	for q := l.waiting[mode]; q.Len() > 0; {
		t := q.Remove(q.Front()).(*ticket)
		if t.ctx.Err() == nil {
			close(t.granted)
			return true
		}
		// Its deadline is past: skipped without running.
	}
	return false
}

// reserve waits until one more async request may be started.
func (l *lane) reserve(ctx context.Context) error {
	for {
		l.mu.Lock()
		ahead := startAhead(l.slots, l.meanWork)
		if l.waiting[tandem.Sync].Len() > 0 {
			ahead = max(1, ahead)
		}
		if l.reserved < l.free+ahead {
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

// commitTime is what a start on disk may take, generously, and maxAhead bounds
// what a crash could find started and not running.
const (
	commitTime = 5 * time.Millisecond
	maxAhead   = 64
)

// startAhead returns how many requests to start beyond the free slots, so that
// a slot that frees finds one that is already started.
func startAhead(slots int, meanWork time.Duration) int {
	if meanWork <= 0 {
		return min(slots, maxAhead)
	}
	return int(min(maxAhead, int64(slots)*int64(commitTime)/int64(meanWork)))
}

// abandon gives up on a Func that ignored the end of its context: its slot
// goes to the next waiter although the goroutine still runs. Past twice the
// lane's slots of such goroutines the slot is held until the Func returns,
// because more of them would only pile up.
func (l *lane) abandon(held time.Duration, returned <-chan outcome) {
	l.mu.Lock()
	l.abandoned++
	keep := l.abandoned > 2*l.slots
	if keep {
		l.held++
	}
	l.mu.Unlock()
	if !keep {
		l.release(held)
	}
	go func() {
		<-returned
		l.mu.Lock()
		l.abandoned--
		if keep {
			l.held--
			l.passOn()
		}
		l.mu.Unlock()
	}()
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
