package acceptance

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"tandem/webhook"
)

// TestAServiceInMemoryDoesNotSayOnDisk holds the 202 to what it is worth.
func TestAServiceInMemoryDoesNotSayOnDisk(t *testing.T) {
	parallel(t)
	s := serve(t, "--database", ":memory:")
	var accepted struct {
		Message string `json:"message"`
	}
	s.post("/async", submission{Data: map[string]any{"a": 1}}).decode(t, http.StatusAccepted, &accepted)
	if strings.Contains(accepted.Message, "on disk") || !strings.Contains(accepted.Message, "not durable") {
		t.Errorf("the 202 of a service in memory says %q", accepted.Message)
	}
}

func TestAcceptedWorkIsDeliveredSignedAndOnRecord(t *testing.T) {
	onEach(t, acceptedWorkIsDeliveredSignedAndOnRecord)
}

func acceptedWorkIsDeliveredSignedAndOnRecord(t *testing.T, database string) {
	rcv := receive(t, nil)
	s := serve(t, "--database", database)

	a := s.post("/async", submission{Data: map[string]any{"a": 1, "b": 2.5}, Complexity: 2, CallbackURL: rcv.url})
	var accepted struct {
		RequestID string `json:"request_id"`
		Status    string `json:"status"`
		Message   string `json:"message"`
		StatusURL string `json:"status_url"`
	}
	a.decode(t, http.StatusAccepted, &accepted)
	a.retryAfter(t)
	id := accepted.RequestID
	if want := "/requests/" + id; a.header.Get("Location") != want || accepted.StatusURL != want {
		t.Errorf("Location is %q, status_url %q, want both %q", a.header.Get("Location"), accepted.StatusURL, want)
	}
	if onDisk := strings.HasPrefix(accepted.Message, "on disk; "); !strings.HasPrefix(id, "req_") || accepted.Status != "accepted" || onDisk != s.health().Durable {
		t.Errorf("the acceptance is %+v", accepted)
	}

	d := rcv.next()
	d.verify(t, secret)
	if err := webhook.Verify(d.header, d.body, d.at, webhook.NewSecret()); err == nil {
		t.Error("the callback verifies with another secret")
	}
	rec := s.settled(id)
	ev := d.event
	if d.id() != id || ev.Type != webhook.RequestCompleted || ev.Status != "completed" || ev.Error != nil {
		t.Errorf("the event is %s", d.body)
	}
	if ev.Metadata.Attempt != 1 || ev.Metadata.MaxAttempts != 3 || ev.Metadata.SentAt.IsZero() {
		t.Errorf("callback_metadata is %+v", ev.Metadata)
	}
	if string(ev.Result) != string(rec.Result) || ev.ProcessingTimeMS != *rec.ProcessingTimeMS || !ev.Timestamp.Equal(*rec.CompletedAt) {
		t.Errorf("the event %s does not fit the record %+v", d.body, rec)
	}
	if rec.Status != "callback_sent" || rec.Callback.State != "sent" || rec.Callback.Attempts != 1 || show(rec.Callback.LastStatus) != "200" || rec.Callback.NextAttemptAt != nil {
		t.Errorf("the record is %+v", rec)
	}
	if rec.Mode != "async" || rec.Workload != "compute" || rec.Complexity != 2 || rec.QueueTimeMS == nil || rec.StartedAt == nil || show(rec.Callback.URL) != rcv.url {
		t.Errorf("the record is %+v", rec)
	}
	all := s.attempts(id)
	if len(all) != 1 || all[0].Number != 1 || show(all[0].StatusCode) != "200" || all[0].ErrorClass != nil || all[0].Answer != "thanks" {
		t.Errorf("the attempts are %+v", all)
	}
	if n := len(rcv.received()); n != 1 {
		t.Errorf("%d callbacks came, want 1", n)
	}
}

func TestBothPatternsGiveTheSameResult(t *testing.T) {
	onEach(t, bothPatternsGiveTheSameResult)
}

