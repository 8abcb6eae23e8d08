package storetest

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"tandem"
)

var writes = []rule{
	{"an accepted request is on record as it was accepted", func(s *suite) {
		b := s.backend(Options{})
		req := pending("https://example.com/hook?token=1")
		s.must(b.Accept(s.Context(), req))
		s.found(b, req)
		s.countersMatchRows(b)
	}},
	{"accept refuses what the backlog has no room for, and counts what was started out of it", func(s *suite) {
		b := s.backend(Options{MaxPending: 2})
		first := pending("")
		s.must(b.Accept(s.Context(), first))
		s.must(b.Accept(s.Context(), pending("")))
		err := b.Accept(s.Context(), pending(""))
		s.wantCode("a third accept", err, tandem.CodeBusy)
		s.start(b, first)
		s.wantCode("an accept after a start", b.Accept(s.Context(), pending("")), "")
		s.countersMatchRows(b)
	}},
	{"start counts a start, raises the epoch and expects the request pending", func(s *suite) {
		b := s.backend(Options{})
		req := pending("")
		s.must(b.Accept(s.Context(), req))
		stale := *req
		s.start(b, req)
		if req.Status != tandem.Processing || req.Starts != 1 || req.Epoch != 1 {
			s.Errorf("got %s, %d starts, epoch %d; want processing, 1, 1", req.Status, req.Starts, req.Epoch)
		}
		s.found(b, req)
		s.wantCode("a second start", b.Start(s.Context(), &stale), tandem.CodeConflict)
		s.countersMatchRows(b)
	}},
	{"a request given back is pending again and its start is not held against it", func(s *suite) {
		b := s.backend(Options{})
		req := pending("")
		s.must(b.Accept(s.Context(), req))
		s.start(b, req)
		s.must(b.Requeue(s.Context(), req))
		if req.Status != tandem.Pending || req.Starts != 0 || req.Epoch != 1 {
			s.Errorf("got %s, %d starts, epoch %d; want pending, 0, 1", req.Status, req.Starts, req.Epoch)
		}
		s.found(b, req)
		s.start(b, req)
		s.countersMatchRows(b)
	}},
	{"a request that is released while it waits or runs is counted as it stands", func(s *suite) {
		b := s.backend(Options{})
		waited := func() *tandem.Request {
			req := pending("http://example.com/hook")
			req.Waited, req.Callback.State = true, tandem.CallbackNone
			s.must(b.Accept(s.Context(), req))
			return req
		}
		release := func(req *tandem.Request) {
			row := *req
			s.must(b.Release(s.Context(), &row))
			if row.Waited || row.Callback.State != tandem.CallbackPending {
				s.Errorf("a released request reads %s", describe(&row))
			}
			s.countersMatchRows(b)
		}
		req := waited()
		release(req) // those who work it do not know
		s.start(b, req)
		s.countersMatchRows(b)
		s.must(b.Complete(s.Context(), succeed(req)))
		s.countersMatchRows(b)

		req = waited()
		s.start(b, req)
		release(req)
		s.must(b.Requeue(s.Context(), req))
		s.countersMatchRows(b)
		fail(req)
		s.must(b.Fail(s.Context(), req))
		s.countersMatchRows(b)
		row, err := b.Request(s.Context(), req.ID)
		s.must(err)
		if row.Callback.NextAt.IsZero() || row.Callback.NextAt.After(time.Now()) {
			s.Errorf("it owes a callback at %v, want it owed at once", row.Callback.NextAt)
		}
		s.wantCode("a second release", b.Release(s.Context(), req), tandem.CodeConflict)
	}},
	{"the outcome of a late worker is dropped", func(s *suite) {
		b := s.backend(Options{})
		req := pending("")
		s.must(b.Accept(s.Context(), req))
		s.start(b, req)
		late := *req
		s.must(b.Requeue(s.Context(), req))
		s.start(b, req) // someone else has it now
		s.wantCode("the late outcome", b.Complete(s.Context(), succeed(&late)), tandem.CodeConflict)
		s.must(b.Complete(s.Context(), fail(req)))
		s.found(b, req)
		s.countersMatchRows(b)
	}},
	{"the first outcome stays", func(s *suite) {
		b := s.backend(Options{})
		for _, req := range []*tandem.Request{pending(""), processing()} {
			if req.Mode == tandem.Async {
				s.must(b.Accept(s.Context(), req))
				s.start(b, req)
			} else {
				b.Begin(req)
			}
			second := *req
			s.must(b.Complete(s.Context(), succeed(req)))
			s.wantCode("a second outcome", b.Complete(s.Context(), fail(&second)), tandem.CodeConflict)
			s.found(b, req)
		}
		s.countersMatchRows(b)
	}},
	{"a sync request whose beginning was lost is on record with its outcome", func(s *suite) {
		b := s.backend(Options{})
		req := succeed(processing()) // Begin never came
		s.must(b.Complete(s.Context(), req))
		s.found(b, req)
		s.countersMatchRows(b)
	}},
	{"an attempt is recorded once, and moves the request with it", func(s *suite) {
		b := s.backend(Options{})
		req := pending("http://example.com/hook")
		s.must(b.Accept(s.Context(), req))
		s.start(b, req)
		s.must(b.Complete(s.Context(), succeed(req)))

		failed := tandem.Attempt{Number: 1, At: now(), Duration: 3 * time.Millisecond, Status: 503, Class: tandem.ClassServer, Error: "503", Answer: []byte("no")}
		again := *req
		req.Callback.Attempts, req.Callback.LastStatus, req.Callback.LastError = 1, 503, "503"
		req.Callback.NextAt = now().Add(time.Hour)
		s.must(b.RecordAttempt(s.Context(), req, failed))
		s.found(b, req)
		s.wantCode("the same attempt again", b.RecordAttempt(s.Context(), &again, failed), tandem.CodeConflict)

		sent := tandem.Attempt{Number: 2, At: now(), Duration: time.Millisecond, Status: 204}
		req.Status, req.Callback.State = tandem.CallbackSent, tandem.CallbackDelivered
		req.Callback.Attempts, req.Callback.LastStatus, req.Callback.LastError, req.Callback.NextAt = 2, 204, "", time.Time{}
		s.must(b.RecordAttempt(s.Context(), req, sent))
		s.found(b, req)

		attempts, err := b.Attempts(s.Context(), req.ID)
		s.must(err)
		if len(attempts) != 2 || attempts[0].Class != tandem.ClassServer || string(attempts[0].Answer) != "no" || attempts[1].Number != 2 {
			s.Errorf("got attempts %+v, want the failed one and the sent one", attempts)
		}
		s.countersMatchRows(b)
	}},
	{"a failed request stays failed when its failure was reported", func(s *suite) {
		b := s.backend(Options{})
		req := pending("http://example.com/hook")
		s.must(b.Accept(s.Context(), req))
		s.start(b, req)
		s.must(b.Complete(s.Context(), fail(req)))
		req.Callback.State, req.Callback.Attempts, req.Callback.NextAt = tandem.CallbackDelivered, 1, time.Time{}
		s.must(b.RecordAttempt(s.Context(), req, tandem.Attempt{Number: 1, At: now(), Status: 200}))
		s.found(b, req)
		s.countersMatchRows(b)
	}},
	{"one failing write never fails its neighbours", func(s *suite) {
		b := s.backend(Options{})
		stale := pending("")
		s.must(b.Accept(s.Context(), stale))
		started := *stale
		s.start(b, &started)
		var writers sync.WaitGroup
		for range 64 {
			writers.Go(func() { s.wantCode("an accept", b.Accept(s.Context(), pending("")), "") })
			writers.Go(func() {
				late := *stale
				s.wantCode("a start that comes late", b.Start(s.Context(), &late), tandem.CodeConflict)
			})
			writers.Go(func() {
				late := started
				late.Epoch = 7
				s.wantCode("an outcome of another epoch", b.Complete(s.Context(), succeed(&late)), tandem.CodeConflict)
			})
		}
		writers.Wait()
		s.countersMatchRows(b)
	}},
	{"a caller that leaves is told that the outcome is unknown, and the write may still happen", func(s *suite) {
		b := s.backend(Options{})
		gone, leave := context.WithCancel(s.Context())
		leave()
		unknown := 0
		for range 200 {
			switch err := b.Accept(gone, pending("")); tandem.CodeOf(err) {
			case tandem.CodeUnknown:
				unknown++
			case "":
			default:
				s.Fatalf("got %v, want nil or an unknown outcome", err)
			}
		}
		if unknown == 0 {
			s.Error("no caller left before its commit: the case has shown nothing")
		}
		s.countersComeToMatchRows(b)
	}},
	{"errors are counted by category", func(s *suite) {
		b := s.backend(Options{})
		req := pending("http://example.com/hook")
		s.must(b.Accept(s.Context(), req))
		s.start(b, req)
		s.must(b.Complete(s.Context(), fail(req)))
		req.Callback.State, req.Callback.Attempts, req.Callback.NextAt = tandem.CallbackGivenUp, 1, time.Time{}
		s.must(b.RecordAttempt(s.Context(), req, tandem.Attempt{Number: 1, At: now(), Class: tandem.ClassGone, Status: 410}))
		counts, err := b.Counts(s.Context(), tandem.Anyone)
		s.must(err)
		got, _ := json.Marshal(counts.Errors)
		want := `[{"Source":"callback","Category":"gone","N":1},{"Source":"work","Category":"upstream","N":1}]`
		if string(got) != want {
			s.Errorf("got %s, want %s", got, want)
		}
	}},
}
