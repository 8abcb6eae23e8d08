package acceptance

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var quick = submission{Workload: "wait", Data: data}

func TestProductionLimitsBothRoutesTogether(t *testing.T) {
	onEach(t, productionLimitsBothRoutesTogether)
}

func productionLimitsBothRoutesTogether(t *testing.T, database string) {
	s := serve(t, "--database", database, "--mode", "production", "--insecure-no-auth")
	for i := range 50 {
		path, want := "/sync", http.StatusOK
		if i%2 == 1 {
			path, want = "/async", http.StatusAccepted
		}
		a := s.post(path, quick)
		if a.status != want {
			t.Fatalf("POST number %d answers %d %s", i+1, a.status, a.body)
		}
		if got, want := a.header.Get("RateLimit"), fmt.Sprintf(`"default";r=%d;t=`, 49-i); !strings.HasPrefix(got, want) {
			t.Errorf("RateLimit of POST number %d is %s, want %s...", i+1, got, want)
		}
	}
	for _, path := range []string{"/sync", "/async"} {
		a := s.post(path, quick)
		if p := a.problem(t, http.StatusTooManyRequests); p.ErrorCode != "rate_limited" {
			t.Errorf("the problem is %s", a.body)
		}
		if wait := a.retryAfter(t); wait > 60 || wait < 30 {
			t.Errorf("Retry-After is %d, want about 60", wait)
		}
		if got := a.header.Get("RateLimit-Policy"); got != `"default";q=50;w=60` {
			t.Errorf("RateLimit-Policy is %s", got)
		}
		if got := a.header.Get("RateLimit"); !strings.HasPrefix(got, `"default";r=0;t=`) {
			t.Errorf("RateLimit is %s", got)
		}
	}
	st := s.stats() // and GET is not limited
	if r := st.RateLimiting; !r.Enabled || r.Limit != 50 || r.Window != 60 || r.Allowed != 50 || r.Refused != 2 {
		t.Errorf("/stats says %+v", r)
	}
	if st.Requests.Total != 50 {
		t.Errorf("%d requests are on record, want 50", st.Requests.Total)
	}
}

func TestTheRateLimitCanBeChosen(t *testing.T) {
	onEach(t, theRateLimitCanBeChosen)
}

func theRateLimitCanBeChosen(t *testing.T, database string) {
	for _, c := range []struct {
		name  string
		env   []string
		args  []string
		limit int // 0: none
	}{
		{"none in demo mode", nil, nil, 0},
		{"none in production", nil, []string{"--mode", "production", "--insecure-no-auth", "--rate-limit", "none"}, 0},
		{"another in production", nil, []string{"--mode", "production", "--insecure-no-auth", "--rate-limit", "3/1h"}, 3},
		{"one in demo mode", nil, []string{"--rate-limit", "2/10m"}, 2},
		{"by the environment", []string{"TANDEM_RATE_LIMIT=4/60s"}, nil, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serveIn(t, t.TempDir(), c.env, append(c.args, "--database", database)...)
			posts := c.limit
			if posts == 0 {
				posts = 60
			}
			for i := range posts {
				if a := s.post("/async", quick); a.status != http.StatusAccepted {
					t.Fatalf("POST number %d answers %d %s", i+1, a.status, a.body)
				}
			}
			if c.limit > 0 {
				s.post("/async", quick).problem(t, http.StatusTooManyRequests)
			}
			if r := s.stats().RateLimiting; r.Enabled != (c.limit > 0) || r.Limit != c.limit {
				t.Errorf("/stats says %+v", r)
			}
		})
	}
}

func TestRetryAfterOfTheRateLimitIsTrue(t *testing.T) {
	onEachPatiently(t, retryAfterOfTheRateLimitIsTrue)
}

func retryAfterOfTheRateLimitIsTrue(t *testing.T, database string) {
	s := serve(t, "--database", database, "--rate-limit", "2/3s")
	began := time.Now()
	s.async(quick)
	s.async(quick)
	a := s.post("/async", quick)
	a.problem(t, http.StatusTooManyRequests)
	wait := time.Duration(a.retryAfter(t)) * time.Second
	refused := time.Now()
	eventually(t, "a request is let through again", func() bool {
		sent := time.Now()
		through := s.post("/async", quick).status == http.StatusAccepted
		if !through && sent.Sub(refused) > wait {
			t.Errorf("Retry-After was %v, and after %v a request is refused", wait, sent.Sub(refused))
		}
		return through
	})
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("a third request was let through after %v of a window of 3s", took)
	}
}

func TestPausedAcceptsAndWorksNothing(t *testing.T) {
	onEach(t, pausedAcceptsAndWorksNothing)
}

