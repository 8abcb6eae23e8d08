package engine

import (
	"cmp"
	"context"
	"slices"
	"time"

	"tandem"
	"tandem/work"
)

// Stats is the state of the service at one moment. Counts come from the store
// and are of all requests of the caller that it keeps.
type Stats struct {
	Counts  Counts
	Uptime  time.Duration
	Backend string
	Durable bool

	// Activity tells of the requests of all callers together; nil for one who may
	// see no others' than its own.
	*Activity
}

// Activity is what this process is doing and saw lately.
type Activity struct {
	Processing map[tandem.Mode]Percentiles
	Queue      map[tandem.Mode]Percentiles
	Lag        Percentiles             // from worked to delivered
	PerSecond  map[tandem.Mode]float64 // requests worked, over the last minute

	Hosts    []HostState // with attempts in flight or failures; at most 100
	Lanes    []LaneState
	InFlight int // steps and sync work in progress
	Backlog  int // accepted and not started
}

// Stats gathers the state of the service, as far as the caller may see it. Its
// cost does not grow with the history.
func (e *Engine) Stats(ctx context.Context, who tandem.Caller) (Stats, error) {
	counts, err := e.backend.Counts(ctx, who)
	if err != nil {
		return Stats{}, err
	}
	now := e.opts.Now()
	s := Stats{Counts: counts, Uptime: now.Sub(e.started), Backend: e.backend.Name(), Durable: e.backend.Durable()}
	if who.Admin {
		s.Activity, err = e.activity(ctx, now)
	}
	return s, err
}

func (e *Engine) activity(ctx context.Context, now time.Time) (*Activity, error) {
	backlog, _, err := e.backend.Backlog(ctx)
	if err != nil {
		return nil, err
	}
	a := &Activity{
		Processing: make(map[tandem.Mode]Percentiles),
		Queue:      make(map[tandem.Mode]Percentiles),
		Lag:        e.seen.lag.percentiles(now),
		PerSecond:  make(map[tandem.Mode]float64),
		Hosts:      e.hosts.states(now, 100),
		Lanes:      e.laneStates(),
		InFlight:   e.running.count(),
		Backlog:    backlog,
	}
	for _, mode := range tandem.Modes {
		a.Processing[mode] = e.seen.processing[mode].percentiles(now)
		a.Queue[mode] = e.seen.queue[mode].percentiles(now)
		a.PerSecond[mode] = e.seen.worked[mode].perSecond(now, e.seen.began)
	}
	slices.SortFunc(a.Hosts, func(a, b HostState) int { return cmp.Compare(a.Host, b.Host) })
	return a, nil
}

// LaneState is the slots for one class of work, and what is admitted to them.
type LaneState struct {
	Lane      string
	Slots     int
	Busy      int
	Abandoned int // Funcs that run on although their request is over

	SyncLimit    int // sync requests that may be in flight, in slots or waiting
	SyncInFlight int
	SyncRefused  int64 // since the start
}

// laneStates returns every lane, by name.
func (e *Engine) laneStates() []LaneState {
	var all []LaneState
	for name, l := range e.lanes {
		s := LaneState{Lane: name, Slots: l.slots, Busy: l.busy(), Abandoned: l.abandonedNow()}
		s.SyncLimit, s.SyncInFlight, s.SyncRefused = e.limiters[name].state()
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b LaneState) int { return cmp.Compare(a.Lane, b.Lane) })
	return all
}

// Workloads lists the kinds of work the engine runs, sorted by name.
func (e *Engine) Workloads() []work.Kind { return e.registry.Kinds() }

// Backend tells what the engine runs on.
func (e *Engine) Backend() (name string, durable bool) {
	return e.backend.Name(), e.backend.Durable()
}
