package distributed_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tandem/internal/distributed"
	"tandem/internal/limit"
	"tandem/internal/storetest"
)

// open opens a backend on a database, as one more process would.
func open(t *testing.T, database string, opts distributed.Options) *distributed.Backend {
	t.Helper()
	b, err := distributed.Open(t.Context(), database, opts)
	if err != nil {
		t.Fatal(err)
	}
	closed := sync.OnceValue(b.Close)
	t.Cleanup(func() {
		if err := closed(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

func TestARateHoldsForAllProcessesTogether(t *testing.T) {
	t.Parallel()
	database := migrated.Database(t)
	const most, callers = 60, 3
	rate := limit.Rate{N: most, Window: time.Hour}
	var takers []limit.Taker
	for range 3 {
		takers = append(takers, open(t, database, distributed.Options{}).Limiter(rate))
	}
	var allowed [callers]atomic.Int64
	var all sync.WaitGroup
	for i := range callers {
		for _, taker := range takers {
			for range 20 {
				all.Go(func() {
					for range 5 {
						d := taker.Take(fmt.Sprint("caller ", i), time.Now())
						if d.OK {
							allowed[i].Add(1)
						} else if d.Retry <= 0 || d.Retry > rate.Window+rate.Window/50+time.Second || d.Remaining != 0 {
							t.Errorf("a refusal is %+v", d)
						}
					}
				})
			}
		}
	}
	all.Wait()
	for i := range callers {
		// The leave that a process did not use is given back a moment later.
		if n := allowed[i].Load(); n > most || n < most-3*most/20 {
			t.Errorf("caller %d was let in %d times of 300, want %d or a few less", i, n, most)
		}
	}
	// What was not used is given back, and then exactly the rest is let in.
	for i := range callers {
		key := fmt.Sprint("caller ", i)
		storetest.Eventually(t, fmt.Sprint(key, " is let in as often as the rate says"), func() bool {
			return allowed[i].Load() >= most || takers[0].Take(key, time.Now()).OK && allowed[i].Add(1) == most
		})
		if d := takers[0].Take(key, time.Now()); d.OK {
			t.Errorf("caller %d was let in once more than %d times", i, most)
		}
	}
}

func TestARateLetsInAgainWhenItsWindowHasPassed(t *testing.T) {
	t.Parallel()
	taker := open(t, migrated.Database(t), distributed.Options{}).Limiter(limit.Rate{N: 2, Window: time.Second})
	for want := 1; want >= 0; want-- {
		if d := taker.Take("ann", time.Now()); !d.OK || d.Remaining != want || d.Limit != 2 {
			t.Fatalf("got %+v, want it let in with %d remaining", d, want)
		}
	}
	d := taker.Take("ann", time.Now())
	if d.OK {
		t.Fatalf("the third is let in: %+v", d)
	}
	refused := time.Now()
	storetest.Eventually(t, "ann is let in again", func() bool { return taker.Take("ann", time.Now()).OK })
	if waited := time.Since(refused); waited+100*time.Millisecond < d.Retry {
		t.Errorf("it was let in after %v, and told to come back after %v", waited, d.Retry)
	}
	if d := taker.Take("bob", time.Now()); !d.OK {
		t.Errorf("another caller is refused: %+v", d)
	}
}
