package distributed

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"tandem/internal/limit"
)

// limiter keeps callers within a rate that counts what all processes let in. A
// process asks Postgres for leave at most every askAgain for each caller, for all
// of its requests that wait. Where more are likely to come at once it asks for a
// few beyond those, and gives back what it has not used: so a caller may be
// refused a few requests too early, for a moment, and is never let in too often.
//
// While Postgres does not answer, each process keeps to the rate by itself.
type limiter struct {
	rate  limit.Rate
	pool  *pgxpool.Pool
	alone *limit.Limiter

	mu      sync.Mutex
	callers map[string]*leave
	allowed int64
	refused int64
}

// leave is what a process may let in of one caller.
type leave struct {
	free    int       // requests it may let in without asking
	till    time.Time // and until when
	asked   time.Time // when it asked last
	asking  bool      // somebody asks, or is about to
	served  int       // requests let in since it asked
	waiting []chan<- limit.Decision

	room  int // that Postgres had left
	reset time.Time
}

const (
	askAgain = 100 * time.Millisecond
	// leaveKept is how long a process keeps leave that it has not used.
	leaveKept = time.Second
	// askTimeout is how long Postgres may take.
	askTimeout = 2 * time.Second
	// mostCallers bounds the callers that are kept in mind.
	mostCallers = 10_000
)

// Limiter returns what keeps to the rate in all processes together.
func (b *Backend) Limiter(rate limit.Rate) limit.Taker {
	return &limiter{rate: rate, pool: b.queue, alone: limit.New(rate), callers: make(map[string]*leave)}
}

// Take implements limit.Taker.
func (l *limiter) Take(key string, now time.Time) limit.Decision {
	d := l.take(key, now)
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.OK {
		l.allowed++
	} else {
		l.refused++
	}
	return d
}

func (l *limiter) take(key string, now time.Time) limit.Decision {
	if l.rate == (limit.Rate{}) {
		return limit.Decision{OK: true}
	}
	l.mu.Lock()
	c := l.caller(key)
	if c.free > 0 && now.Before(c.till) {
		c.free--
		c.served++
		d := l.decide(c, true, now)
		l.mu.Unlock()
		return d
	}
	if c.room <= 0 && now.Sub(c.asked) < askAgain { // it has just been told that there is none
		d := l.decide(c, false, now)
		l.mu.Unlock()
		return d
	}
	answer := make(chan limit.Decision, 1)
	c.waiting = append(c.waiting, answer)
	if !c.asking {
		c.asking = true
		go l.ask(key, c)
	}
	l.mu.Unlock()
	return <-answer
}

// ask asks Postgres for those of a caller who wait, as soon as it may.
func (l *limiter) ask(key string, c *leave) {
	l.mu.Lock()
	wait := askAgain - time.Since(c.asked)
	l.mu.Unlock()
	if wait > 0 {
		time.Sleep(wait)
	}
	l.mu.Lock()
	c.asked = time.Now()
	waiting := c.waiting
	c.waiting = nil
	beyond := min(c.served+len(waiting)-1, l.rate.N/20)
	c.served = len(waiting)
	unused := c.free
	c.free = 0
	l.mu.Unlock()

	granted, room, reset, err := l.askFor(key, len(waiting)+beyond-unused)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if c.asking = len(c.waiting) > 0; c.asking { // they have come meanwhile
		go l.ask(key, c)
	}
	if err != nil {
		for _, answer := range waiting {
			answer <- l.alone.Take(key, now)
		}
		return
	}
	c.free, c.till, c.room, c.reset = granted+unused, now.Add(leaveKept), room, now.Add(reset)
	for _, answer := range waiting {
		ok := c.free > 0
		if ok {
			c.free--
		}
		answer <- l.decide(c, ok, now)
	}
	if c.free > 0 {
		time.AfterFunc(leaveKept, func() { l.giveBack(key, c) })
	}
}

// giveBack returns leave that was not used in time. If Postgres does not hear of
// it, it counts as used until its window has passed.
func (l *limiter) giveBack(key string, c *leave) {
	l.mu.Lock()
	unused := c.free
	if unused == 0 || time.Now().Before(c.till) || c.asking {
		l.mu.Unlock()
		return
	}
	c.free = 0
	l.mu.Unlock()
	_, _, _, _ = l.askFor(key, -unused)
}

// askFor takes leave for so many requests, or gives it back if that is negative.
func (l *limiter) askFor(key string, want int) (granted, room int, reset time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	var micros int64
	err = l.pool.QueryRow(ctx, `SELECT granted, room, reset_us FROM take_from_rate($1, $2, $3, $4)`,
		l.rate.String()+" "+key, want, l.rate.N, l.rate.Window.Microseconds()).Scan(&granted, &room, &micros)
	if err != nil {
		return 0, 0, 0, fmt.Errorf("ask for leave: %w", err)
	}
	return granted, room, time.Duration(micros) * time.Microsecond, nil
}

// decide is the answer to one request, whose leave has been taken if it has it.
func (l *limiter) decide(c *leave, ok bool, now time.Time) limit.Decision {
	d := limit.Decision{OK: ok, Limit: l.rate.N, Window: l.rate.Window, Remaining: max(0, c.room) + c.free, Reset: max(0, c.reset.Sub(now))}
	if !ok {
		d.Remaining, d.Retry = 0, max(d.Reset, time.Millisecond)
	}
	return d
}

func (l *limiter) caller(key string) *leave {
	c := l.callers[key]
	if c == nil {
		if len(l.callers) >= mostCallers {
			l.forgetIdle()
		}
		c = &leave{room: l.rate.N}
		l.callers[key] = c
	}
	return c
}

// forgetIdle forgets callers of whom there is nothing to know: those that have
// asked for nothing lately, a few at a time.
func (l *limiter) forgetIdle() {
	looked := 0
	for key, c := range l.callers { // in no order
		if !c.asking && c.free == 0 && time.Since(c.asked) > leaveKept {
			delete(l.callers, key)
		}
		if looked++; looked == 100 {
			return
		}
	}
}

// Counts implements limit.Taker.
func (l *limiter) Counts() (allowed, refused int64, callers int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.allowed, l.refused, len(l.callers)
}
