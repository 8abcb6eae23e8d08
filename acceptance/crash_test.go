package acceptance

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tandem/webhook"
)

// An input that takes the process down is found out after three starts, and
// costs the others nothing. On Postgres each start but the first waits for a
// rescue: no other test takes as long, so this one is among the first.
func TestAnInputThatKillsTheProcessFailsAndTheOthersDoNot(t *testing.T) {
	onEachAfterAKill(t, anInputThatKillsTheProcessFailsAndTheOthersDoNot)
}

func anInputThatKillsTheProcessFailsAndTheOthersDoNot(t *testing.T, database string) {
	var running atomic.Pointer[service]
	var deaths atomic.Int64
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil && strings.Contains(string(body), "deadly") {
			deaths.Add(1)
			running.Load().kill()
			return
		}
		_, _ = io.WriteString(w, `{"hello":"you"}`)
	}))
	t.Cleanup(upstream.Close)
	rcv := receive(t, nil)
	flags := hastier("--database", database, "--upstream=u="+upstream.URL, "--io-concurrency", "8")
	calling := func(name string) submission {
		return submission{Workload: "http", Data: map[string]any{"upstream": "u", "name": name}}
	}
	s := serve(t, append(flags, "--paused")...)
	var innocent []string
	for range 20 {
		innocent = append(innocent, s.async(calling("innocent")))
	}
	killer := calling("deadly")
	killer.CallbackURL = rcv.url
	deadly := s.async(killer)
	for range 20 {
		innocent = append(innocent, s.async(calling("innocent")))
	}
	s.kill()

	for range 10 { // as a supervisor starts it again
		file := filepath.Join(t.TempDir(), "address")
		p := start(t, t.TempDir(), []string{"TANDEM_CALLBACK_SECRET=" + secret.Reveal()}, append([]string{"serve", "--addr", "127.0.0.1:0", "--address-file", file}, flags...)...)
		s = &service{process: p, t: t}
		running.Store(s)
		if died := s.diesBeforeItListens(file); !died {
			s = connect(t, p, file)
			failed := false
			eventually(t, "it dies, or the deadly one is found out", func() bool {
				a, err := s.try("GET", "/requests/"+deadly, nil)
				failed = err == nil && strings.Contains(string(a.body), `"status":"failed"`)
				return failed || err != nil
			})
			if failed {
				break
			}
			<-p.exited
		}
	}
	d := rcv.next()
	d.verify(t, secret)
	if d.event.RequestID != deadly || d.event.Type != webhook.RequestFailed || d.event.Error == nil || d.event.Error.Code != "crashed_worker" {
		t.Errorf("the callback says %s", d.body)
	}
	if rec := s.settled(deadly); rec.Status != "failed" || show(rec.ErrorCode) != "crashed_worker" || rec.Callback.State != "sent" {
		t.Errorf("the deadly one is %s", rec)
	}
	for _, id := range innocent {
		if rec := s.outlived(id); rec.Status != "completed" {
			t.Errorf("an innocent one is %s", rec)
		}
	}
	if n := deaths.Load(); n != 3 {
		t.Errorf("the process died %d times of it, want 3", n)
	}
}

// diesBeforeItListens waits until the process has written its address, or has
// ended.
func (s *service) diesBeforeItListens(addressFile string) (died bool) {
	s.t.Helper()
	eventually(s.t, "it listens or ends", func() bool {
		select {
		case <-s.exited:
			died = true
		default:
		}
		_, err := os.Stat(addressFile)
		return died || err == nil
	})
	return died
}

func TestAKillLosesNothingThatWasAccepted(t *testing.T) {
	onEachAfterAKill(t, aKillLosesNothingThatWasAccepted)
}

