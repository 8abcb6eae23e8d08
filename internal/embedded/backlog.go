package embedded

import (
	"context"
	"sync"
	"time"

	"tandem"
)

// backlogCap bounds the requests of one lane that are held in memory.
const backlogCap = 1024

// backlog is the queue of one lane: the requests that wait to be started, in
// the order they were accepted. It holds the head of the queue in memory; when
// more wait than it holds, the rest is only on disk and paged in as the head is
// used up.
//
// Requests that may not begin before some time are no part of that order. They
// stay on disk until they are due, and go before the others then.
type backlog struct {
	load    func(after int64, limit int) ([]*tandem.Request, error)
	loadDue func(after moment, now time.Time, limit int) (due []*tandem.Request, next time.Time, err error)
	now     func() time.Time // the wall clock

	mu      sync.Mutex
	head    []*tandem.Request
	last    int64 // seq of the newest that was ever in head
	onDisk  bool  // there may be more on disk, behind last
	skipped int   // pushes that were left to the disk, ever
	popped  bool  // the one that was popped last may still wait for its turn
	wake    chan struct{}

	due     []*tandem.Request
	dueUpTo moment    // what was due up to then was in due
	nextDue time.Time // when to look for more; zero: nothing is delayed
}

// moment is a place in the order in which delayed requests are due.
type moment struct {
	at  time.Time
	seq int64
}

func (m moment) before(other moment) bool {
	return m.at.Before(other.at) || m.at.Equal(other.at) && m.seq < other.seq
}

// newBacklog returns a queue that begins with what is on disk. load reads the
// next page of it, in order of seq; loadDue what is due, and when more is.
func newBacklog(b *Backend, lane string) *backlog {
	return &backlog{
		load: func(after int64, limit int) ([]*tandem.Request, error) {
			return b.pendingAfter(context.Background(), lane, after, limit)
		},
		loadDue: func(after moment, now time.Time, limit int) ([]*tandem.Request, time.Time, error) {
			return b.dueAfter(context.Background(), lane, after, now, limit)
		},
		now:     b.opts.Now,
		onDisk:  true,
		nextDue: time.Unix(0, 0), // look
		wake:    make(chan struct{}, 1),
	}
}

// push adds a request that was just committed. Calls come in order of seq.
func (q *backlog) push(req *tandem.Request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !req.NotBefore.IsZero() {
		q.delay(req)
		return
	}
	if q.onDisk || len(q.head) >= backlogCap {
		q.onDisk = true
		q.skipped++
	} else {
		q.head = append(q.head, req)
		q.last = req.Seq
	}
	q.signal()
}

// delay notes a request that was just committed and waits for its time.
func (q *backlog) delay(req *tandem.Request) {
	if due := (moment{req.NotBefore, req.Seq}); !q.dueUpTo.before(due) { // it was due before it was committed
		q.dueUpTo = moment{req.NotBefore, req.Seq - 1}
	}
	if q.nextDue.IsZero() || req.NotBefore.Before(q.nextDue) {
		q.nextDue = req.NotBefore
		q.signal()
	}
}

// pushFront gives back a request that could not be started.
func (q *backlog) pushFront(req *tandem.Request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.head = append([]*tandem.Request{req}, q.head...)
	q.signal()
}

func (q *backlog) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// empty reports whether nothing waits that was accepted before.
func (q *backlog) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.head) == 0 && len(q.due) == 0 && !q.onDisk && !q.popped
}

// pop waits for the next request. It returns an error if the disk could not be
// read, or ctx's when that ends. Only one goroutine may pop, once the request
// that it popped before waits no more.
func (q *backlog) pop(ctx context.Context) (*tandem.Request, error) {
	q.mu.Lock()
	q.popped = false
	q.mu.Unlock()
	for {
		wait, err := q.lookForDue()
		if err != nil {
			return nil, err
		}
		next, onDisk, ok := q.take()
		if ok {
			return next, nil
		}
		if onDisk {
			if err := q.page(); err != nil {
				return nil, err
			}
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-q.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// lookAgain bounds the wait for what is delayed, should the wall clock be set
// forth meanwhile.
const lookAgain = time.Minute

// lookForDue reads what has become due, if it is time, and returns how long
// until more is.
func (q *backlog) lookForDue() (wait time.Duration, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	switch {
	case q.nextDue.IsZero():
		return lookAgain, nil
	case q.nextDue.After(now):
		return min(q.nextDue.Sub(now), lookAgain), nil
	case len(q.due) > 0:
		return 0, nil
	}
	after := q.dueUpTo
	q.nextDue = time.Time{} // a push from here on says when
	q.mu.Unlock()
	due, next, err := q.loadDue(after, now, backlogCap)
	q.mu.Lock()
	if err != nil {
		q.nextDue = now
		return 0, err
	}
	q.due = due
	if n := len(due); n > 0 {
		if last := (moment{due[n-1].NotBefore, due[n-1].Seq}); q.dueUpTo == after {
			q.dueUpTo = last
		}
	}
	if !next.IsZero() && (q.nextDue.IsZero() || next.Before(q.nextDue)) {
		q.nextDue = next
	}
	return 0, nil
}

func (q *backlog) take() (next *tandem.Request, onDisk, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.due) > 0 {
		next = q.due[0]
		q.due[0] = nil
		q.due = q.due[1:]
		q.popped = true
		return next, q.onDisk, true
	}
	if len(q.head) == 0 {
		return nil, q.onDisk, false
	}
	next = q.head[0]
	q.head[0] = nil
	q.head = q.head[1:]
	q.popped = true
	return next, q.onDisk, true
}

// page reads the next requests from disk. When it finds the end, pushes go to
// memory again - unless one was left to the disk since the read began, which
// the read may have missed.
func (q *backlog) page() error {
	q.mu.Lock()
	after, skipped := q.last, q.skipped
	q.mu.Unlock()
	page, err := q.load(after, backlogCap)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.head = append(q.head, page...)
	if len(page) > 0 {
		q.last = page[len(page)-1].Seq
	}
	if len(page) < backlogCap && q.skipped == skipped {
		q.onDisk = false
	}
	return nil
}
