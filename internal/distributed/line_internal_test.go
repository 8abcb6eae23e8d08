package distributed

import (
	"context"
	"errors"
	"tandem/internal/storetest"
	"testing"
	"time"
)

func TestAProcessTakesAsManyJobsAsLastUntilItLooksAgain(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		slots    int
		pace     time.Duration
		here     int // jobs, of which suspects wait for one another
		suspects int
		want     int
	}{
		{"nothing has ended yet", 2, 0, 0, 0, 2 + leastAhead},
		{"two slots end a job of 10 s every 5 s", 2, 5 * time.Second, 0, 0, 2 + leastAhead},
		{"... and have what they need", 2, 5 * time.Second, 2 + leastAhead, 0, 0},
		{"suspects do not count", 2, 5 * time.Second, 2 + leastAhead, 3, 3},
		{"two slots end a job of 100 ms every 50 ms", 2, 50 * time.Millisecond, 0, 0, 22},
		{"as many as the lane can have", 2, time.Millisecond, 0, 0, 2 + mostAhead},
		{"as many as River has room for", 2, time.Millisecond, mostAhead, 0, 2},
		{"all slots of work that waits", 512, 20 * time.Millisecond, 0, 0, 512 + 50},
	} {
		l := &line{slots: row.slots, pace: row.pace, suspects: row.suspects}
		if got := l.wanted(l.most() - row.here); got != row.want {
			t.Errorf("%s: with %d here %d are wanted, want %d", row.name, row.here, got, row.want)
		}
	}
}

func TestTheOldestInLineAsksFirst(t *testing.T) {
	t.Parallel()
	l := &line{slots: 1}
	at := time.Now()
	var order []int64
	freed := make(chan struct{})
	done := make(chan error)
	ask := func(id int64) {
		done <- l.reserve(t.Context(), age{at, id}, func(context.Context) error {
			if id == 0 {
				<-freed
			}
			order = append(order, id)
			return nil
		})
	}
	inLine := func(n int) func() bool {
		return func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.asking && len(l.waiting) == n
		}
	}
	go ask(0)
	storetest.Eventually(t, "the first asks", inLine(0))
	left, leave := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		gone <- l.reserve(left, age{at, 2}, func(context.Context) error { return errors.New("it has left, and asks") })
	}()
	for n, id := range []int64{5, 1, 4, 3} {
		go ask(id)
		storetest.Eventually(t, "one more waits", inLine(n+2))
	}
	if l.isEmpty() {
		t.Error("five wait, and the line is empty")
	}
	leave()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("one that has left: %v", err)
	}
	close(freed)
	for range 5 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for i, want := range []int64{0, 1, 3, 4, 5} {
		if order[i] != want {
			t.Fatalf("they asked in the order %v, want them by age", order)
		}
	}
	if !l.isEmpty() {
		t.Error("nobody waits, and the line is not empty")
	}
}

func TestTheLineIsAsFastAsItsWork(t *testing.T) {
	t.Parallel()
	l := &line{slots: 1}
	end := func(after time.Duration) {
		l.begin()
		l.ended = l.ended.Add(-after)
		l.end()
	}
	end(time.Hour)
	if l.pace != 0 {
		t.Errorf("nothing waits, and the pace is %v: it is that of those who ask", l.pace)
	}
	l.took(3, 3) // there are more in the queue
	end(time.Second)
	if l.pace < time.Second {
		t.Errorf("work of 1 s has a pace of %v", l.pace)
	}
	for range 50 {
		end(0)
	}
	if l.pace > 100*time.Millisecond {
		t.Errorf("the pace of work that is short now is %v", l.pace)
	}
	pace := l.pace
	l.took(2, 3)
	end(time.Hour)
	if l.pace != pace {
		t.Errorf("nothing waits any more, and the pace goes from %v to %v", pace, l.pace)
	}
}
