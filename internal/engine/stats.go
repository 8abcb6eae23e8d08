package engine

import (
	"cmp"
	"context"
	"slices"
	"time"

	"tandem"
)

// Stats is the state of the service at one moment. Counts come from the store
// and are of all requests that it keeps; Percentiles and rates are what this
// process saw lately.
type Stats struct {
	Counts Counts

	Processing map[tandem.Mode]Percentiles
	Queue      map[tandem.Mode]Percentiles
	Lag        Percentiles             // from worked to delivered
	PerSecond  map[tandem.Mode]float64 // requests worked, over the last minute

	Hosts    []HostState // with attempts in flight or failures; at most 100
	Lanes    []LaneState
	InFlight int // steps and sync work in progress
	Backlog  int // accepted and not started
	Uptime   time.Duration
	Backend  string
	Durable  bool
}

// Stats gathers the state of the service, with the counts of the caller's
// requests. Its cost does not grow with the history.
func (e *Engine) Stats(ctx context.Context, who tandem.Caller) (Stats, error) {
	counts, err := e.backend.Counts(ctx, who)
	if err != nil {
		return Stats{}, err
	}
	backlog, _, err := e.backend.Backlog(ctx)
	if err != nil {
		return Stats{}, err
	}
	now := e.opts.Now()
	s := Stats{
		Counts:     counts,
		Processing: make(map[tandem.Mode]Percentiles),
		Queue:      make(map[tandem.Mode]Percentiles),
		Lag:        e.seen.lag.percentiles(now),
		PerSecond:  make(map[tandem.Mode]float64),
		Hosts:      e.hosts.states(now, 100),
		InFlight:   e.running.count(),
		Backlog:    backlog,
		Uptime:     now.Sub(e.started),
		Backend:    e.backend.Name(),
		Durable:    e.backend.Durable(),
	}
	for _, mode := range tandem.Modes {
		s.Processing[mode] = e.seen.processing[mode].percentiles(now)
		s.Queue[mode] = e.seen.queue[mode].percentiles(now)
		s.PerSecond[mode] = e.seen.worked[mode].perSecond(now, e.seen.began)
	}
	s.Lanes = e.laneStates()
	slices.SortFunc(s.Hosts, func(a, b HostState) int { return cmp.Compare(a.Host, b.Host) })
	return s, nil
}

// OwnOnly leaves out what tells of the requests of other callers, too.
func (s *Stats) OwnOnly() {
	s.Processing, s.Queue, s.Lag, s.PerSecond = nil, nil, Percentiles{}, nil
	s.Hosts, s.Lanes, s.InFlight, s.Backlog = nil, nil, 0, 0
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

// Backend tells what the engine runs on.
func (e *Engine) Backend() (name string, durable bool) {
	return e.backend.Name(), e.backend.Durable()
}
