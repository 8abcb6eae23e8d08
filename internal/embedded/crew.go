package embedded

import "sync"

// crew runs functions in the background, in goroutines that are used again: a
// fresh one begins with a small stack, and each step would pay for its growth.
// The zero value is ready for use.
type crew struct {
	running sync.WaitGroup

	mu   sync.Mutex
	free []chan func() // of goroutines that wait; the last that began to is taken first
}

// maxFree bounds the goroutines that wait for something to do.
const maxFree = 256

// Go runs f in the background.
func (c *crew) Go(f func()) {
	c.running.Add(1)
	c.mu.Lock()
	n := len(c.free)
	if n == 0 {
		c.mu.Unlock()
		go c.work(f)
		return
	}
	next := c.free[n-1]
	c.free = c.free[:n-1]
	c.mu.Unlock()
	next <- f
}

func (c *crew) work(f func()) {
	next := make(chan func(), 1)
	for f != nil {
		f()
		c.mu.Lock()
		if len(c.free) == maxFree {
			c.mu.Unlock()
			c.running.Done()
			return
		}
		c.free = append(c.free, next)
		c.mu.Unlock()
		c.running.Done()
		f = <-next
	}
}

// Wait waits for all that runs, and ends the goroutines. No Go may follow.
func (c *crew) Wait() {
	c.running.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, next := range c.free {
		close(next)
	}
	c.free = nil
}
