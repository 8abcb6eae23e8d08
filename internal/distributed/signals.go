package distributed

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

// signals is what processes tell each other: that a request is worked, that work
// is to be stopped, that a host has fallen ill or is well again. They go by
// NOTIFY, some milliseconds' worth in one, outside of the transactions they tell
// of: Postgres lets only one transaction that notifies commit at a time.
//
// A signal may be lost. Whoever depends on one looks at the rows from time to
// time.
type signals struct {
	b     *Backend
	out   chan signal
	look  chan struct{} // signals were missed: look at the rows now
	steps atomic.Pointer[engine.Steps]
}

type signal struct{ kind, text string }

const (
	workedSignal = "worked" // an id
	stopSignal   = "stop"   // an id and a reason
	hostSignal   = "host"   // nothing more: the table of breakers is short

	channel    = "tandem"
	maxPayload = 7900 // bytes; Postgres takes 7999
)

const (
	sendAfter     = 5 * time.Millisecond   // how long a signal waits for others
	sendEvery     = 20 * time.Millisecond  // how often signals are sent at most
	lookAfter     = time.Second            // how often rows are looked at beside signals
	lookAfterPoll = 100 * time.Millisecond // and without them
)

func newSignals(b *Backend) *signals {
	return &signals{b: b, out: make(chan signal, 4096), look: make(chan struct{}, 1)}
}

// tell sends a signal to all other processes. It does not block: one that there
// is no room for is lost.
func (s *signals) tell(kind, text string) {
	select {
	case s.out <- signal{kind, text}:
	default:
	}
}

// send sends what is told until ctx ends.
func (s *signals) send(ctx context.Context) {
	var sent time.Time
	for {
		var first signal
		select {
		case first = <-s.out:
		case <-ctx.Done():
			return
		}
		store.Pause(ctx, max(sendAfter, sendEvery-time.Since(sent)))
		sent = time.Now()
		for _, payload := range s.gather(first) {
			if _, err := s.b.queue.Exec(ctx, `SELECT pg_notify($1, $2)`, channel, payload); err != nil && ctx.Err() == nil {
				s.b.log.Debug("a signal was not sent; others will find out by looking", "error", err)
			}
		}
	}
}

// gather makes payloads of the first signal and those that wait: the name of the
// process, a kind, and what is told, line by line.
func (s *signals) gather(first signal) []string {
	byKind := map[string][]string{first.kind: {first.text}}
	for range len(s.out) {
		next := <-s.out
		byKind[next.kind] = append(byKind[next.kind], next.text)
	}
	var payloads []string
	for kind, texts := range byKind {
		head := s.b.name + "\n" + kind
		payload := head
		for _, text := range texts {
			if len(payload)+1+len(text) > maxPayload {
				payloads = append(payloads, payload)
				payload = head
			}
			payload += "\n" + text
		}
		payloads = append(payloads, payload)
	}
	return payloads
}

// listen hears what other processes tell, until ctx ends.
func (s *signals) listen(ctx context.Context) {
	for wait := 50 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 2*time.Second) {
		began := time.Now()
		err := s.listenOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > time.Minute {
			wait = 50 * time.Millisecond
		}
		s.b.log.Warn("the connection that hears of other processes was lost; looking at the rows until it is back", "error", err)
		store.Pause(ctx, wait)
	}
}

func (s *signals) listenOnce(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, s.b.queue.Config().ConnConfig.Copy())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `LISTEN `+channel); err != nil {
		return err
	}
	s.lookNow() // what was told meanwhile was missed
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		s.hear(n.Payload)
	}
}

func (s *signals) lookNow() {
	select {
	case s.look <- struct{}{}:
	default:
	}
}

func (s *signals) hear(payload string) {
	lines := strings.Split(payload, "\n")
	if len(lines) < 2 || lines[0] == s.b.name {
		return
	}
	switch lines[1] {
	case workedSignal:
		for _, id := range lines[2:] {
			s.b.watchers.Tell(id)
		}
	case stopSignal:
		for _, line := range lines[2:] {
			id, why, _ := strings.Cut(line, " ")
			s.interrupt(id, tandem.FailureCode(why))
		}
	case hostSignal:
		s.lookNow()
	}
}

// interrupt stops work, if it runs here.
func (s *signals) interrupt(id string, why tandem.FailureCode) {
	if steps := s.steps.Load(); steps != nil {
		(*steps).Interrupt(id, why)
	}
}

// poll looks at the rows from time to time, until ctx ends, for what a signal
// would have told.
func (s *signals) poll(ctx context.Context) {
	interval := lookAfter
	if s.b.opts.PollOnly {
		interval = lookAfterPoll
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-s.look:
		}
		if err := s.pollOnce(ctx); err != nil && ctx.Err() == nil {
			s.b.log.Warn("looking at the rows failed, trying again", "error", err)
		}
	}
}

func (s *signals) pollOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	if err := s.b.lookForPauses(ctx); err != nil {
		return err
	}
	if ids := s.b.watchers.IDs(); len(ids) > 0 {
		rows, err := s.b.pool.Query(ctx, workedQuery, ids)
		if err != nil {
			return fmt.Errorf("look for worked requests: %w", err)
		}
		worked, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("look for worked requests: %w", err)
		}
		for _, id := range worked {
			s.b.watchers.Tell(id)
		}
	}
	if all := s.b.working.all(); len(all) > 0 {
		ids := make([]string, len(all))
		for i, req := range all {
			ids[i] = req.ID
		}
		rows, err := s.b.pool.Query(ctx, stoppedQuery, ids)
		if err != nil {
			return fmt.Errorf("look for work to stop: %w", err)
		}
		var id string
		var why tandem.FailureCode
		_, err = pgx.ForEachRow(rows, []any{&id, &why}, func() error {
			s.interrupt(id, why)
			return nil
		})
		if err != nil {
			return fmt.Errorf("look for work to stop: %w", err)
		}
	}
	return s.b.breakers.look(ctx)
}

const (
	workedQuery  = `SELECT id FROM requests WHERE id = ANY($1) AND status NOT IN ('pending', 'processing')`
	stoppedQuery = `SELECT id, stop_code FROM requests WHERE id = ANY($1) AND status = 'processing' AND stop_code IS NOT NULL`
)
