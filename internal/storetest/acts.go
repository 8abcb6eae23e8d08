package storetest

import (
	"sync"
	"time"

	"tandem"
	"tandem/internal/engine"
)

// cancel gives a pending request the outcome of one that is cancelled.
func cancel(req *tandem.Request) *tandem.Request {
	req.WorkedAt = now()
	req.Failure = &tandem.Failure{Code: tandem.FailureCancelled, Message: "cancelled"}
	if req.Callback.State == tandem.CallbackPending {
		req.Callback.NextAt = req.WorkedAt
	}
	return req
}

// delivered makes a request whose callback was sent or given up.
func (s *suite) delivered(b engine.Backend, sent bool) *tandem.Request {
	s.Helper()
	req := pending("http://example.com/hook")
	s.must(b.Accept(s.Context(), req))
	s.start(b, req)
	s.must(b.Complete(s.Context(), succeed(req)))
	attempt := tandem.Attempt{Number: 1, At: now(), Status: 204}
	req.Status, req.Callback.State, req.Callback.LastStatus = tandem.CallbackSent, tandem.CallbackDelivered, 204
	if !sent {
		attempt.Status, attempt.Class = 410, tandem.ClassGone
		req.Status, req.Callback.State, req.Callback.LastStatus = tandem.CallbackFailed, tandem.CallbackGivenUp, 410
	}
	req.Callback.Attempts, req.Callback.NextAt = 1, time.Time{}
	s.must(b.RecordAttempt(s.Context(), req, attempt))
	return req
}

// again asks for the callback of a request to be delivered again.
func again(req *tandem.Request) *tandem.Request {
	req.Callback.NextAt, req.Callback.Since, req.Callback.MaxAttempts = now(), now(), req.Callback.Attempts+3
	return req
}

// atOnce runs all and returns the codes of their errors.
func atOnce(all ...func() error) []tandem.Code {
	codes := make([]tandem.Code, len(all))
	begin := make(chan struct{})
	var under sync.WaitGroup
	for i, f := range all {
		under.Go(func() {
			<-begin
			codes[i] = tandem.CodeOf(f())
		})
	}
	close(begin)
	under.Wait()
	return codes
}

// oneWins wants one of some writes at once to be made, and the others to be told
// that the request has moved on. It returns which was made.
func (s *suite) oneWins(what string, codes []tandem.Code) int {
	s.Helper()
	winner, winners := 0, 0
	for i, code := range codes {
		switch code {
		case "":
			winner = i
			winners++
		case tandem.CodeConflict:
		default:
			s.Errorf("%s: one ends with %q", what, code)
		}
	}
	if winners != 1 {
		s.Fatalf("%s: %d were made, want 1", what, winners)
	}
	return winner
}

