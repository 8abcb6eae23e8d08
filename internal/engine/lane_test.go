package engine

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tandem"
	"tandem/work"
)

// laneTest runs tickets on a lane, each until it is told to end.
type laneTest struct {
	*lane
	mu      sync.Mutex
	running []string
	order   []string
	ends    map[string]chan struct{}
}

func newLaneTest(slots int) *laneTest {
	return &laneTest{lane: newLane(work.CPU, slots), ends: map[string]chan struct{}{}}
}

func (lt *laneTest) add(ctx context.Context, mode tandem.Mode, name string) *ticket {
	end := make(chan struct{})
	lt.mu.Lock()
	lt.ends[name] = end
	lt.mu.Unlock()
	t := &ticket{mode: mode, ctx: ctx, run: func() bool {
		lt.mu.Lock()
		lt.running = append(lt.running, name)
		lt.order = append(lt.order, name)
		lt.mu.Unlock()
		<-end
		lt.mu.Lock()
		lt.running = slices.DeleteFunc(lt.running, func(r string) bool { return r == name })
		lt.mu.Unlock()
		return true
	}}
	lt.enqueue(t)
	return t
}

// end ends a ticket's work and waits until the lane has gone on.
func (lt *laneTest) end(name string) {
	lt.mu.Lock()
	end := lt.ends[name]
	lt.mu.Unlock()
	close(end)
	synctest.Wait()
}

func (lt *laneTest) now() []string {
	synctest.Wait()
	lt.mu.Lock()
	defer lt.mu.Unlock()
	return slices.Sorted(slices.Values(lt.running))
}

func TestFreedSlotsAlternateWhileBothModesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lt := newLaneTest(1)
		ctx := t.Context()
		lt.add(ctx, tandem.Async, "first")
		for _, name := range []string{"a1", "a2", "a3", "a4"} {
			lt.add(ctx, tandem.Async, name)
		}
		for _, name := range []string{"s1", "s2"} {
			lt.add(ctx, tandem.Sync, name)
		}
		for _, name := range []string{"first", "s1", "a1", "s2", "a2", "a3", "a4"} {
			if got := lt.now(); !slices.Equal(got, []string{name}) {
				t.Fatalf("%v run, want %s", got, name)
			}
			lt.end(name)
		}
		if lt.busy() != 0 {
			t.Errorf("%d slots are busy when all is done", lt.busy())
		}
	})
}

func TestTwoSlotsRunTwoAtOnceAndAlternate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lt := newLaneTest(2)
		ctx := t.Context()
		for _, name := range []string{"a1", "a2", "a3", "a4", "a5"} {
			lt.add(ctx, tandem.Async, name)
		}
		lt.add(ctx, tandem.Sync, "s1")
		lt.add(ctx, tandem.Sync, "s2")
		if got := lt.now(); !slices.Equal(got, []string{"a1", "a2"}) {
			t.Fatalf("%v run, want the first two", got)
		}
		for _, step := range []struct{ end, begins string }{{"a1", "s1"}, {"a2", "a3"}, {"s1", "s2"}, {"a3", "a4"}, {"s2", "a5"}} {
			lt.end(step.end)
			if got := lt.now(); !slices.Contains(got, step.begins) || len(got) != 2 {
				t.Fatalf("after %s ended %v run, want %s among two", step.end, got, step.begins)
			}
		}
		lt.end("a4")
		lt.end("a5")
		if lt.busy() != 0 {
			t.Errorf("%d slots are busy when all is done", lt.busy())
		}
	})
}

func TestAWaiterPastItsDeadlineIsSkippedWithoutRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lt := newLaneTest(1)
		lt.add(t.Context(), tandem.Sync, "first")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		late := lt.add(ctx, tandem.Sync, "late")
		lt.add(t.Context(), tandem.Sync, "patient")
		time.Sleep(2 * time.Second) // of the bubble's time
		lt.end("first")
		if got := lt.now(); !slices.Equal(got, []string{"patient"}) {
			t.Errorf("%v run, want the one who still waits", got)
		}
		if !lt.withdraw(late) {
			t.Error("the skipped ticket is said to have a slot")
		}
		lt.end("patient")
		if slices.Contains(lt.order, "late") {
			t.Error("the late one ran")
		}
	})
}

func TestATicketIsWithdrawnOnlyWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lt := newLaneTest(1)
		runs := lt.add(t.Context(), tandem.Sync, "runs")
		waits := lt.add(t.Context(), tandem.Async, "waits")
		synctest.Wait()
		if lt.withdraw(runs) {
			t.Error("a ticket was withdrawn from its slot")
		}
		if !lt.withdraw(waits) {
			t.Error("a waiting ticket was not withdrawn")
		}
		lt.end("runs")
		if got := lt.now(); len(got) != 0 {
			t.Errorf("%v run, though it was withdrawn", got)
		}
	})
}

func TestReservationsFollowTheSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lt := newLaneTest(2)
		lt.means[tandem.Async] = time.Second // long work: nothing is started ahead
		reserved := func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return lt.reserve(ctx) == nil
		}
		for range 2 {
			if !reserved() {
				t.Fatal("two free slots do not take two reservations")
			}
		}
		if reserved() {
			t.Fatal("two free slots take three reservations")
		}
		for _, name := range []string{"a1", "a2"} {
			lt.add(t.Context(), tandem.Async, name)
			lt.unreserve()
		}
		synctest.Wait()
		if reserved() {
			t.Fatal("busy slots take a reservation for long work")
		}

		lt.add(t.Context(), tandem.Sync, "s1")
		if !reserved() {
			t.Fatal("while a sync caller waits no async request is started ahead to have its turn")
		}
		if reserved() {
			t.Fatal("more than one is started ahead of long work")
		}
		lt.unreserve()

		woken := make(chan error)
		go func() { woken <- lt.reserve(t.Context()) }()
		lt.end("a1") // s1 takes the slot
		lt.end("s1") // and frees it
		if err := <-woken; err != nil {
			t.Errorf("reserve after a slot was freed: %v", err)
		}
		lt.end("a2")
	})
}

func TestReserveEndsWithItsContext(t *testing.T) {
	lt := newLaneTest(1)
	lt.means[tandem.Async] = time.Second
	if err := lt.reserve(t.Context()); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := lt.reserve(ctx); !errors.Is(err, cause) {
		t.Errorf("reserve returned %v, want the cause", err)
	}
}

func TestStartAhead(t *testing.T) {
	for _, row := range []struct {
		name        string
		slots       int
		async, sync time.Duration // the means; of sync while callers wait, else zero
		want        int
	}{
		{"nothing is known yet: as many as there are slots", 4, 0, 0, 4},
		{"long work is not started ahead", 4, longWork + 1, 0, 0},
		{"long work has one started while callers with shorter work wait, to have its turn", 4, 2 * time.Second, time.Second, 1},
		{"long work a tenth as long as the callers' needs ten a slot", 2, 2 * longWork, 20 * longWork, 20},
		{"work that is not long needs one a slot", 4, longWork, 0, 4},
		{"work of a commit's time needs one a slot", 4, commitTime, 0, 4},
		{"work of half a commit's time needs two a slot", 4, commitTime / 2, 0, 8},
		{"work a fifth as long as the callers' needs five a slot, and two for a commit", 2, commitTime / 2, commitTime * 5 / 2, 14},
		{"work longer than the callers' needs one a slot", 2, 50 * time.Millisecond, 10 * time.Millisecond, 2},
		{"work as short as the callers' must last for a commit, too", 4, commitTime / 2, commitTime / 2, 12},
		{"short work needs many", 2, 100 * time.Microsecond, 0, maxAhead},
		{"many slots are bounded, too", 512, 0, 0, maxAhead},
	} {
		l := newLane(work.CPU, row.slots)
		l.means[tandem.Async], l.means[tandem.Sync] = row.async, row.sync
		if row.sync > 0 {
			l.waiting[tandem.Sync].PushBack(&ticket{mode: tandem.Sync, ctx: t.Context()})
		}
		if got := l.startAhead(); got != row.want {
			t.Errorf("%s: %d, want %d", row.name, got, row.want)
		}
	}
}