func pausedAcceptsAndWorksNothing(t *testing.T, file string) {
	needSignals(t)
	rcv := receive(t, nil)
	s := serve(t, "--database", file, "--paused", "--max-pending", "20")
	if h := s.health(); !strings.Contains(strings.Join(h.Notices, "\n"), "paused") {
		t.Errorf("/healthz does not say that the service is paused: %+v", h)
	}
	a := s.post("/sync", quick)
	if p := a.problem(t, http.StatusServiceUnavailable); p.ErrorCode != "busy" || !strings.Contains(p.Detail, "paused") {
		t.Errorf("POST /sync says %s", a.body)
	}
	a.retryAfter(t)

	// More than fit, all at once: exactly as many as fit are accepted.
	var accepted, refused atomic.Int64
	var posting sync.WaitGroup
	for range 30 {
		posting.Go(func() {
			a, err := s.try("POST", "/async", submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
			switch {
			case err != nil:
				t.Error(err)
			case a.status == http.StatusAccepted:
				accepted.Add(1)
			default:
				refused.Add(1)
				if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), `"busy"`) || a.header.Get("Content-Type") != "application/problem+json" {
					t.Errorf("what does not fit is refused with %d %v %s", a.status, a.header, a.body)
				}
			}
		})
	}
	posting.Wait()
	if accepted.Load() != 20 || refused.Load() != 10 {
		t.Errorf("%d accepted and %d refused, want 20 and 10", accepted.Load(), refused.Load())
	}
	st := s.stats()
	if st.Requests.ByStatus["pending"] != 20 || st.System.QueueDepth != 20 || st.Requests.Total != 20 {
		t.Errorf("/stats says %+v", st)
	}
	s.stop(t)
	if n := len(rcv.received()); n != 0 {
		t.Errorf("the paused service sent %d callbacks", n)
	}

	s = serve(t, "--database", file, "--max-pending", "20")
	for range 20 {
		rcv.next().verify(t, secret)
	}
	eventually(t, "all is settled", func() bool { return s.stats().Requests.ByStatus["callback_sent"] == 20 })
	s.sync(quick)
	s.async(quick)
	if rows := s.history(""); len(rows) != 22 {
		t.Errorf("%d requests are on record, want 22", len(rows))
	}
}

func TestAFullBacklogTakesMoreOnceItHasRoom(t *testing.T) {
	onEach(t, aFullBacklogTakesMoreOnceItHasRoom)
}

func aFullBacklogTakesMoreOnceItHasRoom(t *testing.T, database string) {
	u := newUpstream(t)
	s := serve(t, "--database", database, "--max-pending", "3", u.flag(), "--io-concurrency", "1")
	var ids []string
	eventually(t, "the backlog is full", func() bool {
		a := s.post("/async", u.work("a", ""))
		if a.status == http.StatusServiceUnavailable {
			a.retryAfter(t)
			return true
		}
		ids = append(ids, strings.TrimPrefix(a.header.Get("Location"), "/requests/"))
		return len(ids) > 20 // which fails below
	})
	if len(ids) > 6 {
		t.Errorf("%d were accepted where one runs and three may wait", len(ids))
	}
	u.open()
	for _, id := range ids {
		if rec := s.worked(id); rec.Status != "completed" {
			t.Errorf("the record is %v", rec)
		}
	}
	s.async(u.work("b", ""))
}

func TestALongBacklogDoesNotStarveSyncCallers(t *testing.T) {
	onEach(t, aLongBacklogDoesNotStarveSyncCallers)
}

func aLongBacklogDoesNotStarveSyncCallers(t *testing.T, database string) {
	const backlog, callers = 400, 10
	s := serve(t, "--database", database, "--paused")
	for range backlog {
		s.async(submission{Workload: "compute", Complexity: 4, Data: data})
	}
	s.kill()

	s = serve(t, "--database", database, "--workers", "1")
	for range callers {
		s.sync(submission{Workload: "compute", Data: data})
	}
	// Freed slots alternate: one async request for each caller, and what was
	// done before they came. A caller who has to queue up sees the end of it.
	if left := s.stats().Requests.ByStatus["pending"]; left < backlog/4 {
		t.Errorf("%d of %d async requests were left when the callers were done: they waited behind the rest", left, backlog)
	}
}

func TestASaturatingSyncLoadDoesNotStarveAsync(t *testing.T) {
	onEach(t, aSaturatingSyncLoadDoesNotStarveAsync)
}

func aSaturatingSyncLoadDoesNotStarveAsync(t *testing.T, database string) {
	const callers, accepted = 6, 15
	s := serve(t, "--database", database, "--workers", "1", "--sync-queue-timeout", "20s")
	done := make(chan struct{})
	var calling sync.WaitGroup
	var served atomic.Int64
	for range callers {
		calling.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				a, err := s.try("POST", "/sync", submission{Workload: "compute", Complexity: 2, Data: data})
				if err != nil || a.status != http.StatusOK {
					t.Errorf("POST /sync: %d %s, %v", a.status, a.body, err)
					return
				}
				served.Add(1)
			}
		})
	}
	eventually(t, "the sync load has begun", func() bool { return served.Load() > callers })
	ids := make([]string, accepted)
	for i := range ids {
		ids[i] = s.async(submission{Workload: "compute", Data: data})
	}
	before := served.Load()
	for _, id := range ids {
		s.worked(id)
	}
	meanwhile := served.Load() - before
	close(done)
	calling.Wait()
	if meanwhile > 8*accepted {
		t.Errorf("%d sync calls were served while %d async requests waited", meanwhile, accepted)
	}
}
