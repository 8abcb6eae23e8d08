package embedded

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestACrewUsesGoroutinesAgainAndEndsTheIdleOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crew
		waiting := func() int {
			synctest.Wait()
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.free)
		}
		together := func(n int) {
			var all sync.WaitGroup
			all.Add(n)
			for range n {
				c.Go(func() { all.Done(); all.Wait() })
			}
			all.Wait()
		}
		together(10)
		if n := waiting(); n != 10 {
			t.Fatalf("%d goroutines wait after ten functions at once, want 10", n)
		}
		for range 40 { // two sweeps and more, with four needed all the time
			time.Sleep(sweepEvery / 10)
			together(4)
		}
		if n := waiting(); n != 4 {
			t.Errorf("%d goroutines wait where four are needed, want 4", n)
		}
		time.Sleep(3 * sweepEvery)
		if n := waiting(); n != 0 {
			t.Errorf("%d goroutines wait where none is needed, want 0", n)
		}
		together(2)
		c.Wait()
		if n := waiting(); n != 0 {
			t.Errorf("%d goroutines wait after the end, want 0", n)
		}
	})
}
