package store

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tandem"
	"tandem/internal/engine"
)

// Queue gathers the writes that wait into batches that share one commit: group
// commit. A W is one unit of change: all of it happens, or none.
//
// One failing write never fails its neighbours: a write that changes nothing
// has an answer of its own, and when storage refuses a statement the writes of
// the batch are committed again one by one. If the commit itself fails, every
// write of the batch is told so.
//
// Writes of one goroutine that does not wait for them are committed in their
// order. One Run takes them; all other methods may be called at once.
type Queue[W any] struct {
	entries chan entry[W]
	log     *slog.Logger

	closing sync.RWMutex // held for reading while a write is queued
	closed  bool

	batchSize    prometheus.Histogram
	batchSeconds prometheus.Histogram
}

type entry[W any] struct {
	write W
	done  func(error) // nil of a note
}

// Commit makes all changes of a batch in one transaction.
//
// If it returns nil they are committed, and each write is told its answer: nil,
// or a reason why it alone has changed nothing. Otherwise nothing of the batch
// stays, and each write is told the error, if that is a *tandem.Error, or else
// CodeUnavailable. Writes answered with ErrApart were left out, either way. It
// may be called again with the same writes.
//
// The answers are as many as the writes, and nil to begin with.
type Commit[W any] func(batch []W, answers []error) error

// ErrApart as an answer puts a write off to a transaction of its own, after the
// one that has left it out. A Commit may not leave out all of its writes.
var ErrApart = errors.New("not in one transaction with the writes before it")

// StatementFault is an error of storage met before the commit, which one of the
// writes may have brought about. The others may succeed without it.
type StatementFault struct{ Err error }

func (f *StatementFault) Error() string { return f.Err.Error() }
func (f *StatementFault) Unwrap() error { return f.Err }

const (
	// MaxBatch bounds how long one transaction can grow, and with it how long
	// the first write of a batch waits for the last.
	MaxBatch = 512
	// noteDelay is how long notes wait for a write that somebody waits for, to
	// share its commit.
	noteDelay = 20 * time.Millisecond
	// yields is how often a batch lets others run, that they may join it. More
	// than a few times gains nothing and delays what is in the batch already.
	yields = 3
)

// NewQueue makes an empty queue and registers its metrics. What is put into it
// is committed by Run.
func NewQueue[W any](log *slog.Logger, metrics prometheus.Registerer) (*Queue[W], error) {
	q := &Queue[W]{
		entries: make(chan entry[W], 4*MaxBatch),
		log:     log,
		batchSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tandem_commit_batch_size", Help: "Writes that shared one commit.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10),
		}),
		batchSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tandem_commit_seconds", Help: "How long a batch of writes took, fsync included.",
			Buckets: prometheus.ExponentialBuckets(.0001, 2, 15),
		}),
	}
	return q, errors.Join(metrics.Register(q.batchSize), metrics.Register(q.batchSeconds))
}

// Do queues a write and waits until its outcome is certain. If ctx ends first
// the write stays queued and the error is CodeUnknown. then, if it is not nil,
// is told the outcome before Do returns it, and whether somebody still waits for
// it or not. It runs on Run's goroutine, or on the caller's if the write could not
// be queued, and must not block.
func (q *Queue[W]) Do(ctx context.Context, write W, then func(error)) error {
	outcome := make(chan error, 1)
	if then == nil {
		then = func(error) {}
	}
	err := q.post(ctx, entry[W]{write, func(err error) {
		then(err)
		outcome <- err
	}})
	if err != nil {
		then(err)
		return err
	}
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		return &tandem.Error{Code: tandem.CodeUnknown, Message: "the caller left before the write was committed", Err: ctx.Err()}
	}
}

// Note queues a write whose outcome nobody waits for, and does not wait itself: it
// returns an error, and the write is lost, while the queue is full. So as not to
// cost a commit of its own, what is queued waits a moment for a write to share one
// with.
func (q *Queue[W]) Note(write W) error { return q.post(AtOnce, entry[W]{write: write}) }