var acts = []rule{
	{"a callback that was sent or given up can be owed again, and ends anew", func(s *suite) {
		b := s.backend(Options{})
		for _, sent := range []bool{true, false} {
			req := s.delivered(b, sent)
			before := req.Status
			s.must(b.Redeliver(s.Context(), again(req)))
			if req.Status != before || req.Callback.State != tandem.CallbackPending {
				s.Errorf("a callback that is owed again reads %s", describe(req))
			}
			s.found(b, req)
			s.countersMatchRows(b)
			req.Status, req.Callback.State, req.Callback.Attempts, req.Callback.LastStatus, req.Callback.NextAt = tandem.CallbackSent, tandem.CallbackDelivered, 2, 200, time.Time{}
			s.must(b.RecordAttempt(s.Context(), req, tandem.Attempt{Number: 2, At: now(), Status: 200}))
			s.found(b, req)
			s.countersMatchRows(b)
		}
	}},
	{"redelivery expects the callback as it was asked for", func(s *suite) {
		b := s.backend(Options{})
		req := s.delivered(b, false)
		stale := *req
		s.must(b.Redeliver(s.Context(), again(req)))
		s.wantCode("while it is owed", b.Redeliver(s.Context(), again(&stale)), tandem.CodeConflict)
		unknown := pending("http://example.com/hook")
		unknown.Status, unknown.Callback.State = tandem.CallbackSent, tandem.CallbackDelivered
		s.wantCode("of a request that is not there", b.Redeliver(s.Context(), again(unknown)), tandem.CodeConflict)
		s.found(b, req)
		s.countersMatchRows(b)
	}},
	{"of many who ask for one redelivery at once one is heard", func(s *suite) {
		b := s.backend(Options{})
		req := s.delivered(b, true)
		var all []func() error
		for range 8 {
			row := *req
			all = append(all, func() error { return b.Redeliver(s.Context(), again(&row)) })
		}
		s.oneWins("redeliveries", atOnce(all...))
		s.countersMatchRows(b)
	}},
	{"a redelivery outlives a restart", func(s *suite) {
		b := s.backend(Options{})
		req := s.delivered(b, false)
		s.must(b.Redeliver(s.Context(), again(req)))
		s.must(b.Close())
		b = s.backend(Options{})
		s.found(b, req)
		st := newSteps(b)
		s.running(b, st)
		if id := within(s, "the redelivery", st.delivered); id != req.ID {
			s.Errorf("delivered %s, want %s", id, req.ID)
		}
		s.countersMatchRows(b)
	}},
	{"of a cancellation and a start at once one is made", func(s *suite) {
		b := s.backend(Options{})
		cancelled, started := 0, 0
		for range 30 {
			req := pending("")
			s.must(b.Accept(s.Context(), req))
			one, two := *req, *req
			two.StartedAt = now()
			switch s.oneWins("a cancellation and a start", atOnce(
				func() error { return b.Fail(s.Context(), cancel(&one)) },
				func() error { return b.Start(s.Context(), &two) },
			)) {
			case 0:
				cancelled++
				s.found(b, &one)
			case 1:
				started++
				s.must(b.Complete(s.Context(), succeed(&two)))
				s.found(b, &two)
			}
		}
		s.countersMatchRows(b)
		s.Logf("%d cancelled, %d started", cancelled, started)
	}},
	{"of two outcomes at once one is made", func(s *suite) {
		b := s.backend(Options{})
		for range 30 {
			req := pending("http://example.com/hook")
			s.must(b.Accept(s.Context(), req))
			s.start(b, req)
			one, two := *req, *req
			winner := s.oneWins("two outcomes", atOnce(
				func() error { return b.Complete(s.Context(), succeed(&one)) },
				func() error { return b.Complete(s.Context(), fail(&two)) },
			))
			s.found(b, []*tandem.Request{&one, &two}[winner])
		}
		s.countersMatchRows(b)
	}},
	{"cancelled work is not begun, and its callback says so", func(s *suite) {
		b := s.backend(Options{})
		st := newSteps(b)
		st.deliver = func(req *tandem.Request) { req.Status = tandem.Failed }
		s.running(b, st)
		req := pending("http://example.com/hook")
		req.NotBefore = now().Add(time.Hour)
		s.must(b.Accept(s.Context(), req))
		worked, stop := b.Watch(req.ID)
		defer stop()
		s.must(b.Fail(s.Context(), cancel(req)))
		within(s, "the cancellation", worked)
		if id := within(s, "the callback", st.delivered); id != req.ID {
			s.Errorf("delivered %s, want %s", id, req.ID)
		}
		s.wantCode("a second cancellation", b.Fail(s.Context(), cancel(req)), tandem.CodeConflict)
		row, err := b.Request(s.Context(), req.ID)
		s.must(err)
		if row.Starts != 0 || row.Failure == nil || row.Failure.Code != tandem.FailureCancelled {
			s.Errorf("the cancelled request reads %s", describe(&row))
		}
	}},
	{"what no other process works is not interrupted", func(s *suite) {
		b := s.backend(Options{})
		waits, runs, done := pending(""), pending(""), pending("")
		for _, req := range []*tandem.Request{waits, runs, done} {
			s.must(b.Accept(s.Context(), req))
		}
		s.start(b, runs)
		s.start(b, done)
		s.must(b.Complete(s.Context(), succeed(done)))
		for _, req := range []*tandem.Request{waits, runs, done} {
			s.must(b.Interrupt(s.Context(), req.ID, tandem.FailureCancelled))
			s.found(b, req)
		}
		s.must(b.Interrupt(s.Context(), tandem.NewID(now()), tandem.FailureCancelled))
		s.must(b.Complete(s.Context(), succeed(runs)))
		s.found(b, runs)
		s.countersMatchRows(b)
	}},
	{"delayed work begins at its time, over a restart too, and delays no other", func(s *suite) {
		b := s.backend(Options{})
		far, near := pending(""), pending("")
		far.NotBefore, near.NotBefore = now().Add(2*time.Hour), now().Add(1500*time.Millisecond)
		for _, req := range []*tandem.Request{far, near} {
			s.must(b.Accept(s.Context(), req))
			s.found(b, req)
		}
		s.must(b.Close())
		b = s.backend(Options{})
		st := newSteps(b)
		s.running(b, st)
		other := pending("")
		s.must(b.Accept(s.Context(), other))
		ended := map[string]time.Time{}
		for range 2 {
			ended[within(s, "the work that is due", st.processed)] = now()
		}
		if at, done := ended[near.ID]; !done || at.Before(near.NotBefore) || ended[other.ID].IsZero() {
			s.Errorf("processed %v; want %s, and %s not before %v", ended, other.ID, near.ID, near.NotBefore)
		}
		s.found(b, far)
		s.countersMatchRows(b)
	}},
	{"what expires while it waits is failed, and its callback says so", func(s *suite) {
		b := s.backend(Options{})
		st := newSteps(b)
		st.deliver = func(req *tandem.Request) { req.Status = tandem.Failed }
		s.running(b, st)
		req := pending("http://example.com/hook")
		req.NotBefore, req.ExpiresAt = now().Add(time.Hour), now().Add(300*time.Millisecond)
		s.must(b.Accept(s.Context(), req))
		s.found(b, req)
		worked, stop := b.Watch(req.ID)
		defer stop()
		patient := pending("")
		patient.NotBefore, patient.ExpiresAt = now().Add(600*time.Millisecond), now().Add(time.Hour)
		s.must(b.Accept(s.Context(), patient))
		within(s, "the end of its time", worked)
		if id := within(s, "the callback", st.delivered); id != req.ID {
			s.Errorf("delivered %s, want %s", id, req.ID)
		}
		row, err := b.Request(s.Context(), req.ID)
		s.must(err)
		if row.Status != tandem.Failed || row.Starts != 0 || row.Failure == nil || row.Failure.Code != tandem.FailureExpired || row.WorkedAt.Before(req.ExpiresAt) {
			s.Errorf("what has expired reads %s", describe(&row))
		}
		if id := within(s, "what has not expired", st.processed); id != patient.ID {
			s.Errorf("processed %s, want %s", id, patient.ID)
		}
		s.countersMatchRows(b)
	}},
	{"what expired while nothing ran is failed by the next run", func(s *suite) {
		b := s.backend(Options{})
		req := pending("")
		req.NotBefore, req.ExpiresAt = now().Add(time.Hour), now().Add(-time.Second)
		s.must(b.Accept(s.Context(), req))
		s.must(b.Close())
		b = s.backend(Options{})
		worked, stop := b.Watch(req.ID)
		defer stop()
		s.running(b, newSteps(b))
		within(s, "the end of its time", worked)
		row, err := b.Request(s.Context(), req.ID)
		s.must(err)
		if row.Failure == nil || row.Failure.Code != tandem.FailureExpired {
			s.Errorf("what has expired reads %s", describe(&row))
		}
	}},
}
