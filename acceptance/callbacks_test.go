package acceptance

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"tandem/webhook"
)

func TestARetrySurvivesARestartAndComesNoSoonerThanItIsDue(t *testing.T) {
	onEachAfterAKill(t, aRetrySurvivesARestartAndComesNoSoonerThanItIsDue)
}

func aRetrySurvivesARestartAndComesNoSoonerThanItIsDue(t *testing.T, file string) {
	rcv := receive(t, func(w http.ResponseWriter, _ *http.Request, d delivery) {
		if d.n == 1 {
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	s := serve(t, hasty("--database", file)...)
	id := s.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	first := rcv.next()
	rec := s.until(id, "has its attempt on record", func(r *record) bool { return r.Callback.Attempts == 1 })
	if rec.Status != "completed" || rec.Callback.State != "pending" || show(rec.Callback.LastStatus) != "500" || rec.Callback.NextAttemptAt == nil {
		t.Fatalf("after the first attempt the record is %+v", rec)
	}
	due := *rec.Callback.NextAttemptAt
	if floor := first.at.Add(2 * time.Second); due.Before(floor) {
		t.Errorf("the next attempt is due at %v, before the receiver's Retry-After is over at %v", due, floor)
	}
	s.kill()

	s = serve(t, hasty("--database", file)...)
	if rec := s.record(id); rec.Callback.NextAttemptAt == nil || !rec.Callback.NextAttemptAt.Equal(due) {
		t.Errorf("the restart moved the next attempt to %s", show(rec.Callback.NextAttemptAt))
	}
	eventually(t, "the retry comes", func() bool { return len(rcv.received()) == 2 })
	second := rcv.next()
	second.verify(t, secret)
	if early := due.Sub(second.at); early > 0 {
		t.Errorf("the retry came %v before it was due", early)
	}
	// On Postgres the killed process may not have put its job off yet.
	if late := second.at.Sub(due); late > 10*time.Second && !onPostgres(file) {
		t.Errorf("the retry came %v after it was due", late)
	}
	if first.id() != second.id() || second.event.Metadata.Attempt != 2 {
		t.Errorf("webhook-id was %s and is %s, attempt %d, want 2", first.id(), second.id(), second.event.Metadata.Attempt)
	}
	if rec := s.settled(id); rec.Status != "callback_sent" || rec.Callback.Attempts != 2 {
		t.Errorf("the record is %+v", rec)
	}
	all := s.attempts(id)
	if len(all) != 2 || show(all[0].StatusCode) != "500" || show(all[0].ErrorClass) != "5xx" || all[1].Number != 2 || show(all[1].StatusCode) != "200" || all[1].ErrorClass != nil {
		t.Errorf("the attempts are %+v", all)
	}
}

func TestACallbackIsGivenUpVisibly(t *testing.T) {
	onEach(t, aCallbackIsGivenUpVisibly)
}

func aCallbackIsGivenUpVisibly(t *testing.T, database string) {
	s := serve(t, "--database", database, "--callback-attempts", "2", "--callback-timeout", "400ms")
	for _, c := range []struct {
		name     string
		answer   func(http.ResponseWriter, *http.Request, delivery)
		attempts int
		status   string
		class    string
	}{
		{"410 stops at once", status(http.StatusGone), 1, "410", "gone"},
		{"500 uses up the attempts", status(http.StatusInternalServerError), 2, "500", "5xx"},
		{"404 may be half deployed and is tried again", status(http.StatusNotFound), 2, "404", "4xx"},
		{"silence runs into the timeout", func(_ http.ResponseWriter, r *http.Request, _ delivery) { <-r.Context().Done() }, 2, "null", "timeout"},
		{"a hang-up is no answer", func(http.ResponseWriter, *http.Request, delivery) { panic(http.ErrAbortHandler) }, 2, "null", "connect"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			rcv := receive(t, c.answer)
			id := s.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
			for n := 1; n <= c.attempts; n++ {
				if d := rcv.next(); d.event.Metadata.Attempt != n || d.id() != id {
					t.Errorf("attempt %d is %+v", n, d.event.Metadata)
				}
			}
			rec := s.settled(id)
			if rec.Status != "callback_failed" || rec.Callback.State != "failed" || rec.Callback.Attempts != c.attempts || rec.Callback.NextAttemptAt != nil || show(rec.Callback.LastStatus) != c.status || rec.Callback.LastError == nil {
				t.Errorf("the record is %+v", rec)
			}
			all := s.attempts(id)
			if len(all) != c.attempts {
				t.Fatalf("the attempts are %+v, want %d", all, c.attempts)
			}
			for i, a := range all {
				if a.Number != i+1 || show(a.StatusCode) != c.status || show(a.ErrorClass) != c.class {
					t.Errorf("attempt %d is %+v, %s, %s", i+1, a, show(a.StatusCode), show(a.ErrorClass))
				}
			}
			if n := len(rcv.received()); n != c.attempts {
				t.Errorf("%d callbacks came, want %d", n, c.attempts)
			}
		})
	}
}

func TestFailedWorkStillReportsItsFailure(t *testing.T) {
	onEach(t, failedWorkStillReportsItsFailure)
}

func failedWorkStillReportsItsFailure(t *testing.T, database string) {
	rcv := receive(t, nil)
	s := serve(t, "--database", database, "--upstream", "broken="+failing(t, http.StatusServiceUnavailable))
	id := s.async(submission{Workload: "http", Data: map[string]any{"upstream": "broken"}, CallbackURL: rcv.url})
	d := rcv.next()
	d.verify(t, secret)
	ev := d.event
	if ev.Type != webhook.RequestFailed || ev.Status != "failed" || ev.Result != nil || ev.Error == nil || ev.Error.Code != "upstream" {
		t.Errorf("the event is %s", d.body)
	}
	rec := s.settled(id)
	if rec.Status != "failed" || rec.Callback.State != "sent" || show(rec.ErrorCode) != "upstream" || show(rec.UpstreamStatus) != "503" || string(rec.Result) != "null" {
		t.Errorf("the record is %+v", rec)
	}
	countersFit(t, s, s.history(""))
}

func TestAnOpenBreakerSpendsNoAttemptsAndDelaysNobodyElse(t *testing.T) {
	onEach(t, anOpenBreakerSpendsNoAttemptsAndDelaysNobodyElse)
}

func anOpenBreakerSpendsNoAttemptsAndDelaysNobodyElse(t *testing.T, file string) {
	const owed = 8
	dead := receive(t, status(http.StatusServiceUnavailable))
	well := receive(t, nil)
	s := serve(t, "--database", file, "--callback-per-host", "1")
	ids := make([]string, owed)
	for i := range ids {
		ids[i] = s.async(submission{Workload: "wait", Data: data, CallbackURL: dead.url})
	}
	for range 5 {
		dead.next()
	}
	host := strings.TrimSuffix(strings.TrimPrefix(dead.url, "http://"), "/hook")
	eventually(t, "/stats shows the open breaker", func() bool {
		for _, h := range s.stats().Callbacks.Hosts {
			if h.Host == host {
				return h.Breaker == "open"
			}
		}
		return false
	})

	// The other host asks to be left alone for 2 s, longer than the gap after
	// a first attempt: once it is tried again, the dead host's retries are due.
	slow := receive(t, func(w http.ResponseWriter, _ *http.Request, d delivery) {
		if d.n == 1 {
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	s.async(submission{Workload: "wait", Data: data, CallbackURL: slow.url})
	began := time.Now()
	s.async(submission{Workload: "wait", Data: data, CallbackURL: well.url})
	well.next()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a healthy host got its callback after %v", took)
	}
	slow.next()
	slow.next()

	if n := len(dead.received()); n != 5 {
		t.Errorf("the dead host was tried %d times, want 5", n)
	}
	spent := 0
	for _, id := range ids {
		rec := s.record(id)
		spent += rec.Callback.Attempts
		if rec.Status != "completed" || rec.Callback.State != "pending" || rec.Callback.NextAttemptAt == nil {
			t.Errorf("a postponed callback is %+v", rec)
		}
	}
	if spent != 5 {
		t.Errorf("%d attempts are spent, want 5", spent)
	}
	eventually(t, "the others' callbacks are on record", func() bool { return s.stats().Callbacks.Delivered == 2 })
	if st := s.stats(); st.Callbacks.Pending != owed {
		t.Errorf("/stats counts %+v", st.Callbacks)
	}
}

func TestADeadHostDelaysNobodyElse(t *testing.T) {
	onEach(t, aDeadHostDelaysNobodyElse)
}

func aDeadHostDelaysNobodyElse(t *testing.T, database string) {
	const owed, perHost = 20, 3
	held := newGate()
	stuck := receive(t, func(_ http.ResponseWriter, r *http.Request, _ delivery) { held.pass(r) })
	t.Cleanup(held.open)
	well := receive(t, nil)
	s := serve(t, "--database", database, "--callback-per-host", "3", "--callback-timeout", "1m")
	for range owed {
		s.async(submission{Workload: "wait", Data: data, CallbackURL: stuck.url})
	}
	for range perHost {
		stuck.next()
	}
	for range owed {
		s.async(submission{Workload: "wait", Data: data, CallbackURL: well.url})
	}
	for range owed {
		well.next()
	}
	if n := len(stuck.received()); n != perHost {
		t.Errorf("%d attempts are in flight to one host, want %d", n, perHost)
	}
	held.open()
	for range owed - perHost {
		stuck.next()
	}
}

func TestSeveralSecretsSignEachCallback(t *testing.T) {
	parallel(t)
	rcv := receive(t, nil)
	old, young := webhook.NewSecret(), webhook.NewSecret()
	s := serveIn(t, t.TempDir(), []string{"TANDEM_CALLBACK_SECRET=" + young.Reveal() + "," + old.Reveal()})
	s.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	d := rcv.next()
	d.verify(t, young)
	d.verify(t, old)
	if n := len(strings.Fields(d.header.Get(webhook.HeaderSignature))); n != 2 {
		t.Errorf("%d signatures, want 2", n)
	}
	if webhook.Verify(d.header, d.body, d.at, secret) == nil {
		t.Error("a third secret verifies the callback")
	}
}

func TestTheTestCallbackShowsWhatItReceivesInDemoModeOnly(t *testing.T) {
	parallel(t)
	s := serve(t)
	id := s.async(submission{Workload: "wait", Data: data, CallbackURL: "http://" + s.addr + "/test-callback"})
	if rec := s.settled(id); rec.Status != "callback_sent" {
		t.Errorf("the record is %+v", rec)
	}
	all := s.attempts(id)
	if len(all) != 1 || !strings.Contains(all[0].Answer, `"verified":true`) || !strings.Contains(all[0].Answer, id) {
		t.Errorf("the attempts are %+v", all)
	}
	if a := s.post("/test-callback", `{"by":"hand"}`); a.status != 200 || !strings.Contains(string(a.body), `"verified":false`) {
		t.Errorf("POST /test-callback by hand says %d %s", a.status, a.body)
	}
	production := serve(t, "--mode", "production", "--insecure-no-auth")
	production.post("/test-callback", `{"by":"hand"}`).problem(t, http.StatusNotFound)
}