func TestAbandonedWorkFreesItsSlotUntilThereIsTooMuchOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(work.CPU, 1)
		release := make(chan struct{})
		stuck := func() *ticket {
			entered := make(chan func() bool, 1)
			tk := &ticket{mode: tandem.Sync, ctx: t.Context(), run: func() bool {
				returned := <-entered
				<-release
				return returned()
			}}
			l.enqueue(tk)
			synctest.Wait()
			if !tk.taken {
				t.Fatal("a slot that was given up is not free")
			}
			entered <- l.abandon()
			synctest.Wait()
			return tk
		}
		stuck()
		stuck()
		if l.heldByAbandoned() != 0 || l.busy() != 0 {
			t.Errorf("two stuck Funcs hold %d slots, %d are busy, want none", l.heldByAbandoned(), l.busy())
		}
		stuck()
		if l.heldByAbandoned() != 1 || l.busy() != 1 || l.abandonedNow() != 3 {
			t.Errorf("three stuck Funcs hold %d slots, %d busy, %d abandoned, want 1, 1, 3", l.heldByAbandoned(), l.busy(), l.abandonedNow())
		}
		close(release)
		synctest.Wait()
		if l.heldByAbandoned() != 0 || l.busy() != 0 || l.abandonedNow() != 0 {
			t.Errorf("after all returned: %d held, %d busy, %d abandoned, want none", l.heldByAbandoned(), l.busy(), l.abandonedNow())
		}
	})
}

// Both modes want all that they can get, with work of different lengths. Each
// gets its share of the slots' time.
func TestNeitherModeStarvesTheOther(t *testing.T) {
	for _, row := range []struct {
		name        string
		slots       int
		sync, async time.Duration
	}{
		{"alike", 2, 5 * time.Millisecond, 5 * time.Millisecond},
		{"short sync work and long async work", 2, 5 * time.Millisecond, 50 * time.Millisecond},
		{"short sync work and very long async work", 2, 5 * time.Millisecond, 500 * time.Millisecond},
		{"long sync work and short async work", 2, 200 * time.Millisecond, 5 * time.Millisecond},
		{"on one slot", 1, 5 * time.Millisecond, 500 * time.Millisecond},
		{"on many slots", 64, 10 * time.Millisecond, 300 * time.Millisecond},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const length = 30 * time.Second
				l := newLane(work.Waits, row.slots)
				ctx, cancel := context.WithTimeout(t.Context(), length)
				defer cancel()
				used := map[tandem.Mode]*atomic.Int64{tandem.Sync: {}, tandem.Async: {}}
				run := func(mode tandem.Mode, d time.Duration, done func()) {
					l.enqueue(&ticket{mode: mode, ctx: ctx, run: func() bool {
						if mode == tandem.Async {
							l.unreserve()
						}
						time.Sleep(d)
						used[mode].Add(int64(d))
						done()
						return true
					}})
				}
				// Async alone for a while: it must not have to pay for that.
				go func() {
					for l.reserve(ctx) == nil {
						time.Sleep(2 * time.Millisecond) // it is started on disk
						run(tandem.Async, row.async, func() {})
					}
				}()
				time.Sleep(10 * time.Second)
				used[tandem.Sync].Store(0)
				used[tandem.Async].Store(0)
				for range 4 * row.slots { // callers, each with one request at a time
					var again func()
					again = func() {
						if ctx.Err() == nil {
							go run(tandem.Sync, row.sync, again)
						}
					}
					again()
				}
				<-ctx.Done()
				time.Sleep(time.Minute) // what runs comes to its end
				total := float64(used[tandem.Sync].Load() + used[tandem.Async].Load())
				sync, async := float64(used[tandem.Sync].Load())/total, float64(used[tandem.Async].Load())/total
				t.Logf("sync %.0f %%, async %.0f %%", 100*sync, 100*async)
				if sync < 0.4 || async < 0.4 {
					t.Errorf("sync has %.0f %% of the slots' time, async %.0f %%", 100*sync, 100*async)
				}
			})
		})
	}
}
