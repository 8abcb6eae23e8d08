package storetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"tandem"
	"tandem/internal/engine"
)

var runs = []rule{
	{"every accepted request is processed, in the order of acceptance", func(s *suite) {
		b := s.backend(Options{})
		st := newSteps(b)
		var mu sync.Mutex
		var started []string
		st.process = func(req *tandem.Request) error {
			mu.Lock()
			defer mu.Unlock()
			started = append(started, req.ID)
			return nil
		}
		const n = 3
		var want []string
		for range n { // before the run and, one at a time, during it
			req := pending("")
			s.must(b.Accept(s.Context(), req))
			want = append(want, req.ID)
		}
		s.running(b, st)
		for range n {
			within(s, "a request accepted before the run", st.processed)
		}
		for range n {
			req := pending("")
			s.must(b.Accept(s.Context(), req))
			want = append(want, req.ID)
			within(s, "a request accepted during the run", st.processed)
		}
		mu.Lock()
		defer mu.Unlock()
		// Those that were there already may be started side by side.
		if got := strings.Join(started[n:], " "); len(started) != 2*n || got != strings.Join(want[n:], " ") {
			s.Errorf("started %v, want %v", started, want)
		}
	}},
	{"a backlog larger than memory is processed whole, each request once", func(s *suite) {
		b := s.backend(Options{})
		const n = longBacklog
		want := make(map[string]bool)
		var mu sync.Mutex
		accept := func(count int) {
			var accepts sync.WaitGroup
			for range 16 {
				accepts.Go(func() {
					for range count / 16 {
						req := pending("")
						if err := b.Accept(s.Context(), req); err != nil {
							s.Error(err)
						}
						mu.Lock()
						want[req.ID] = true
						mu.Unlock()
					}
				})
			}
			accepts.Wait()
		}
		accept(n)
		st := newSteps(b)
		s.running(b, st)
		accept(n / 4) // while the backlog is paged in
		for range len(want) {
			id := within(s, "a request of the backlog", st.processed)
			if !want[id] {
				s.Fatalf("%s was processed twice, or is unknown", id)
			}
			delete(want, id)
		}
		s.countersMatchRows(b)
	}},
	{"lanes do not wait for each other", func(s *suite) {
		b := s.backend(Options{})
		st := newSteps(b)
		release := make(chan struct{})
		defer close(release)
		st.process = func(req *tandem.Request) error {
			if req.Lane == "cpu" {
				<-release
			}
			return nil
		}
		s.running(b, st)
		s.must(b.Accept(s.Context(), pending("")))
		waiting := pending("")
		waiting.Lane = "io"
		s.must(b.Accept(s.Context(), waiting))
		if got := within(s, "the other lane's request", st.processed); got != waiting.ID {
			s.Errorf("processed %s, want %s", got, waiting.ID)
		}
	}},
	{"a request that could not be started is started again", func(s *suite) {
		b := s.backend(Options{})
		st := &flakyStart{steps: newSteps(b)}
		s.running(b, st)
		req := pending("")
		s.must(b.Accept(s.Context(), req))
		if got := within(s, "the second start", st.processed); got != req.ID {
			s.Errorf("processed %s, want %s", got, req.ID)
		}
	}},
	{"after a restart every request that is not settled is taken up", func(s *suite) {
		b := s.backend(Options{})
		waiting, started, owing := pending(""), pending(""), pending("http://one.example/hook")
		lateOwing, alsoOwing := pending("http://two.example/hook"), pending("http://two.example/hook")
		for _, req := range []*tandem.Request{waiting, started, owing, lateOwing, alsoOwing} {
			s.must(b.Accept(s.Context(), req))
		}
		for _, req := range []*tandem.Request{started, owing, lateOwing, alsoOwing} {
			s.start(b, req)
		}
		s.must(b.Complete(s.Context(), succeed(owing)))
		s.must(b.Complete(s.Context(), succeed(alsoOwing)))
		succeed(lateOwing)
		lateOwing.Callback.NextAt = now().Add(time.Hour)
		s.must(b.Complete(s.Context(), lateOwing))
		syncing := processing()
		b.Begin(syncing)
		s.must(b.Ready(s.Context())) // so the note is on disk
		s.must(b.Close())

		b = s.backend(Options{})
		s.countersMatchRows(b)
		got, err := b.Request(s.Context(), syncing.ID)
		s.must(err)
		if got.Status != tandem.Failed || got.Failure == nil || got.Failure.Code != tandem.FailureInterrupted {
			s.Errorf("the sync request is %s (%+v), want failed as interrupted", got.Status, got.Failure)
		}
		st := newSteps(b)
		stop := s.running(b, st)
		processed := []string{within(s, "a process step", st.processed), within(s, "a process step", st.processed)}
		if !sameSet(processed, waiting.ID, started.ID) {
			s.Errorf("processed %v, want %v", processed, []string{waiting.ID, started.ID})
		}
		delivered := []string{within(s, "an owed callback", st.delivered), within(s, "an owed callback", st.delivered)}
		if !sameSet(delivered, owing.ID, alsoOwing.ID) {
			s.Errorf("delivered %v, want %v", delivered, []string{owing.ID, alsoOwing.ID})
		}
		// One more to the host whose other callback is not due.
		last := pending("http://two.example/hook")
		s.must(b.Accept(s.Context(), last))
		if got := within(s, "another callback to the host", st.delivered); got != last.ID {
			s.Errorf("delivered %s, want %s", got, last.ID)
		}
		stop()
		if early := st.early.Load(); early != 0 || len(st.delivered) != 0 {
			s.Errorf("%d were attempted before they were due", early+int32(len(st.delivered)))
		}
		s.countersMatchRows(b)
	}},
	{"work that takes the process down is failed after three starts", func(s *suite) {
		req := pending("http://example.com/hook")
		for crash := range tandem.MaxStarts {
			b := s.backend(Options{})
			if crash == 0 {
				s.must(b.Accept(s.Context(), req))
			}
			row, err := b.Request(s.Context(), req.ID)
			s.must(err)
			s.start(b, &row)
			s.must(b.Close()) // with the work unfinished, as a crash leaves it
		}
		b := s.backend(Options{})
		got, err := b.Request(s.Context(), req.ID)
		s.must(err)
		if got.Status != tandem.Failed || got.Failure == nil || got.Failure.Code != tandem.FailureCrashed {
			s.Errorf("got %s (%+v), want failed as crashed_worker", got.Status, got.Failure)
		}
		st := newSteps(b)
		st.deliver = func(req *tandem.Request) { req.Status = tandem.Failed }
		s.running(b, st)
		if id := within(s, "the callback that tells so", st.delivered); id != req.ID {
			s.Errorf("delivered %s, want %s", id, req.ID)
		}
		s.countersMatchRows(b)
	}},
	{"what a write makes owed is delivered although its caller has left", func(s *suite) {
		b := s.backend(Options{})
		st := newSteps(b)
		s.running(b, st)
		gone, leave := context.WithCancel(s.Context())
		leave()
		unknown := 0
		try := func(what string, write func() error) {
			switch err := write(); tandem.CodeOf(err) {
			case tandem.CodeUnknown:
				unknown++
			case "":
			default:
				s.Fatalf("%s: got %v, want nil or an unknown outcome", what, err)
			}
		}
		const n = 20 // some callers have left before the commit, some not
		for range n {
			sent := pending("http://one.example/hook")
			s.must(b.Accept(s.Context(), sent))
			within(s, "the first delivery", st.delivered)
			row, err := b.Request(s.Context(), sent.ID)
			s.must(err)
			row.Callback.NextAt, row.Callback.Since, row.Callback.MaxAttempts = now(), now(), 5
			try("a redelivery", func() error { return b.Redeliver(gone, &row) })
			if id := within(s, "the redelivery", st.delivered); id != sent.ID {
				s.Errorf("delivered %s, want %s", id, sent.ID)
			}

			waiting := pending("http://two.example/hook")
			waiting.NotBefore = now().Add(time.Hour)
			s.must(b.Accept(s.Context(), waiting))
			worked, stop := b.Watch(waiting.ID)
			defer stop()
			failed := *waiting
			fail(&failed)
			failed.Status = tandem.Pending
			try("a failure", func() error { return b.Fail(gone, &failed) })
			within(s, "the end of the work", worked)
			if id := within(s, "the callback of the failure", st.delivered); id != waiting.ID {
				s.Errorf("delivered %s, want %s", id, waiting.ID)
			}
		}
		if unknown == 0 {
			s.Error("no caller left before a commit: the case has shown nothing")
		}
		s.countersMatchRows(b)
	}},
	{"a callback is attempted again when it is due, not before", func(s *suite) {
		b := s.backend(Options{})
		st := newSteps(b)
		due := make(chan time.Time, 1)
		tries := 0
		st.deliver = func(req *tandem.Request) {
			if tries++; tries == 1 {
				at := now().Add(300 * time.Millisecond)
				req.Status, req.Callback.State, req.Callback.NextAt = tandem.Completed, tandem.CallbackPending, at
				due <- at
			}
		}
		s.running(b, st)
		s.must(b.Accept(s.Context(), pending("http://example.com/hook")))
		within(s, "the first attempt", st.delivered)
		within(s, "the second attempt", st.delivered)
		if at := within(s, "the time", due); now().Before(at) {
			s.Errorf("tried again %v before it was due", at.Sub(now()))
		}
		s.countersMatchRows(b)
	}},
	{"of one request no two attempts are under way at once, however soon the next is due", func(s *suite) {
		b := s.backend(Options{})
		st := newSteps(b)
		st.deliver = func(req *tandem.Request) {
			if req.Callback.Attempts < 3 {
				req.Status, req.Callback.State, req.Callback.NextAt = tandem.Completed, tandem.CallbackPending, now()
			}
		}
		s.running(b, st)
		const n = 30
		for range n {
			s.must(b.Accept(s.Context(), pending("http://example.com/hook")))
		}
		for range 3 * n {
			within(s, "an attempt", st.delivered)
		}
		if twice := st.twice.Load(); twice != 0 {
			s.Errorf("%d attempts were under way beside another of the same request", twice)
		}
		s.countersMatchRows(b)
	}},
	{"a callback is attempted once, though it is found on disk before its step ends", func(s *suite) {
		b := s.backend(Options{})
		st := &flakyDelivery{steps: newSteps(b), goOn: make(chan struct{})}
		first, second := pending("http://example.com/hook"), pending("http://example.com/hook")
		st.id = first.ID
		firstDelivered := make(chan struct{})
		goOn, letGo := sync.OnceFunc(func() { close(st.goOn) }), sync.OnceFunc(func() { close(firstDelivered) })
		defer goOn()
		defer letGo()
		st.committed = func(req *tandem.Request) {
			if req.ID == second.ID {
				goOn() // the first is looked for on disk now
				<-firstDelivered
			}
		}
		stop := s.running(b, st)
		s.must(b.Accept(s.Context(), first))
		within(s, "the first outcome", st.processed)
		s.must(b.Accept(s.Context(), second))
		within(s, "the first callback", st.delivered) // or the second, in the distributed backend
		letGo()
		within(s, "the second outcome", st.processed)
		within(s, "the second callback", st.delivered)
		s.must(b.Accept(s.Context(), pending("http://example.com/hook"))) // after which it would have been repeated
		within(s, "the last callback", st.delivered)
		stop()
		if twice := st.twice.Load(); twice != 0 {
			s.Errorf("%d attempts were made of what was delivered", twice)
		}
		s.countersMatchRows(b)
	}},
	{"of more callbacks than memory holds of a host, none is attempted before it is due", func(s *suite) {
		b := s.backend(Options{})
		st := newSteps(b)
		st.deliver = func(req *tandem.Request) {
			req.Status, req.Callback.State, req.Callback.NextAt = tandem.Completed, tandem.CallbackPending, now().Add(time.Hour)
		}
		stop := s.running(b, st)
		const n = 3000
		var accepts sync.WaitGroup
		for range 16 {
			accepts.Go(func() {
				for range n / 16 {
					s.wantCode("accept", b.Accept(s.Context(), pending("http://example.com/hook")), "")
				}
			})
		}
		seen := make(map[string]bool)
		for range n / 16 * 16 {
			seen[within(s, "a first attempt", st.delivered)] = true
		}
		accepts.Wait()
		stop()
		if early, twice := st.early.Load(), st.twice.Load(); early != 0 || twice != 0 || len(seen) != n/16*16 {
			s.Errorf("%d were attempted before they were due and %d twice at once; %d of %d were attempted", early, twice, len(seen), n/16*16)
		}
		s.countersMatchRows(b)
	}},
	{"a host that admits nothing delays no other, and loses nothing", func(s *suite) {
		b := s.backend(Options{})
		st := newSteps(b)
		open := make(chan struct{})
		st.admit = func(host string) engine.Admission {
			if strings.HasPrefix(host, "sick") {
				select {
				case <-open:
				default:
					return engine.Admission{Until: now().Add(50 * time.Millisecond)}
				}
			}
			return engine.Admission{OK: true}
		}
		s.running(b, st)
		const sick, healthy = 1500, 20
		var accepts sync.WaitGroup
		for i := range sick { // more than a host's queue holds in memory
			accepts.Go(func() {
				s.wantCode("accept", b.Accept(s.Context(), pending(fmt.Sprintf("http://sick.example/%d", i))), "")
			})
		}
		accepts.Wait()
		for range healthy {
			s.must(b.Accept(s.Context(), pending("http://healthy.example/hook")))
		}
		for range healthy {
			within(s, "a callback to the healthy host", st.delivered)
		}
		close(open)
		seen := make(map[string]bool)
		for range sick {
			seen[within(s, "a callback to the host that was sick", st.delivered)] = true
		}
		if len(seen) != sick {
			s.Errorf("%d different callbacks were delivered, want %d", len(seen), sick)
		}
		s.countersMatchRows(b)
	}},
	{"run waits for the steps that run, and takes up no more", func(s *suite) {
		b := s.backend(Options{})
		st := newSteps(b)
		running, release := make(chan struct{}, 1), make(chan struct{})
		st.process = func(*tandem.Request) error {
			running <- struct{}{}
			<-release
			return nil
		}
		ctx, cancel := context.WithCancel(s.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx, st) }()
		s.must(b.Accept(s.Context(), pending("")))
		within(s, "the step", running)
		cancel()
		late := pending("")
		s.must(b.Accept(s.Context(), late))
		select {
		case <-done:
			s.Error("run returned while a step ran")
		default:
		}
		close(release)
		s.must(within(s, "the end of run", done))
		got, err := b.Request(s.Context(), late.ID)
		s.must(err)
		if got.Status != tandem.Pending {
			s.Errorf("a request accepted after the end is %s, want pending", got.Status)
		}
	}},
}

func sameSet(got []string, want ...string) bool {
	if len(got) != len(want) {
		return false
	}
	seen := make(map[string]bool)
	for _, g := range got {
		seen[g] = true
	}
	for _, w := range want {
		if !seen[w] {
			return false
		}
	}
	return true
}