func bothPatternsGiveTheSameResult(t *testing.T, database string) {
	u := newUpstream(t)
	u.open()
	s := serve(t, "--database", database, u.flag(), "--rounds", "1000")
	for _, c := range []struct {
		name string
		sub  submission
	}{
		{"compute over numbers", submission{Workload: "compute", Complexity: 3, Data: map[string]any{"x": []any{1, 2.25, map[string]any{"y": -7}}}}},
		{"compute without numbers", submission{Workload: "compute", Complexity: 10, Data: map[string]any{"text": "no number"}}},
		{"compute beyond float64", submission{Workload: "compute", Data: map[string]any{"n": json.Number("123456789012345678901234567890.5")}}},
		{"wait", submission{Workload: "wait", Complexity: 2, Data: data}},
		{"mixed", submission{Workload: "mixed", Complexity: 2, Data: data}},
		{"http", u.work("both", "")},
	} {
		t.Run(c.name, func(t *testing.T) {
			syncID, result := s.sync(c.sub)
			asyncID := s.async(c.sub)
			worked := s.worked(asyncID)
			if got := string(worked.Result); got != result || got == "null" {
				t.Errorf("async gives %s, sync %s", got, result)
			}
			if got := s.record(syncID); string(got.Result) != result || got.Status != "completed" || got.Mode != "sync" || got.Callback.State != "none" {
				t.Errorf("the record of the sync request is %+v", got)
			}
			if sent, _ := json.Marshal(c.sub.Data); string(worked.InputData) != string(sent) {
				t.Errorf("input_data is %s, sent was %s", worked.InputData, sent)
			}
		})
	}
}

func TestWithoutCallbackURLTheCallerPolls(t *testing.T) {
	onEach(t, withoutCallbackURLTheCallerPolls)
}

func withoutCallbackURLTheCallerPolls(t *testing.T, database string) {
	s := serve(t, "--database", database)
	id := s.async(submission{Workload: "wait", Data: data})
	rec := s.worked(id)
	if rec.Status != "completed" || rec.Callback.State != "none" || rec.Callback.URL != nil || string(rec.Result) != `{"waited_ms":10}` {
		t.Errorf("the record is %+v", rec)
	}
	if all := s.attempts(id); len(all) != 0 {
		t.Errorf("the attempts are %+v, want none", all)
	}
}

func TestWaitHoldsTheAnswerUntilTheWorkIsDoneAndNotTheCallback(t *testing.T) {
	onEach(t, waitHoldsTheAnswerUntilTheWorkIsDoneAndNotTheCallback)
}

func waitHoldsTheAnswerUntilTheWorkIsDoneAndNotTheCallback(t *testing.T, database string) {
	u := newUpstream(t)
	delivered := newGate()
	rcv := receive(t, func(_ http.ResponseWriter, r *http.Request, _ delivery) { delivered.pass(r) })
	t.Cleanup(delivered.open)
	s := serve(t, "--database", database, u.flag())
	id := s.async(u.work("a", rcv.url))
	u.await()

	began := time.Now()
	a := s.get("/requests/" + id + "?wait=200ms")
	var rec record
	a.decode(t, 200, &rec)
	a.retryAfter(t)
	if took := time.Since(began); rec.Status != "processing" || took < 200*time.Millisecond {
		t.Errorf("?wait=200ms came back after %v with status %s", took, rec.Status)
	}

	began = time.Now()
	waited := s.later("GET", "/requests/"+id+"?wait=30s", nil)
	s.get("/requests/" + id + "?wait=100ms") // by its end the other is under way
	u.open()
	rcv.next() // and is not answered
	a = <-waited
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("?wait=30s came back %v after the work was done", took)
	}
	a.decode(t, 200, &rec)
	if rec.Status != "completed" || rec.Callback.State != "pending" || a.header.Get("Retry-After") != "" {
		t.Errorf("?wait ended with %v, Retry-After %q", rec, a.header.Get("Retry-After"))
	}
	delivered.open()
	if rec := s.settled(id); rec.Status != "callback_sent" {
		t.Errorf("status is %s, want callback_sent", rec.Status)
	}
}
