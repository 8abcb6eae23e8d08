package distributed

import (
	"context"
	"sync"
	"time"
)

// places is where deliver jobs wait whose host takes no further attempt from
// this process. Which hosts do is the engine's to say; places sees to it that a
// job comes back when that may have changed, and that the jobs of one host
// neither fill this process nor go round and round in the queue.
type places struct {
	most int // jobs that this process takes at once

	mu       sync.Mutex
	inFlight int
	waiting  int
	hosts    map[string]*hostPlaces
}

type hostPlaces struct {
	inFlight int
	waiting  []chan struct{}
	freed    int           // attempts that have ended, ever
	lastEnd  time.Time     // of an attempt
	pace     time.Duration // moving mean of the time from one end to the next
	next     time.Time     // for when the last job was put off
}

const (
	// fastestPace and slowestPace bound the distance at which put-off jobs of
	// one host come back, and longestPutOff the whole of it.
	fastestPace   = time.Millisecond
	slowestPace   = 10 * time.Millisecond
	longestPutOff = time.Hour
	// soonest is when a job comes back for which there was no room to wait.
	soonest = 50 * time.Millisecond
	// hostsKept bounds the hosts that are remembered for their pace alone.
	hostsKept = 10_000
)

func newPlaces(most int) *places {
	return &places{most: most, hosts: make(map[string]*hostPlaces)}
}

func (p *places) host(name string) *hostPlaces {
	h := p.hosts[name]
	if h == nil {
		h = &hostPlaces{pace: fastestPace}
		p.hosts[name] = h
	}
	return h
}

// begun notes an attempt to the host, and ended its end.
func (p *places) begun(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.host(name).inFlight++
	p.inFlight++
}

// roomFor reports whether a callback to the host may wait here for its place: not
// too many do, and none was put off for later.
func (p *places) roomFor(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.hosts[name]; h != nil && (p.crowded(h) || time.Now().Before(h.next)) {
		return false
	}
	return p.inFlight < p.most
}

// full reports whether this process makes as many attempts as it may.
func (p *places) full() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inFlight >= p.most
}

// crowded reports whether as many wait as may, for the host or in all. The caller
// holds mu.
func (p *places) crowded(h *hostPlaces) bool {
	return len(h.waiting) >= p.most/4 || p.waiting >= p.most/2
}

func (p *places) ended(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	h := p.host(name)
	h.inFlight--
	p.inFlight--
	h.freed++
	if !h.lastEnd.IsZero() {
		h.pace += (min(now.Sub(h.lastEnd), slowestPace) - h.pace) / 16
	}
	h.lastEnd = now
	if len(h.waiting) > 0 {
		close(h.waiting[0])
		h.waiting = h.waiting[1:]
		p.waiting--
	}
	if h.inFlight == 0 && len(h.waiting) == 0 && now.After(h.next) {
		delete(p.hosts, name)
	}
}

// freed returns how many attempts to the host have ended: what wait compares
// with.
func (p *places) freed(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.hosts[name]; h != nil {
		return h.freed
	}
	return 0
}

// wait waits until an attempt to the host has ended since freed returned seen.
// It returns false if there was none in time, or if too many wait.
func (p *places) wait(ctx context.Context, name string, seen int, patience time.Duration) bool {
	p.mu.Lock()
	h := p.hosts[name]
	if h == nil || h.inFlight == 0 || h.freed != seen {
		p.mu.Unlock()
		return patience > 0
	}
	if p.crowded(h) {
		p.mu.Unlock()
		return false
	}
	turn := make(chan struct{})
	h.waiting = append(h.waiting, turn)
	p.waiting++
	p.mu.Unlock()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-turn:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, waiting := range h.waiting {
		if waiting == turn {
			h.waiting = append(h.waiting[:i:i], h.waiting[i+1:]...)
			p.waiting--
			return false
		}
	}
	return true // its turn came at the same moment
}

// putOff returns in how long a job of the host is to come back, which is not
// before the given time. One after the other gets its time at the host's pace:
// a million of them are not taken up and put off again every minute.
func (p *places) putOff(name string, atLeast time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	h := p.host(name)
	at := now.Add(max(atLeast, soonest))
	if next := h.next.Add(max(h.pace, fastestPace)); next.After(at) {
		at = next
	}
	if latest := now.Add(max(atLeast, longestPutOff)); at.After(latest) {
		at = latest
	}
	h.next = at
	if len(p.hosts) > hostsKept {
		for other, h := range p.hosts {
			if h.inFlight == 0 && len(h.waiting) == 0 && now.After(h.next) {
				delete(p.hosts, other)
			}
		}
	}
	return at.Sub(now)
}
