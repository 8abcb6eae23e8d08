package storetest

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem"
	"tandem/internal/engine"
)

var reads = []rule{
	{"an unknown id is not found", func(s *suite) {
		b := s.backend(Options{})
		_, err := b.Request(s.Context(), tandem.NewID(now()))
		s.wantCode("the request", err, tandem.CodeNotFound)
		_, err = b.Attempts(s.Context(), tandem.NewID(now()))
		s.wantCode("its attempts", err, tandem.CodeNotFound)
	}},
	{"pages go from the newest to the oldest, and filters hold", func(s *suite) {
		b := s.backend(Options{})
		var all []*tandem.Request
		for i := range 25 {
			req := pending("")
			if i%2 == 0 {
				req = succeed(processing())
				if i%4 == 0 {
					fail(req)
				}
				if i%3 == 0 {
					req.Owner = "ann"
				}
				s.must(b.Complete(s.Context(), req))
			} else {
				if i%3 == 0 {
					req.Owner = "ann"
				}
				s.must(b.Accept(s.Context(), req))
			}
			all = append(all, req)
		}
		slices.Reverse(all)
		ann, nobody := tandem.Caller{Name: "ann"}, tandem.Caller{Name: "bob"}
		for _, q := range []engine.Query{
			{Limit: 1000},
			{Limit: 1},
			{Limit: 7, Mode: tandem.Sync},
			{Limit: 3, Status: tandem.Failed},
			{Limit: 5, Mode: tandem.Async, Status: tandem.Pending},
			{Limit: 5, Mode: tandem.Async, Status: tandem.Failed},
			{Limit: 4, Offset: 6},
			{Limit: 2, Offset: 3, Mode: tandem.Sync},
			{Limit: 2, Offset: 100},
			{Limit: 2, Caller: ann},
			{Limit: 2, Offset: 1, Caller: ann, Mode: tandem.Async},
			{Limit: 1, Caller: ann, Mode: tandem.Sync, Status: tandem.Failed},
			{Limit: 2, Caller: nobody},
			{Limit: 9, Caller: tandem.Caller{Name: "bob", Admin: true}},
		} {
			if q.Caller.Name == "" {
				q.Caller = tandem.Anyone
			}
			var want []string
			for _, req := range all {
				if q.Caller.Owns(req.Owner) && (q.Mode == "" || q.Mode == req.Mode) && (q.Status == "" || q.Status == req.Status) {
					want = append(want, req.ID)
				}
			}
			want = want[min(q.Offset, len(want)):]
			var got []string
			for req := range s.history(b, q) {
				got = append(got, req.ID)
			}
			if strings.Join(got, " ") != strings.Join(want, " ") {
				s.Errorf("query %+v: got %d requests, want %d\n got %v\nwant %v", q, len(got), len(want), got, want)
			}
		}
	}},
	{"a page ends once its requests weigh enough", func(s *suite) {
		b := s.backend(Options{})
		big := json.RawMessage(`"` + strings.Repeat("x", tandem.MaxResult-2) + `"`)
		var want []string
		for range 2*engine.MaxPage/tandem.MaxResult + 3 {
			req := succeed(processing())
			req.Result = big
			s.must(b.Complete(s.Context(), req))
			want = append(want, req.ID)
		}
		slices.Reverse(want)
		for _, offset := range []int{0, 2} {
			var got []string
			pages := 0
			for q := (engine.Query{Caller: tandem.Anyone, Limit: 1000, Offset: offset}); ; {
				page, err := b.Requests(s.Context(), q)
				s.must(err)
				weight := 0
				for i := range page.Requests {
					got = append(got, page.Requests[i].ID)
					weight += engine.Weight(&page.Requests[i])
				}
				if most := engine.MaxPage + tandem.MaxResult + tandem.MaxData; weight > most {
					s.Errorf("page %d weighs %d bytes, want at most %d", pages, weight, most)
				}
				pages++
				if page.Next == "" {
					break
				}
				if weight < engine.MaxPage {
					s.Errorf("page %d weighs %d bytes and is not the last", pages, weight)
				}
				q.Cursor, q.Offset = page.Next, 0
			}
			if strings.Join(got, " ") != strings.Join(want[offset:], " ") {
				s.Errorf("from %d on: got %d requests, want %d, each once", offset, len(got), len(want)-offset)
			}
			if pages != 3 {
				s.Errorf("from %d on: got %d pages, want 3", offset, pages)
			}
		}
		page, err := b.Requests(s.Context(), engine.Query{Caller: tandem.Anyone, Limit: 1000, Offset: len(want) - engine.MaxPage/tandem.MaxResult})
		s.must(err)
		if n := len(page.Requests); n != engine.MaxPage/tandem.MaxResult || page.Next != "" {
			s.Errorf("a page that its last request fills: got %d requests and the next %q, want %d and none", n, page.Next, engine.MaxPage/tandem.MaxResult)
		}
	}},
	{"callbacks are listed by where they stand, by host and by when the work ended", func(s *suite) {
		b := s.backend(Options{})
		ctx := s.Context()
		type kept struct {
			owner string
			state tandem.CallbackState
			host  string
			at    time.Time
			id    string
		}
		var all []kept
		attempted := func(req *tandem.Request, status tandem.Status, state tandem.CallbackState) {
			a := tandem.Attempt{Number: req.Callback.Attempts + 1, At: now(), Status: 200}
			req.Status, req.Callback.State, req.Callback.Attempts, req.Callback.NextAt = status, state, a.Number, time.Time{}
			s.must(b.RecordAttempt(ctx, req, a))
		}
		for i := range 40 {
			owner, host := []string{"", "ann", "bob"}[i%3], []string{"one.example", "two.example"}[i/2%2]
			req := pending("https://" + host + "/hook")
			at := host + ":443"
			if i%8 == 7 {
				req, at = pending(""), ""
			}
			req.Owner = owner
			s.must(b.Accept(ctx, req))
			if i%8 > 0 {
				s.start(b, req)
			}
			if i%8 > 1 {
				if i%8 < 5 {
					succeed(req)
				} else {
					fail(req)
				}
				s.must(b.Complete(ctx, req))
			}
			switch i % 8 { // 0: waits, 1: runs, 2: owed
			case 3:
				attempted(req, tandem.CallbackSent, tandem.CallbackDelivered)
			case 4:
				attempted(req, tandem.CallbackFailed, tandem.CallbackGivenUp)
				if i%16 == 4 { // and delivered anew
					req.Callback.NextAt, req.Callback.Since, req.Callback.MaxAttempts = now(), now(), 4
					s.must(b.Redeliver(ctx, req))
					req.Callback.State = tandem.CallbackPending
				}
			case 5:
				attempted(req, tandem.Failed, tandem.CallbackDelivered)
			case 6:
				attempted(req, tandem.Failed, tandem.CallbackGivenUp)
			}
			all = append(all, kept{owner, req.Callback.State, at, req.WorkedAt, req.ID})
		}
		slices.Reverse(all)
		early, late := all[30].at, all[5].at
		for _, q := range []engine.Query{
			{Caller: tandem.Anyone},
			{Caller: tandem.Anyone, Host: "one.example:443"},
			{Caller: tandem.Anyone, Host: "three.example:443"},
			{Caller: tandem.Anyone, From: early, To: late},
			{Caller: tandem.Caller{Name: "ann"}},
			{Caller: tandem.Caller{Name: "bob"}, Host: "two.example:443", From: early},
			{Caller: tandem.Caller{Name: "carl"}},
		} {
			for _, q.Callback = range tandem.CallbackStates {
				var want, got []string
				for _, k := range all {
					if q.Caller.Owns(k.owner) && k.state == q.Callback && (q.Host == "" || q.Host == k.host) &&
						(q.From.IsZero() || !k.at.IsZero() && !k.at.Before(q.From)) && (q.To.IsZero() || !k.at.IsZero() && k.at.Before(q.To)) {
						want = append(want, k.id)
					}
				}
				q.Limit = 3
				for req := range s.history(b, q) {
					got = append(got, req.ID)
				}
				if strings.Join(got, " ") != strings.Join(want, " ") {
					s.Errorf("query %+v: got %d requests, want %d\n got %v\nwant %v", q, len(got), len(want), got, want)
				}
			}
		}
	}},
	{"a cursor meets every request once while new ones come in", func(s *suite) {
		b := s.backend(Options{})
		want := 30
		for range want {
			s.must(b.Accept(s.Context(), pending("")))
		}
		seen := make(map[string]bool)
		for req := range s.history(b, engine.Query{Caller: tandem.Anyone, Limit: 4}) {
			if seen[req.ID] {
				s.Errorf("%s came twice", req.ID)
			}
			seen[req.ID] = true
			s.must(b.Accept(s.Context(), pending(""))) // newer: on no later page
		}
		if len(seen) != want {
			s.Errorf("met %d requests, want %d", len(seen), want)
		}
	}},
	{"what is no cursor is refused by name", func(s *suite) {
		b := s.backend(Options{})
		for _, cursor := range []string{"-1", "0", "nonsense!", "99999999999999999999"} {
			_, err := b.Requests(s.Context(), engine.Query{Caller: tandem.Anyone, Limit: 1, Cursor: cursor})
			s.wantCode("cursor "+cursor, err, tandem.CodeInvalid)
		}
	}},
	{"those who watch a request are told when it is worked", func(s *suite) {
		b := s.backend(Options{})
		req := pending("")
		s.must(b.Accept(s.Context(), req))
		worked, stop := b.Watch(req.ID)
		defer stop()
		other, stopOther := b.Watch(tandem.NewID(now()))
		defer stopOther()
		s.start(b, req)
		select {
		case <-worked:
			s.Error("told before it was worked")
		default:
		}
		s.must(b.Complete(s.Context(), succeed(req)))
		within(s, "the watched request", worked)
		select {
		case <-other:
			s.Error("told of another request")
		default:
		}
	}},
	{"the backlog tells its length and its oldest", func(s *suite) {
		b := s.backend(Options{})
		n, oldest, err := b.Backlog(s.Context())
		s.must(err)
		if n != 0 || !oldest.IsZero() {
			s.Errorf("got %d since %v, want an empty backlog", n, oldest)
		}
		first := pending("")
		first.CreatedAt = first.CreatedAt.Add(-time.Hour)
		s.must(b.Accept(s.Context(), first))
		s.must(b.Accept(s.Context(), pending("")))
		n, oldest, err = b.Backlog(s.Context())
		s.must(err)
		if n != 2 || !oldest.Equal(first.CreatedAt) {
			s.Errorf("got %d since %v, want 2 since %v", n, oldest, first.CreatedAt)
		}
	}},
	{"a request is of the backlog from its time on, not before", func(s *suite) {
		b := s.backend(Options{})
		accept := func(lane string, created, notBefore time.Duration) *tandem.Request {
			req := pending("")
			req.Lane, req.CreatedAt = lane, req.CreatedAt.Add(created)
			if notBefore != 0 {
				req.NotBefore = req.CreatedAt.Add(notBefore)
			}
			s.must(b.Accept(s.Context(), req))
			return req
		}
		want := func(what string, n int, since time.Time) {
			s.Helper()
			got, oldest, err := b.Backlog(s.Context())
			s.must(err)
			if got != n || !oldest.Equal(since) {
				s.Errorf("%s: got %d since %v, want %d since %v", what, got, oldest, n, since)
			}
		}
		accept("cpu", -24*time.Hour, 7*24*time.Hour)
		accept("io", -24*time.Hour, 7*24*time.Hour)
		want("what is not due", 0, time.Time{})
		past := accept("io", -time.Minute, -time.Hour)
		want("what was due before it was accepted", 1, past.CreatedAt)
		due := accept("io", -24*time.Hour, 23*time.Hour)
		want("what was due an hour ago", 2, due.NotBefore)
		waiting := accept("io", -2*time.Hour, 0)
		want("what waits for longer", 3, waiting.CreatedAt)
		s.start(b, waiting)
		want("what is still due", 2, due.NotBefore)
		s.start(b, due)
		s.start(b, past)
		want("when all that is due has begun", 0, time.Time{})
	}},
	{"a backend that is open is ready", func(s *suite) {
		s.must(s.backend(Options{}).Ready(s.Context()))
	}},
	{"reads go on beside writes", func(s *suite) {
		b := s.backend(Options{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 300 {
				if err := b.Accept(s.Context(), pending("")); err != nil {
					s.Error(err)
					return
				}
			}
		}()
		for reading := true; reading; {
			select {
			case <-done:
				reading = false
			default:
			}
			_, err := b.Requests(s.Context(), engine.Query{Caller: tandem.Anyone, Limit: 10})
			s.must(err)
		}
		s.countersMatchRows(b)
	}},
}

// The suite is for tests only.
var _ testing.TB = (*suite)(nil)
