package embedded

import (
	"slices"
	"sync"
	"time"
)

// crew runs functions in the background, in goroutines that are used again: a
// fresh one begins with a small stack, and each step would pay for its growth.
// Those that were not needed for a while end. The zero value is ready for use.
type crew struct {
	running sync.WaitGroup

	mu       sync.Mutex
	free     []chan func() // of goroutines that wait; the last that began to is taken first
	spare    int           // so many of free, the first ones, were not needed since the last sweep
	sweeping bool          // a sweep is due
}

// sweepEvery is how long a goroutine waits, at least, before it ends.
const sweepEvery = time.Second

// Go runs f in the background.
func (c *crew) Go(f func()) {
	c.running.Add(1)
	c.mu.Lock()
	n := len(c.free) - 1
	if n < 0 {
		c.mu.Unlock()
		go c.work(f)
		return
	}
	next := c.free[n]
	c.free = c.free[:n]
	c.spare = min(c.spare, n)
	c.mu.Unlock()
	next <- f
}

func (c *crew) work(f func()) {
	next := make(chan func(), 1)
	for f != nil {
		f()
		c.mu.Lock()
		c.free = append(c.free, next)
		if !c.sweeping {
			c.sweeping, c.spare = true, 0
			time.AfterFunc(sweepEvery, c.sweep)
		}
		c.mu.Unlock()
		c.running.Done()
		f = <-next
	}
}

// sweep ends the goroutines that were not needed since the last one.
func (c *crew) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end(c.spare)
	c.spare = len(c.free)
	if c.sweeping = c.spare > 0; c.sweeping {
		time.AfterFunc(sweepEvery, c.sweep)
	}
}

// end ends the first n goroutines that wait. The caller holds mu.
func (c *crew) end(n int) {
	for _, next := range c.free[:n] {
		close(next)
	}
	c.free = slices.Delete(c.free, 0, n)
}

// Wait waits for all that runs, and ends the goroutines. No Go may follow.
func (c *crew) Wait() {
	c.running.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end(len(c.free))
	c.spare = 0
}
