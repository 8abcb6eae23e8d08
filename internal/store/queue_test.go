package store_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

// storage is a Commit that records the transactions, and fails as it is told to.
type storage struct {
	fail func(batch []int, answers []error) error // nil: never

	mu        sync.Mutex
	tried     [][]int
	committed []int
}

func (s *storage) commit(batch []int, answers []error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tried = append(s.tried, slices.Clone(batch))
	if s.fail != nil {
		if err := s.fail(batch, answers); err != nil {
			return err
		}
	}
	for i, n := range batch {
		if answers[i] == nil {
			s.committed = append(s.committed, n)
		}
	}
	return nil
}

func newQueue(t *testing.T) *store.Queue[int] {
	t.Helper()
	q, err := store.NewQueue[int](slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// outcomes queues the writes, in order, before anybody commits them, then
// commits them until the queue is empty, and returns what each was told. When
// it returns nothing runs any more.
func outcomes(t *testing.T, s *storage, writes ...int) map[int]error {
	t.Helper()
	q := newQueue(t)
	told := make(map[int]error)
	var mu sync.Mutex
	var callers sync.WaitGroup
	for _, n := range writes {
		callers.Go(func() {
			err := q.Do(t.Context(), n, nil)
			mu.Lock()
			defer mu.Unlock()
			told[n] = err
		})
		synctest.Wait() // it is in the queue
	}
	q.Close()
	q.Run(s.commit)
	callers.Wait()
	return told
}

func TestWritesThatWaitShareCommitsInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, s := newQueue(t), &storage{}
		const n = 3*store.MaxBatch + 1
		want := make([]int, n)
		for i := range n {
			want[i] = i
			if err := q.Note(i); err != nil {
				t.Fatal(err)
			}
		}
		q.Close()
		q.Run(s.commit)
		if !slices.Equal(s.committed, want) {
			t.Error("the writes were committed in another order, or not all of them")
		}
		var sizes []int
		for _, batch := range s.tried {
			sizes = append(sizes, len(batch))
		}
		if want := []int{store.MaxBatch, store.MaxBatch, store.MaxBatch, 1}; !slices.Equal(sizes, want) {
			t.Errorf("the batches are of %v writes, want %v", sizes, want)
		}
	})
}

func TestEachWriteIsToldItsOwnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &storage{fail: func(batch []int, answers []error) error {
			answers[1] = engine.ErrMovedOn
			return nil
		}}
		told := outcomes(t, s, 1, 2, 3)
		if told[1] != nil || told[2] != engine.ErrMovedOn || told[3] != nil {
			t.Errorf("the writes are told %v", told)
		}
		if len(s.tried) != 1 {
			t.Errorf("there were %d transactions, want 1", len(s.tried))
		}
	})
}

func TestAFaultOfOneWriteDoesNotFailItsNeighbours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("a value that does not fit")
		s := &storage{fail: func(batch []int, _ []error) error {
			if slices.Contains(batch, 2) {
				return &store.StatementFault{Err: broken}
			}
			return nil
		}}
		told := outcomes(t, s, 1, 2, 3)
		if told[1] != nil || told[3] != nil {
			t.Errorf("its neighbours are told %v and %v", told[1], told[3])
		}
		if err := told[2]; tandem.CodeOf(err) != tandem.CodeUnavailable || !errors.Is(err, broken) {
			t.Errorf("the write is told %v", err)
		}
		if want := [][]int{{1, 2, 3}, {1}, {2}, {3}}; !slices.EqualFunc(s.tried, want, slices.Equal) {
			t.Errorf("the transactions are %v, want %v", s.tried, want)
		}
	})
}

func TestAFailedCommitReachesEveryWrite(t *testing.T) {
	unknown := &tandem.Error{Code: tandem.CodeUnknown, Message: "the connection was lost"}
	for _, c := range []struct {
		name string
		err  error
		want tandem.Code
	}{
		{"a fault of storage is unavailable", errors.New("the disk is full"), tandem.CodeUnavailable},
		{"an error with a meaning stays as it is", unknown, tandem.CodeUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &storage{fail: func([]int, []error) error { return c.err }}
				told := outcomes(t, s, 1, 2, 3)
				for n := 1; n <= 3; n++ {
					if err := told[n]; tandem.CodeOf(err) != c.want || !errors.Is(err, c.err) {
						t.Errorf("write %d is told %v, want %s", n, err, c.want)
					}
				}
				if len(s.tried) != 1 {
					t.Errorf("the batch was tried %d times, want once", len(s.tried))
				}
			})
		})
	}
}

func TestWritesThatDoNotGoTogetherAreCommittedOneAfterTheOther(t *testing.T) {
	for _, c := range []struct {
		name  string
		first error // of the transaction that leaves some out
	}{
		{"the first commit succeeds", nil},
		{"the first commit fails", errors.New("the disk is full")},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &storage{fail: func(batch []int, answers []error) error {
					if len(batch) < 3 {
						return nil
					}
					answers[0], answers[2] = store.ErrApart, store.ErrApart
					return c.first
				}}
				told := outcomes(t, s, 1, 2, 3)
				if told[1] != nil || told[3] != nil || !errors.Is(told[2], c.first) {
					t.Errorf("the writes are told %v", told)
				}
				if want := [][]int{{1, 2, 3}, {1, 3}}; !slices.EqualFunc(s.tried, want, slices.Equal) {
					t.Errorf("the transactions are %v, want %v", s.tried, want)
				}
			})
		})
	}
}

