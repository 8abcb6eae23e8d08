package distributed

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/rivertype"
)

// A job that this process has taken is out of the reach of the others, and older
// than all that are still in the queue. So it takes few that it has no slot for,
// lets those that it has taken go by their age, and gives back what it has kept
// for too long to the place in the queue that it had.

const (
	// aheadFor is for how long the jobs of a lane last that are taken beyond its
	// slots: longer than until River looks for more.
	aheadFor = time.Second
	// leastAhead and mostAhead bound them: River may look for more after fetchPoll
	// only, and where sync callers have the slots as well the pace says little.
	leastAhead = 16
	mostAhead  = 64
	// mostSuspects bounds those of them that wait because one suspect runs at a
	// time.
	mostSuspects = mostAhead / 2
	// slotPatience is how long a job waits here for a slot before it goes back, for
	// any process to take: no longer than its lease lasts beyond its work.
	slotPatience = jobGrace
)

// line is where the process jobs of one lane wait in this process for a slot.
type line struct {
	slots int

	mu       sync.Mutex
	waiting  []*inLine // oldest first
	asking   bool      // the first of them has left the line, and asks for a slot
	suspects int       // jobs that wait for others that are suspects, too
	more     bool      // there were more jobs in the queue when it was looked into last

	working int
	ended   time.Time     // when a job's work ended last, or began after nothing was worked
	pace    time.Duration // moving mean of the time from one end to the next while others wait; 0: not known yet
}

// age is a job's place in the queue.
type age struct {
	scheduled time.Time
	id        int64
}

func older(a, b age) int {
	return cmp.Or(a.scheduled.Compare(b.scheduled), cmp.Compare(a.id, b.id))
}

type inLine struct {
	age  age
	turn chan struct{} // closed when it may ask
}

// most is how many jobs the lane can have here.
func (l *line) most() int { return min(l.slots+mostAhead, river.QueueNumWorkersMax) }

// ahead is how many jobs to take beyond the slots. The caller holds mu.
func (l *line) ahead() int {
	if l.pace == 0 { // nothing has ended yet
		return leastAhead
	}
	return int(min(max((aheadFor+l.pace-1)/l.pace, leastAhead), mostAhead))
}

// wanted is how many jobs to take of those that River has room for. Suspects that
// wait do not count: they may do so for long.
func (l *line) wanted(room int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	here := l.most() - room
	return max(0, min(room, l.slots+l.ahead()-(here-l.suspects)))
}

// took notes how many jobs there were of those that were asked for.
func (l *line) took(got, asked int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.more = got == asked
}

// isEmpty reports whether no job waits for a slot here.
func (l *line) isEmpty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.empty()
}

func (l *line) empty() bool { return len(l.waiting) == 0 && !l.asking }

// reserve asks for a slot, as soon as no older job waits for one.
func (l *line) reserve(ctx context.Context, job age, ask func(context.Context) error) error {
	me := &inLine{job, make(chan struct{})}
	l.mu.Lock()
	at, _ := slices.BinarySearchFunc(l.waiting, job, func(w *inLine, job age) int { return older(w.age, job) })
	l.waiting = slices.Insert(l.waiting, at, me)
	l.next()
	l.mu.Unlock()
	select {
	case <-me.turn:
	case <-ctx.Done():
	}
	l.mu.Lock()
	at = slices.Index(l.waiting, me)
	if at >= 0 { // it was not its turn in time
		l.waiting = slices.Delete(l.waiting, at, at+1)
		l.mu.Unlock()
		return context.Cause(ctx)
	}
	l.mu.Unlock()
	err := ask(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asking = false
	l.next()
	return err
}

// next lets the first in line ask, unless another does. The caller holds mu.
func (l *line) next() {
	if l.asking || len(l.waiting) == 0 {
		return
	}
	l.asking = true
	close(l.waiting[0].turn)
	l.waiting = slices.Delete(l.waiting, 0, 1)
}

// suspect notes that one more suspect waits for another, until done is called; or
// that as many do as may.
func (l *line) suspect() (done func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.suspects == mostSuspects {
		return nil, false
	}
	l.suspects++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.suspects--
	}, true
}

// begin notes that the work of a job begins, and end that it ends.
func (l *line) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.working == 0 {
		l.ended = time.Now()
	}
	l.working++
}

func (l *line) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	took := now.Sub(l.ended)
	l.ended = now
	l.working--
	switch {
	case l.empty() && !l.more: // it says how often requests come, not how fast they go
	case l.pace == 0:
		l.pace = max(took, 1)
	default:
		l.pace = max(l.pace+(took-l.pace)/4, 1)
	}
}

// keepPlace puts a job back to where it was in the queue.
func keepPlace(job age) error {
	return &rivertype.JobSnoozeError{Duration: -max(0, time.Since(job.scheduled))}
}

// fewer is a River driver that takes no more jobs than the lines want.
type fewer struct {
	riverdriver.Driver[pgx.Tx]
	lines map[string]*line // by queue
}

func (d fewer) GetExecutor() riverdriver.Executor { return fewerJobs{d.Driver.GetExecutor(), d.lines} }

type fewerJobs struct {
	riverdriver.Executor
	lines map[string]*line
}

func (e fewerJobs) JobGetAvailable(ctx context.Context, params *riverdriver.JobGetAvailableParams) (*riverdriver.JobGetAvailableResult, error) {
	l := e.lines[params.Queue]
	if l == nil {
		return e.Executor.JobGetAvailable(ctx, params)
	}
	asked := *params
	if asked.MaxToLock = l.wanted(params.MaxToLock); asked.MaxToLock == 0 {
		return &riverdriver.JobGetAvailableResult{}, nil
	}
	got, err := e.Executor.JobGetAvailable(ctx, &asked)
	if err == nil {
		l.took(len(got.Jobs), asked.MaxToLock)
	}
	return got, err
}
