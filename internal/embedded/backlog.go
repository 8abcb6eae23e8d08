package embedded

import (
	"context"
	"sync"

	"tandem"
)

// backlogCap bounds the requests of one lane that are held in memory.
const backlogCap = 1024

// backlog is the queue of one lane: the requests that wait to be started, in
// the order they were accepted. It holds the head of the queue in memory; when
// more wait than it holds, the rest is only on disk and paged in as the head is
// used up.
type backlog struct {
	load func(after int64, limit int) ([]*tandem.Request, error)

	mu      sync.Mutex
	head    []*tandem.Request
	last    int64 // seq of the newest that was ever in head
	onDisk  bool  // there may be more on disk, behind last
	skipped int   // pushes that were left to the disk, ever
	wake    chan struct{}
}

// newBacklog returns a queue that begins with what is on disk. load reads the
// next page of it, in order of seq.
func newBacklog(load func(after int64, limit int) ([]*tandem.Request, error)) *backlog {
	return &backlog{load: load, onDisk: true, wake: make(chan struct{}, 1)}
}

// push adds a request that was just committed. Calls come in order of seq.
func (q *backlog) push(req *tandem.Request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.onDisk || len(q.head) >= backlogCap {
		q.onDisk = true
		q.skipped++
	} else {
		q.head = append(q.head, req)
		q.last = req.Seq
	}
	q.signal()
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

// pop waits for the next request. It returns an error if the disk could not be
// read, or ctx's when that ends. Only one goroutine may pop.
func (q *backlog) pop(ctx context.Context) (*tandem.Request, error) {
	for {
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
		select {
		case <-q.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (q *backlog) take() (next *tandem.Request, onDisk, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.head) == 0 {
		return nil, q.onDisk, false
	}
	next = q.head[0]
	q.head[0] = nil
	q.head = q.head[1:]
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