func aKillLosesNothingThatWasAccepted(t *testing.T, file string) {
	const posts, posters = 300, 8
	rcv := receive(t, nil)
	s := serve(t, hasty("--database", file, "--workers", "1", "--io-concurrency", "1", "--rounds", "200000")...)

	// Half computes and half waits, so that at any time some are done and some
	// run; and a tenth of a second for each of those who wait is more than the
	// posts take. They go on until the service dies under them.
	var next atomic.Int64
	var mu sync.Mutex
	accepted := make(map[string]bool)
	enough := make(chan struct{})
	var posting sync.WaitGroup
	for range posters {
		posting.Go(func() {
			for i := next.Add(1); i <= posts; i = next.Add(1) {
				sub := submission{Workload: "compute", Complexity: 5, Data: map[string]any{"i": i}, CallbackURL: rcv.url + "?i=" + strconv.FormatInt(i, 10)}
				if i%2 == 0 {
					sub.Workload, sub.Complexity = "wait", 10
				}
				a, err := s.try("POST", "/async", sub)
				if err != nil {
					return // what became of this one is unknown
				}
				var got struct {
					RequestID string `json:"request_id"`
				}
				if err := json.Unmarshal(a.body, &got); err != nil || a.status != http.StatusAccepted {
					t.Errorf("POST /async answers %d %s", a.status, a.body)
					return
				}
				mu.Lock()
				accepted[got.RequestID] = true
				if len(accepted) == posts*4/5 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	for range 5 {
		rcv.next()
	}
	before := s.stats().Requests.ByStatus
	if before["pending"] < 10 || before["processing"] == 0 || before["callback_sent"] == 0 {
		t.Errorf("the kill would find %v, which shows too little", before)
	}
	sent := s.history("&status=callback_sent")
	s.kill()
	posting.Wait()

	s = serve(t, hasty("--database", file, "--io-concurrency", "64", "--rounds", "1000")...)
	eventually(t, "every request is settled", func() bool {
		st := s.stats()
		return st.Requests.ByStatus["callback_sent"] == st.Requests.Total
	})
	rows := s.history("")
	if len(rows) < len(accepted) || len(rows) > posts {
		t.Errorf("%d requests are on record, %d were accepted of %d posts", len(rows), len(accepted), posts)
	}
	missing := maps.Clone(accepted)
	for _, r := range rows {
		delete(missing, r.RequestID)
		if r.Status != "callback_sent" || string(r.Result) == "null" || r.Callback.Attempts != 1 {
			t.Errorf("request %s is %+v", r.RequestID, r)
		}
	}
	if len(missing) > 0 {
		t.Errorf("accepted and lost: %v", missing)
	}

	came := rcv.byID()
	for _, r := range rows {
		if came[r.RequestID] == 0 {
			t.Errorf("the callback of %s is on record as sent and never came", r.RequestID)
		}
		delete(came, r.RequestID)
	}
	if len(came) > 0 {
		t.Errorf("callbacks came for requests that are not on record: %v", came)
	}
	came = rcv.byID()
	for _, r := range sent {
		if came[r.RequestID] != 1 {
			t.Errorf("the callback of %s was on record as sent before the kill and came %d times", r.RequestID, came[r.RequestID])
		}
	}
	for _, d := range rcv.received() {
		d.verify(t, secret)
	}
	countersFit(t, s, rows)
	if s.stop(t); t.Failed() {
		return
	}
	soundFile(t, file)
}

func TestEvery202IsOnDiskWhenItArrives(t *testing.T) {
	onEach(t, every202IsOnDiskWhenItArrives)
}

func every202IsOnDiskWhenItArrives(t *testing.T, file string) {
	const rounds, posters, enough = 5, 16, 60
	var mu sync.Mutex
	accepted := make(map[string]bool)
	for range rounds {
		s := serve(t, "--database", file, "--paused")
		var n atomic.Int64
		var posting sync.WaitGroup
		for range posters {
			posting.Go(func() {
				for {
					a, err := s.try("POST", "/async", quick)
					if err != nil {
						return // the service is gone
					}
					if a.status != http.StatusAccepted {
						t.Errorf("POST /async answers %d %s", a.status, a.body)
						return
					}
					mu.Lock()
					accepted[strings.TrimPrefix(a.header.Get("Location"), "/requests/")] = true
					mu.Unlock()
					if n.Add(1) == enough {
						s.kill() // while the others go on
					}
				}
			})
		}
		posting.Wait()
	}
	s := serve(t, "--database", file, "--paused")
	rows := s.history("")
	for _, r := range rows {
		delete(accepted, r.RequestID)
	}
	if len(accepted) > 0 {
		t.Errorf("%d requests were accepted and are not on disk", len(accepted))
	}
	countersFit(t, s, rows)
}

func TestNo202WhileTheDatabaseCannotBeWritten(t *testing.T) {
	onEachPatiently(t, no202WhileTheDatabaseCannotBeWritten)
}

func no202WhileTheDatabaseCannotBeWritten(t *testing.T, file string) {
	s := serve(t, "--database", file)
	begin := `BEGIN IMMEDIATE`
	if onPostgres(file) {
		begin = `BEGIN; LOCK TABLE requests, settings IN EXCLUSIVE MODE`
	}
	writing, err := openDatabase(t, file).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer writing.Close()
	for _, c := range []struct {
		name string
		long bool
	}{
		{"for a moment", false},
		{"for longer than the service waits", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := writing.ExecContext(t.Context(), begin); err != nil {
				t.Fatal(err)
			}
			release := sync.OnceFunc(func() {
				if _, err := writing.ExecContext(context.WithoutCancel(t.Context()), `ROLLBACK`); err != nil {
					t.Error(err)
				}
			})
			defer release()
			answered := s.later("POST", "/async", quick)
			if c.long {
				ready := s.later("GET", "/readyz", nil)
				a := <-answered
				if p := a.problem(t, http.StatusServiceUnavailable); p.ErrorCode != "unavailable" {
					t.Errorf("POST /async answers %s", a.body)
				}
				a.retryAfter(t)
				(<-ready).problem(t, http.StatusServiceUnavailable)
				release()
			} else {
				began := time.Now()
				for i := 0; i < 50 && time.Since(began) < time.Second; i++ { // time enough, were the commit not waited for
					s.get("/requests")
				}
				select {
				case a := <-answered:
					t.Fatalf("answered %d before the commit", a.status)
				default:
				}
				release()
				if a := <-answered; a.status != http.StatusAccepted {
					t.Errorf("POST /async answers %d %s", a.status, a.body)
				}
			}
			s.async(quick)
			if a := s.get("/readyz"); a.status != http.StatusOK {
				t.Errorf("/readyz says %d %s", a.status, a.body)
			}
		})
	}
	var rows []record
	eventually(t, "all is worked", func() bool {
		rows = s.history("")
		return !slices.ContainsFunc(rows, func(r record) bool { return !r.worked() })
	})
	if len(rows) != 3 {
		t.Errorf("%d requests are on record, want the 3 that were accepted", len(rows))
	}
	countersFit(t, s, rows)
}

func TestWorkThatAKillInterruptedIsDoneAgain(t *testing.T) {
	onEachAfterAKill(t, workThatAKillInterruptedIsDoneAgain)
}

func workThatAKillInterruptedIsDoneAgain(t *testing.T, file string) {
	u := newUpstream(t)
	rcv := receive(t, nil)
	s := serve(t, hasty("--database", file, u.flag())...)
	id := s.async(u.work("a", rcv.url))
	u.await()
	s.kill()

	s = serve(t, hasty("--database", file, u.flag())...)
	eventually(t, "the work is begun again", func() bool { return u.called("a") == 2 })
	u.open()
	d := rcv.next()
	d.verify(t, secret)
	rec := s.settled(id)
	if rec.Status != "callback_sent" || string(rec.Result) != `{"hello":"a"}` || d.id() != id {
		t.Errorf("the record is %+v", rec)
	}
	if n := u.called("a"); n != 2 {
		t.Errorf("the work was started %d times, want 2", n)
	}
}

func TestASyncRequestThatAKillInterruptedReadsFailed(t *testing.T) {
	onEachAfterAKill(t, aSyncRequestThatAKillInterruptedReadsFailed)
}

func aSyncRequestThatAKillInterruptedReadsFailed(t *testing.T, file string) {
	u := newUpstream(t)
	s := serve(t, hasty("--database", file, u.flag())...)
	cut := make(chan error, 1)
	go func() {
		_, err := s.try("POST", "/sync", u.work("a", ""))
		cut <- err
	}()
	u.await()
	var running []record
	eventually(t, "the sync request is on record", func() bool {
		running = s.history("&mode=sync&status=processing")
		return len(running) == 1
	})
	s.kill()
	if err := <-cut; err == nil {
		t.Error("the caller of a killed service got an answer")
	}

	s = serve(t, hasty("--database", file, u.flag())...)
	rec := s.outlived(running[0].RequestID)
	if rec.Status != "failed" || show(rec.ErrorCode) != "interrupted" || show(rec.ErrorMessage) != "interrupted by a restart" || rec.CompletedAt == nil {
		t.Errorf("the record is %+v, %s, %s", rec, show(rec.ErrorCode), show(rec.ErrorMessage))
	}
	if n := u.called("a"); n != 1 {
		t.Errorf("the work was started %d times, want 1", n)
	}
	countersFit(t, s, s.history(""))
}

func TestAnAttemptThatAKillInterruptedIsMadeAgainUnderTheSameID(t *testing.T) {
	onEachAfterAKill(t, anAttemptThatAKillInterruptedIsMadeAgainUnderTheSameID)
}

func anAttemptThatAKillInterruptedIsMadeAgainUnderTheSameID(t *testing.T, file string) {
	held := newGate()
	rcv := receive(t, func(_ http.ResponseWriter, r *http.Request, d delivery) {
		if d.n == 1 {
			held.pass(r)
		}
	})
	t.Cleanup(held.open)
	s := serve(t, hasty("--database", file)...)
	id := s.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	first := rcv.next()
	s.kill()

	s = serve(t, hasty("--database", file)...)
	eventually(t, "the callback comes again", func() bool { return len(rcv.received()) == 2 })
	second := rcv.next()
	second.verify(t, secret)
	if first.id() != id || second.id() != id {
		t.Errorf("webhook-id is %q and then %q, want both %q", first.id(), second.id(), id)
	}
	if string(second.event.Result) != string(first.event.Result) || !second.event.Timestamp.Equal(first.event.Timestamp) {
		t.Errorf("the callback reads %s and then %s", first.body, second.body)
	}
	if second.event.Metadata.Attempt != 1 {
		t.Errorf("the interrupted attempt was spent: the next is number %d", second.event.Metadata.Attempt)
	}
	rec := s.settled(id)
	if all := s.attempts(id); rec.Status != "callback_sent" || len(all) != 1 {
		t.Errorf("the record is %+v, its attempts %+v", rec, all)
	}
}

func TestRecoveryAndNewRequestsGoSideBySide(t *testing.T) {
	onEachAfterAKill(t, recoveryAndNewRequestsGoSideBySide)
}

func recoveryAndNewRequestsGoSideBySide(t *testing.T, file string) {
	u := newUpstream(t)
	s := serve(t, hasty("--database", file, u.flag(), "--io-concurrency", "8")...)
	ids := make([]string, 20)
	for i := range ids {
		ids[i] = s.async(u.work("old", ""))
	}
	for range 8 {
		u.await()
	}
	s.kill()

	s = serve(t, hasty("--database", file, u.flag(), "--io-concurrency", "8")...)
	began := time.Now()
	if _, result := s.sync(submission{Workload: "compute", Data: data}); result == "" {
		t.Error("no result")
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("a sync request took %v while the service recovers", took)
	}
	u.open()
	for _, id := range ids {
		if rec := s.outlived(id); rec.Status != "completed" {
			t.Errorf("request %s is %+v", id, rec)
		}
	}
	countersFit(t, s, s.history(""))
}