func TestACallerThatLeavesDoesNotCancelItsWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, s := newQueue(t), &storage{}
		ctx, leave := context.WithCancel(t.Context())
		leave()
		told := errors.New("nothing")
		err := q.Do(ctx, 1, func(err error) { told = err })
		if tandem.CodeOf(err) != tandem.CodeUnknown || !errors.Is(err, context.Canceled) {
			t.Errorf("the caller is told %v, want unknown", err)
		}
		q.Close()
		q.Run(s.commit)
		if !slices.Equal(s.committed, []int{1}) || told != nil {
			t.Errorf("committed are %v, and what follows is told %v", s.committed, told)
		}
	})
}

func TestAFullQueueMakesCallersWaitAndLosesNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, s := newQueue(t), &storage{}
		const room = 4 * store.MaxBatch
		for i := range room {
			if err := q.Note(i); err != nil {
				t.Fatal(err)
			}
		}
		brief, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var told error
		err := q.Do(brief, -1, func(err error) { told = err })
		if fault, ok := err.(*tandem.Error); !ok || fault.Code != tandem.CodeUnavailable || fault.RetryAfter <= 0 {
			t.Errorf("a caller that cannot wait is told %#v", err)
		}
		if told != err {
			t.Errorf("what follows from a write that was not queued is told %v, want what its caller is told", told)
		}
		if err := q.Note(-2); tandem.CodeOf(err) != tandem.CodeUnavailable {
			t.Errorf("a note for which there is no room ends with %v, want unavailable", err)
		}
		patient := make(chan error, 1)
		go func() { patient <- q.Do(t.Context(), room, nil) }()
		synctest.Wait()
		// It found the queue open, so closing it waits until it has its place.
		var closed sync.WaitGroup
		closed.Go(q.Close)
		if err := q.Note(-3); err == nil { // full, or closed
			t.Error("a note is taken while the queue is full")
		}
		q.Run(s.commit)
		closed.Wait()
		if err := <-patient; err != nil {
			t.Errorf("a caller that waits is told %v", err)
		}
		if len(s.committed) != room+1 || s.committed[room] != room {
			t.Errorf("%d writes were committed, want %d and then the one that waited", len(s.committed), room)
		}
	})
}

func TestClosingLetsWhatWaitsHaveItsOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, s := newQueue(t), &storage{}
		underWay, goOn := make(chan struct{}), make(chan struct{})
		var run sync.WaitGroup
		run.Go(func() {
			q.Run(func(batch []int, answers []error) error {
				if batch[0] == 0 {
					close(underWay)
					<-goOn
				}
				return s.commit(batch, answers)
			})
		})
		var callers sync.WaitGroup
		do := func(n int) {
			callers.Go(func() {
				if err := q.Do(t.Context(), n, nil); err != nil {
					t.Errorf("write %d is told %v", n, err)
				}
			})
		}
		do(0)
		<-underWay
		for n := 1; n <= 10; n++ {
			do(n)
		}
		synctest.Wait() // for each to be in the queue
		q.Close()
		if err := q.Do(t.Context(), 11, nil); err != engine.ErrClosed {
			t.Errorf("a write after the end is told %v, want %v", err, engine.ErrClosed)
		}
		if err := q.Note(12); err != engine.ErrClosed {
			t.Errorf("a note after the end is told %v, want %v", err, engine.ErrClosed)
		}
		close(goOn)
		callers.Wait()
		run.Wait() // Run returns: the bubble would report one that does not
		if len(s.committed) != 11 {
			t.Errorf("committed are %v, want 0 to 10", s.committed)
		}
	})
}

func TestNotesWaitForAWriteToShareACommitWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, s := newQueue(t), &storage{}
		var run sync.WaitGroup
		run.Go(func() { q.Run(s.commit) })
		note := func(n int) {
			if err := q.Note(n); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		note(1)
		time.Sleep(time.Millisecond) // of the bubble's clock
		note(2)
		synctest.Wait()
		if len(s.tried) != 0 {
			t.Errorf("notes alone were committed at once: %v", s.tried)
		}
		if err := q.Do(t.Context(), 3, nil); err != nil {
			t.Error(err)
		}
		if waited := time.Since(began); waited != time.Millisecond {
			t.Errorf("a write waited with the notes until %v", waited)
		}
		note(4)
		time.Sleep(time.Second)
		synctest.Wait()
		if want := [][]int{{1, 2, 3}, {4}}; !slices.EqualFunc(s.tried, want, slices.Equal) {
			t.Errorf("the transactions are %v, want %v", s.tried, want)
		}
		note(5)
		synctest.Wait()
		q.Close() // while it is held
		run.Wait()
		if last := s.tried[len(s.tried)-1]; !slices.Equal(last, []int{5}) {
			t.Errorf("the last transaction is %v, want the note that was held", last)
		}
	})
}
