package acceptance

import (
	"net/http"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// draining asks a service to end, and waits until it says that it does.
func (s *service) draining() {
	s.t.Helper()
	s.signal(s.t, syscall.SIGTERM)
	eventually(s.t, "/readyz says that the service drains", func() bool {
		a, err := s.try("GET", "/readyz", nil)
		if err != nil {
			s.t.Fatalf("the listener went away before /readyz said so: %v", err)
		}
		if a.status == http.StatusOK {
			return false
		}
		if p := a.problem(s.t, http.StatusServiceUnavailable); p.ErrorCode != "draining" {
			s.t.Errorf("/readyz says %s", a.body)
		}
		return true
	})
}

func TestDrainFinishesWhatRunsAndKeepsTheRest(t *testing.T) {
	onEach(t, drainFinishesWhatRunsAndKeepsTheRest)
}

func drainFinishesWhatRunsAndKeepsTheRest(t *testing.T, file string) {
	needSignals(t)
	u := newUpstream(t)
	rcv := receive(t, nil)
	s := serve(t, "--database", file, u.flag(), "--io-concurrency", "2")
	if a := s.get("/readyz"); a.status != http.StatusOK {
		t.Fatalf("/readyz says %d before the drain", a.status)
	}
	names := make(map[string]string) // by id
	for i := range 12 {
		name := "r" + strconv.Itoa(i)
		names[s.async(u.work(name, rcv.url))] = name
	}
	running := []string{u.await(), u.await()}

	s.draining()
	for _, path := range []string{"/sync", "/async"} {
		a := s.post(path, submission{Data: data})
		if p := a.problem(t, http.StatusServiceUnavailable); p.ErrorCode != "draining" {
			t.Errorf("POST %s says %s", path, a.body)
		}
		a.retryAfter(t)
	}
	if a := s.get("/healthz"); a.status != http.StatusOK {
		t.Errorf("/healthz says %d while the service drains, but it is alive", a.status)
	}
	u.open()
	if code := s.wait(t); code != 0 {
		t.Errorf("exit code is %d, want 0", code)
	}
	if u.called("r11") != 0 {
		t.Error("the drain worked what was only waiting")
	}
	soundFile(t, file)

	s = serve(t, "--database", file, u.flag())
	for id, name := range names {
		rec := s.settled(id)
		if rec.Status != "callback_sent" || u.called(name) != 1 {
			t.Errorf("%s is %s, called %d times, want once", name, rec.Status, u.called(name))
		}
	}
	for _, name := range running {
		if u.called(name) != 1 {
			t.Errorf("%s ran when the drain began and was called %d times", name, u.called(name))
		}
	}
	for id, n := range rcv.byID() {
		if n != 1 {
			t.Errorf("the callback of %s came %d times", names[id], n)
		}
	}
	countersFit(t, s, s.history(""))
}

func TestDrainLetsASyncCallerFinish(t *testing.T) {
	onEach(t, drainLetsASyncCallerFinish)
}

func drainLetsASyncCallerFinish(t *testing.T, database string) {
	needSignals(t)
	u := newUpstream(t)
	s := serve(t, "--database", database, u.flag())
	answered := s.later("POST", "/sync", u.work("a", ""))
	u.await()
	s.signal(t, syscall.SIGTERM)
	s.says(t, "draining")
	u.open()
	if a := <-answered; a.status != http.StatusOK {
		t.Errorf("the caller got %d %s", a.status, a.body)
	}
	if code := s.wait(t); code != 0 {
		t.Errorf("exit code is %d, want 0", code)
	}
}

func TestDrainAnswersThoseWhoWait(t *testing.T) {
	onEach(t, drainAnswersThoseWhoWait)
}

func drainAnswersThoseWhoWait(t *testing.T, database string) {
	needSignals(t)
	u := newUpstream(t)
	s := serve(t, "--database", database, u.flag(), "--io-concurrency", "1", "--drain-timeout", "15s")
	running := s.async(u.work("a", ""))
	u.await()
	answered := s.later("GET", "/requests/"+running+"?wait=60s", nil)
	// The caller waits once its exchange is under way; one that comes later is
	// answered at once and shows nothing, but does not fail.
	s.get("/requests/" + running + "?wait=50ms")
	s.draining()
	select {
	case a := <-answered:
		var rec record
		a.decode(t, http.StatusOK, &rec)
		if rec.Status != "processing" {
			t.Errorf("status is %s while the work is held", rec.Status)
		}
	case <-time.After(patience / 2):
		t.Error("?wait holds up the drain")
	}
	u.open()
	s.wait(t)
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	onEachAfterAKill(t, aSecondSignalEndsAtOnce)
}

func aSecondSignalEndsAtOnce(t *testing.T, file string) {
	needSignals(t)
	u := newUpstream(t)
	s := serve(t, hasty("--database", file, u.flag(), "--drain-timeout", "10m")...)
	id := s.async(u.work("a", ""))
	u.await()
	s.draining()
	began := time.Now()
	// The first signal is let go of a moment after it came.
	eventually(t, "a second signal ends the service", func() bool {
		s.signal(t, syscall.SIGTERM)
		select {
		case <-s.exited:
			return true
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if s.cmd.ProcessState.Success() {
		t.Error("exit code is 0, but work was cut off")
	}

	s = serve(t, hasty("--database", file, u.flag())...)
	u.open()
	if rec := s.outlived(id); rec.Status != "completed" {
		t.Errorf("after the restart the request is %+v", rec)
	}
}

func TestDrainEndsAtItsTimeout(t *testing.T) {
	onEach(t, drainEndsAtItsTimeout)
}

func drainEndsAtItsTimeout(t *testing.T, file string) {
	needSignals(t)
	u := newUpstream(t)
	rcv := receive(t, nil)
	s := serve(t, "--database", file, u.flag(), "--drain-timeout", "700ms")
	id := s.async(u.work("long", rcv.url))
	u.await()
	cut := s.later("POST", "/sync", u.work("sync", ""))
	u.await()
	began := time.Now()
	s.signal(t, syscall.SIGTERM)
	p := (<-cut).problem(t, http.StatusInternalServerError)
	if p.ErrorCode != "interrupted" || p.RequestID == "" {
		t.Errorf("the sync caller got %+v", p)
	}
	code := s.wait(t)
	if took := time.Since(began); code != 0 || took < 700*time.Millisecond || took > 15*time.Second {
		t.Errorf("the service ended after %v with exit code %d, want about 700ms and 0", took, code)
	}
	soundFile(t, file)

	s = serve(t, "--database", file, u.flag())
	u.await()
	u.open()
	rcv.next().verify(t, secret)
	if rec := s.settled(id); rec.Status != "callback_sent" {
		t.Errorf("after the restart the request is %+v", rec)
	}
	if rec := s.record(p.RequestID); rec.Status != "failed" || show(rec.ErrorCode) != "interrupted" {
		t.Errorf("after the restart the sync request is %+v", rec)
	}
}

func TestAnAttemptThatTheDrainCutsOffIsNotSpent(t *testing.T) {
	onEach(t, anAttemptThatTheDrainCutsOffIsNotSpent)
}

func anAttemptThatTheDrainCutsOffIsNotSpent(t *testing.T, file string) {
	needSignals(t)
	rcv := receive(t, func(_ http.ResponseWriter, r *http.Request, d delivery) {
		if d.n == 1 {
			<-r.Context().Done()
		}
	})
	s := serve(t, "--database", file, "--drain-timeout", "300ms", "--callback-timeout", "1m")
	id := s.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	rcv.next()
	s.stop(t)

	s = serve(t, "--database", file)
	if d := rcv.next(); d.id() != id || d.event.Metadata.Attempt != 1 {
		t.Errorf("after the restart the callback is %+v", d.event)
	}
	if rec := s.settled(id); rec.Status != "callback_sent" || rec.Callback.Attempts != 1 || len(s.attempts(id)) != 1 {
		t.Errorf("the record is %v", rec)
	}
}

func TestAnIdleServiceEndsAtOnce(t *testing.T) {
	parallel(t)
	needSignals(t)
	for _, c := range []struct {
		name  string
		sig   os.Signal
		args  []string
		files int // that it leaves behind
	}{
		{"asked by a supervisor", syscall.SIGTERM, nil, 0},
		{"asked from a terminal", os.Interrupt, nil, 0},
		{"on a file", syscall.SIGTERM, []string{"--database", "requests.db"}, 2}, // the lock is one
		{"on a Postgres", syscall.SIGTERM, []string{"--database", migrated.Database(t)}, 0},
		{"while it is paused", syscall.SIGTERM, []string{"--paused"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) { anIdleServiceEndsAtOnce(t, c.sig, c.files, c.args...) })
	}
}

func anIdleServiceEndsAtOnce(t *testing.T, sig os.Signal, files int, args ...string) {
	s := serve(t, args...)
	s.get("/healthz") // and keeps its connection open
	began := time.Now()
	s.signal(t, sig)
	if code := s.wait(t); code != 0 {
		t.Errorf("exit code is %d, want 0", code)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	if left, err := os.ReadDir(s.cmd.Dir); err != nil || len(left) != files {
		t.Errorf("it leaves %v behind, %v, want %d files", left, err, files)
	}
}