// post queues a write; it blocks while the queue is full, until ctx ends.
func (q *Queue[W]) post(ctx context.Context, e entry[W]) error {
	if !q.closing.TryRLock() { // only Close holds it, or waits for those who are ahead of it
		return engine.ErrClosed
	}
	defer q.closing.RUnlock()
	if q.closed {
		return engine.ErrClosed
	}
	select {
	case q.entries <- e:
		return nil
	default:
	}
	select {
	case q.entries <- e:
		return nil
	case <-ctx.Done():
		return &tandem.Error{Code: tandem.CodeUnavailable, Message: "storage is too slow to take the write", Err: ctx.Err(), RetryAfter: time.Second}
	}
}

// Close lets nothing more into the queue: later writes are told ErrClosed. Run
// returns once what is in it has its outcome. Call Close once.
func (q *Queue[W]) Close() {
	q.closing.Lock()
	defer q.closing.Unlock()
	q.closed = true
	close(q.entries)
}

// Run commits batches, one after the other, until the queue is closed and empty.
func (q *Queue[W]) Run(commit Commit[W]) {
	batch := make([]entry[W], 0, MaxBatch)
	for first := range q.entries {
		last := len(batch)
		batch = q.holdNotes(q.fill(append(batch[:0], first)))
		batch = q.gather(batch, last/2)
		start := time.Now()
		q.commit(batch, commit)
		q.batchSize.Observe(float64(len(batch)))
		q.batchSeconds.Observe(time.Since(start).Seconds())
	}
}

// gather lets those get here who waited for the last commit, and come back one by
// one with their next write, until there are enough: sharing their commit costs each
// less than going ahead.
func (q *Queue[W]) gather(batch []entry[W], enough int) []entry[W] {
	for range yields {
		if len(batch) >= enough {
			break
		}
		runtime.Gosched()
		batch = q.fill(batch)
	}
	return batch
}

// fill adds what waits in the queue.
func (q *Queue[W]) fill(batch []entry[W]) []entry[W] {
	for len(batch) < MaxBatch {
		select {
		case next, open := <-q.entries:
			if !open {
				return batch
			}
			batch = append(batch, next)
		default:
			return batch
		}
	}
	return batch
}

// holdNotes lets a batch of nothing but notes wait for other writes.
func (q *Queue[W]) holdNotes(batch []entry[W]) []entry[W] {
	var timeout <-chan time.Time
	for looked := 0; len(batch) < MaxBatch; {
		if slices.ContainsFunc(batch[looked:], func(e entry[W]) bool { return e.done != nil }) {
			break
		}
		looked = len(batch)
		if timeout == nil {
			timeout = time.After(noteDelay)
		}
		select {
		case next, open := <-q.entries:
			if !open {
				return batch
			}
			batch = q.fill(append(batch, next))
		case <-timeout:
			return batch
		}
	}
	return batch
}

// commit brings a batch to its outcome and tells each write.
func (q *Queue[W]) commit(batch []entry[W], commit Commit[W]) {
	writes, answers := make([]W, len(batch)), make([]error, len(batch))
	for i, e := range batch {
		writes[i] = e.write
	}
	err := commit(writes, answers)
	if fault, ok := errors.AsType[*StatementFault](err); ok && len(batch) > 1 {
		q.log.Warn("a batch of writes failed and is tried one by one", "writes", len(batch), "error", fault)
		for i := range batch {
			q.commit(batch[i:i+1], commit)
		}
		return
	}
	var apart []entry[W]
	for i, e := range batch {
		switch {
		case answers[i] == ErrApart:
			apart = append(apart, e)
		case e.done == nil:
		case err != nil:
			e.done(unavailable(err))
		default:
			e.done(answers[i])
		}
	}
	if len(apart) > 0 {
		q.commit(apart, commit)
	}
}

// unavailable is what the writes are told that were not committed.
func unavailable(err error) error {
	if _, ok := errors.AsType[*tandem.Error](err); ok {
		return err
	}
	return &tandem.Error{
		Code:       tandem.CodeUnavailable,
		Message:    "storage cannot be written right now",
		RetryAfter: 5 * time.Second,
		Err:        err,
	}
}
