package storetest

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tandem"
	"tandem/internal/engine"
)

// owing puts a request on record that was worked at a time, well or not, and owes
// its callback at another.
func (s *suite) owing(b engine.Backend, url string, worked, next time.Time, end func(*tandem.Request) *tandem.Request) *tandem.Request {
	req := pending(url)
	req.CreatedAt = worked.Add(-time.Minute)
	s.must(b.Accept(s.Context(), req))
	s.start(b, req)
	end(req)
	req.StartedAt, req.WorkedAt, req.Callback.NextAt = worked.Add(-time.Second), worked, next
	s.must(b.Complete(s.Context(), req))
	return req
}

// givenUp is how many callbacks are.
func (s *suite) givenUp(b engine.Backend) (n int) {
	counts, err := b.Counts(s.Context(), tandem.Anyone)
	s.must(err)
	for _, c := range counts.Requests {
		if c.Callback == tandem.CallbackGivenUp {
			n += int(c.N)
		}
	}
	return n
}

var ages = []rule{
	{"a callback that is put off until it is too old is given up, and no other", func(s *suite) {
		b := s.backend(Options{})
		at := now()
		old, young := at.Add(-2*time.Hour), at.Add(-time.Hour)
		due, justDue, ahead := at.Add(-time.Hour), at.Add(-time.Minute), at.Add(time.Hour)
		const closed, busy = "http://closed.example/hook", "http://busy.example/hook"

		flying := s.owing(b, busy, old, due, succeed)
		var given, kept []*tandem.Request
		give := func(req *tandem.Request, status tandem.Status) {
			req.Status, req.Callback.State, req.Callback.NextAt, req.Callback.LastError = status, tandem.CallbackGivenUp, time.Time{}, engine.LastTooOld
			given = append(given, req)
		}
		give(s.owing(b, closed, old, due, succeed), tandem.CallbackFailed)
		give(s.owing(b, closed, old, due, fail), tandem.Failed)
		kept = append(kept,
			s.owing(b, closed, young, due, succeed),
			s.owing(b, closed, old, justDue, succeed),
			s.owing(b, closed, old, ahead, succeed))
		for _, since := range []time.Time{old, at} { // delivered once, and asked for again
			again := s.owing(b, closed, old.Add(-time.Hour), due, succeed)
			again.Status, again.Callback = tandem.CallbackSent, tandem.Callback{URL: closed, State: tandem.CallbackDelivered, Attempts: 1, MaxAttempts: 3, LastStatus: 200}
			s.must(b.RecordAttempt(s.Context(), again, tandem.Attempt{Number: 1, At: old, Status: 200}))
			again.Callback.Since, again.Callback.NextAt, again.Callback.MaxAttempts = since, due, 5
			s.must(b.Redeliver(s.Context(), again))
			if since.Equal(old) {
				give(again, tandem.CallbackSent)
			} else {
				kept = append(kept, again)
			}
		}
		const many = 600 // more than are looked at, or given up, at a time
		var all sync.WaitGroup
		for i := range many {
			all.Go(func() { s.owing(b, fmt.Sprintf("http://closed-%d.example/hook", i%3), old, due, succeed) })
		}
		all.Wait()

		st := newSteps(b)
		var open, look atomic.Bool
		attempt, letGo := make(chan struct{}), make(chan struct{})
		st.admit = func(host string) engine.Admission {
			return engine.Admission{OK: open.Load() || strings.HasPrefix(host, "busy"), Until: now().Add(50 * time.Millisecond)}
		}
		st.deliver = func(req *tandem.Request) {
			if req.ID == flying.ID {
				close(attempt)
				<-letGo
			}
		}
		st.tooOld = func() (owed, postponed time.Time) {
			if !look.Load() {
				return time.Time{}, time.Time{}
			}
			return at.Add(-90 * time.Minute), at.Add(-30 * time.Minute)
		}
		s.running(b, st)
		within(s, "an attempt", attempt)
		look.Store(true)
		want := many + len(given)
		for deadline := time.Now().Add(30 * time.Second); s.givenUp(b) < want; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				close(letGo)
				s.Fatalf("%d callbacks were given up, want %d", s.givenUp(b), want)
			}
		}
		for _, req := range append(given, kept...) {
			s.found(b, req)
		}
		s.found(b, flying)
		s.countersMatchRows(b)

		close(letGo)
		if id := within(s, "the attempt's end", st.delivered); id != flying.ID {
			s.Errorf("delivered %s, want %s", id, flying.ID)
		}
		again := given[0]
		again.Callback.Since, again.Callback.NextAt, again.Callback.MaxAttempts = now(), now(), 3
		s.must(b.Redeliver(s.Context(), again)) // what was given up may be asked for again
		open.Store(true)
		delivered := map[string]bool{} // all that is due; a mere minute ago, too
		for range 4 {
			delivered[within(s, "what is owed still", st.delivered)] = true
		}
		if !delivered[again.ID] || !delivered[kept[0].ID] || !delivered[kept[1].ID] || !delivered[kept[3].ID] {
			s.Errorf("delivered %v", delivered)
		}
		if n := s.givenUp(b); n != want-1 {
			s.Errorf("%d callbacks are given up, want %d", n, want-1)
		}
		s.countersMatchRows(b)
	}},
}
