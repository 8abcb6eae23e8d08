package distributed

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem/internal/callback"
	"tandem/internal/engine"
)

// breakers is what the processes know together of hosts that callbacks leave
// alone. Each counts the failures that it meets itself; that a host's breaker has
// opened is told to all, and leave to find out whether the host is well again is
// given to one of them at a time, by a lease in the host's row.
type breakers struct {
	b *Backend

	mu      sync.Mutex
	known   map[string]callback.Breaker // those that are not closed
	changes int                         // that this process has made of them; what was read before one is out of date
}

func newBreakers(b *Backend) *breakers {
	return &breakers{b: b, known: make(map[string]callback.Breaker)}
}

// look reads the table and tells the engine what is new. Before there is one, it
// does nothing.
func (s *breakers) look(ctx context.Context) error {
	steps := s.b.signals.steps.Load()
	if steps == nil {
		return nil
	}
	s.mu.Lock()
	changes := s.changes
	s.mu.Unlock()
	now, err := s.read(ctx)
	if err != nil {
		return err
	}
	if !s.learn(*steps, now, changes) {
		s.b.signals.lookNow()
	}
	return nil
}

// read reads the table.
func (s *breakers) read(ctx context.Context) (map[string]callback.Breaker, error) {
	rows, err := s.b.pool.Query(ctx, breakersQuery)
	if err != nil {
		return nil, fmt.Errorf("read breakers: %w", err)
	}
	now := make(map[string]callback.Breaker)
	var host string
	var open int64
	var probe *int64
	_, err = pgx.ForEachRow(rows, []any{&host, &open, &probe}, func() error {
		now[host] = callback.Breaker{OpenTill: time.UnixMicro(open).UTC(), ProbeTill: fromMicros(probe)}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read breakers: %w", err)
	}
	return now, nil
}

// learn takes over what was read after so many changes, unless there was another
// since: of that it may know nothing.
func (s *breakers) learn(steps engine.Steps, now map[string]callback.Breaker, changes int) bool {
	s.mu.Lock()
	if s.changes != changes {
		s.mu.Unlock()
		return false
	}
	before := s.known
	s.known = maps.Clone(now) // now is read below, and known changes
	s.mu.Unlock()
	for host, b := range now {
		if before[host].OpenTill != b.OpenTill {
			steps.SetBreaker(host, callback.Breaker{OpenTill: b.OpenTill})
		}
	}
	for host := range before {
		if _, open := now[host]; !open && !steps.Breaker(host).OpenTill.IsZero() {
			steps.SetBreaker(host, callback.Breaker{})
		}
	}
	return true
}

const breakersQuery = `SELECT host, open_till, probe_till FROM breakers ORDER BY host LIMIT 10000`

// admit asks for an attempt to a host: first all processes together, then this
// one.
func (s *breakers) admit(ctx context.Context, steps engine.Steps, host string) (engine.Admission, error) {
	s.mu.Lock()
	shared, notClosed := s.known[host]
	s.mu.Unlock()
	if !notClosed {
		return steps.Admit(host), nil
	}
	now := s.b.now()
	switch {
	case now.Before(shared.OpenTill):
		return engine.Admission{Until: shared.OpenTill}, nil
	case now.Before(shared.ProbeTill):
		return engine.Admission{Until: now.Add(lookAfter)}, nil // another process finds out
	}
	tag, err := s.b.pool.Exec(ctx, probeQuery, host, now.UnixMicro(), now.Add(callback.BreakerProbe).UnixMicro())
	if err != nil {
		return engine.Admission{}, fmt.Errorf("ask for leave to probe a host: %w", err)
	}
	s.mu.Lock()
	if shared, notClosed = s.known[host]; notClosed {
		shared.ProbeTill = now.Add(callback.BreakerProbe)
		s.known[host] = shared
	}
	s.mu.Unlock()
	if tag.RowsAffected() == 0 {
		return engine.Admission{Until: now.Add(lookAfter)}, nil
	}
	steps.SetBreaker(host, callback.Breaker{OpenTill: shared.OpenTill})
	return steps.Admit(host), nil
}

const probeQuery = `UPDATE breakers SET probe_till = $3
	WHERE host = $1 AND open_till <= $2 AND (probe_till IS NULL OR probe_till <= $2)`

// closed reports whether no process has found a host to be ill.
func (s *breakers) closed(host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, notClosed := s.known[host]
	return !notClosed
}

// attempted shares what an attempt has shown: that the host's breaker has
// opened, or closed.
func (s *breakers) attempted(ctx context.Context, steps engine.Steps, host string) error {
	here := steps.Breaker(host)
	s.mu.Lock()
	shared, notClosed := s.known[host]
	s.mu.Unlock()
	var err error
	switch {
	case here.OpenTill.IsZero() && notClosed:
		_, err = s.b.pool.Exec(ctx, closeQuery, host)
	case here.OpenTill.After(shared.OpenTill):
		_, err = s.b.pool.Exec(ctx, openQuery, host, here.OpenTill.UnixMicro())
	default:
		return nil
	}
	if err != nil {
		return fmt.Errorf("share a breaker: %w", err)
	}
	s.mu.Lock()
	if here.OpenTill.IsZero() {
		delete(s.known, host)
	} else {
		s.known[host] = callback.Breaker{OpenTill: here.OpenTill}
	}
	s.changes++
	s.mu.Unlock()
	s.b.signals.tell(hostSignal, "")
	return nil
}

const closeQuery = `DELETE FROM breakers WHERE host = $1`

const openQuery = `INSERT INTO breakers AS b (host, open_till) VALUES ($1, $2)
	ON CONFLICT (host) DO UPDATE SET open_till = greatest(b.open_till, excluded.open_till), probe_till = NULL`

// forget deletes hosts that nobody has had a callback for since they were let
// alone.
func (s *breakers) forget(ctx context.Context) error {
	_, err := s.b.pool.Exec(ctx, forgetHostsQuery, s.b.now().Add(-24*time.Hour).UnixMicro())
	return err
}

const forgetHostsQuery = `DELETE FROM breakers WHERE host IN (SELECT host FROM breakers WHERE open_till < $1 LIMIT 1000)`
