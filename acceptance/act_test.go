package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func (s *service) cancel(id string) answer {
	s.t.Helper()
	return s.send("DELETE", "/requests/"+id, nil)
}

func TestWhatWaitsAndWhatRunsCanBeCancelled(t *testing.T) {
	onEach(t, whatWaitsAndWhatRunsCanBeCancelled)
}

func whatWaitsAndWhatRunsCanBeCancelled(t *testing.T, database string) {
	up := newUpstream(t)
	rcv := receive(t, nil)
	s := serve(t, "--database", database, up.flag(), "--io-concurrency", "1")
	running := s.async(up.work("runs", rcv.url))
	up.await()
	waiting := s.async(up.work("waits", rcv.url))
	for _, id := range []string{waiting, running} {
		a := s.cancel(id)
		var rec record
		a.decode(t, http.StatusOK, &rec)
		if rec.Status != "failed" || show(rec.ErrorCode) != "cancelled" {
			t.Errorf("a cancelled request reads %v", rec)
		}
		d := rcv.next()
		d.verify(t, secret)
		if d.event.RequestID != id || d.event.Error == nil || d.event.Error.Code != "cancelled" {
			t.Errorf("the callback says %s", d.body)
		}
		s.settled(id)
		if p := s.cancel(id).problem(t, http.StatusConflict); p.ErrorCode != "conflict" {
			t.Errorf("cancelled twice: %+v", p)
		}
	}
	if n := up.called("waits"); n != 0 {
		t.Errorf("cancelled work ran %d times", n)
	}
	held := s.later("POST", "/sync", up.work("sync", ""))
	up.await()
	id := s.onlyOne("&mode=sync").RequestID
	s.cancel(id)
	if p := (<-held).problem(t, http.StatusConflict); p.ErrorCode != "cancelled" || p.RequestID != id {
		t.Errorf("the sync caller is told %+v", p)
	}
	s.cancel("req_"+strings.Repeat("0", 32)).problem(t, http.StatusNotFound)
	s.cancel("nonsense").problem(t, http.StatusNotFound)
	countersFit(t, s, s.history(""))
}

// onlyOne is the one request that the history will show.
func (s *service) onlyOne(query string) record {
	s.t.Helper()
	var rows []record
	eventually(s.t, "the request is on record", func() bool {
		rows = s.history(query)
		return len(rows) == 1
	})
	return rows[0]
}

func TestCallbacksAreDeliveredAgain(t *testing.T) {
	onEach(t, callbacksAreDeliveredAgain)
}

func callbacksAreDeliveredAgain(t *testing.T, database string) {
	refuse := newGate()
	rcv := receive(t, func(w http.ResponseWriter, r *http.Request, _ delivery) {
		if !refuse.isOpen() {
			w.WriteHeader(http.StatusGone)
		}
	})
	s := serve(t, "--database", database)
	id := s.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	first := rcv.next()
	if rec := s.settled(id); rec.Status != "callback_failed" {
		t.Fatalf("%v", rec)
	}
	if found := s.listCallbacks("?state=failed"); len(found) != 1 || found[0].RequestID != id {
		t.Errorf("given up are %v", found)
	}
	if found := s.listCallbacks("?state=sent"); len(found) != 0 {
		t.Errorf("sent are %v", found)
	}
	refuse.open()
	if a := s.post("/requests/"+id+"/redeliver", nil); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	second := rcv.next()
	second.verify(t, secret)
	if first.event.Status != "completed" || second.event.Status != first.event.Status || string(second.event.Result) != string(first.event.Result) {
		t.Errorf("a redelivery says %+v, the first delivery %+v", second.event, first.event)
	}
	if second.id() != first.id() || second.event.Metadata.Attempt != 2 {
		t.Errorf("the second delivery is %s, attempt %d", second.id(), second.event.Metadata.Attempt)
	}
	if rec := s.settled(id); rec.Status != "callback_sent" || rec.Callback.State != "sent" || len(s.attempts(id)) != 2 {
		t.Errorf("%v", rec)
	}
	if a := s.post("/requests/"+id+"/redeliver", nil); a.status != http.StatusOK { // also what was delivered
		t.Errorf("%d %s", a.status, a.body)
	}
	rcv.next()
	if rec := s.settled(id); rec.Status != "callback_sent" || rec.Callback.Attempts != 3 {
		t.Errorf("%v", rec)
	}
	none := s.async(submission{Workload: "wait", Data: data})
	s.worked(none)
	s.post("/requests/"+none+"/redeliver", nil).problem(t, http.StatusConflict)
	s.post("/requests/req_"+strings.Repeat("0", 32)+"/redeliver", nil).problem(t, http.StatusNotFound)
	countersFit(t, s, s.history(""))
}

func (s *service) listCallbacks(query string) []record {
	s.t.Helper()
	var page []record
	s.get("/callbacks"+query).decode(s.t, http.StatusOK, &page)
	return page
}

func TestManyCallbacksAreDeliveredAgain(t *testing.T) {
	onEach(t, manyCallbacksAreDeliveredAgain)
}

func manyCallbacksAreDeliveredAgain(t *testing.T, database string) {
	refuse := newGate()
	reply := func(w http.ResponseWriter, r *http.Request, _ delivery) {
		if !refuse.isOpen() {
			w.WriteHeader(http.StatusGone)
		}
	}
	rcv, other := receive(t, reply), receive(t, reply)
	s := serve(t, "--database", database)
	var ids []string
	for range 3 {
		id := s.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
		s.settled(id)
		ids = append(ids, id)
	}
	elsewhere := s.async(submission{Workload: "wait", Data: data, CallbackURL: other.url})
	s.settled(elsewhere)
	refuse.open()
	redeliver := func(body string) (ids []string, more bool) {
		t.Helper()
		var got struct {
			Redelivered []string
			More        bool
		}
		s.post("/callbacks/redeliver", body).decode(t, http.StatusOK, &got)
		return got.Redelivered, got.More
	}
	if got, more := redeliver(`{"dry_run":true}`); len(got) != 4 || more {
		t.Errorf("a dry run would redeliver %v, %v", got, more)
	}
	from := s.record(ids[1]).CompletedAt
	if got, _ := redeliver(fmt.Sprintf(`{"dry_run":true,"from":%q,"host":"127.0.0.1:%s"}`, from.Format(time.RFC3339Nano), rcv.port)); len(got) != 2 || got[0] != ids[2] || got[1] != ids[1] {
		t.Errorf("since the second: %v", got)
	}
	if got, _ := redeliver(fmt.Sprintf(`{"dry_run":true,"to":%q}`, from.Format(time.RFC3339Nano))); len(got) != 1 || got[0] != ids[0] {
		t.Errorf("before the second: %v", got)
	}
	if got, more := redeliver(`{"dry_run":true,"limit":1}`); len(got) != 1 || !more {
		t.Errorf("one of four: %v, %v", got, more)
	}
	if got, _ := redeliver(fmt.Sprintf(`{"host":"127.0.0.1:%s"}`, rcv.port)); len(got) != 3 {
		t.Errorf("redelivered to one host: %v", got)
	}
	for _, id := range ids {
		if rec := s.settled(id); rec.Status != "callback_sent" {
			t.Errorf("%v", rec)
		}
	}
	if rec := s.record(elsewhere); rec.Status != "callback_failed" {
		t.Errorf("the other host's reads %v", rec)
	}
	for _, bad := range []string{`{"state":"pending"}`, `{"state":7}`, `{"limit":0}`, `{"limit":1001}`, `{"from":"yesterday"}`, `{"dry_run":"yes"}`, `{"all":true}`,
		`{"from":"2026-01-02T00:00:00Z","to":"2026-01-01T00:00:00Z"}`, `{"host":""}`, `[]`} {
		s.post("/callbacks/redeliver", bad).problem(t, http.StatusUnprocessableEntity)
	}
	countersFit(t, s, s.history(""))
}

func TestWorkIsDelayedAndExpires(t *testing.T) {
	onEach(t, workIsDelayedAndExpires)
}

func workIsDelayedAndExpires(t *testing.T, file string) {
	rcv := receive(t, nil)
	s := serve(t, "--database", file)
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339Nano) }
	submit := func(s *service, body string) string {
		t.Helper()
		a := s.post("/async", body)
		var got struct {
			RequestID string `json:"request_id"`
		}
		a.decode(t, http.StatusAccepted, &got)
		return got.RequestID
	}
	delayed := submit(s, fmt.Sprintf(`{"data":{"a":1},"workload":"wait","not_before":%q}`, at(700*time.Millisecond)))
	sooner := submit(s, fmt.Sprintf(`{"data":{"a":1},"workload":"wait","not_before":%q}`, at(300*time.Millisecond)))
	past := submit(s, fmt.Sprintf(`{"data":{"a":1},"workload":"wait","not_before":%q}`, at(-time.Hour)))
	far := submit(s, fmt.Sprintf(`{"data":{"a":1},"workload":"wait","not_before":%q}`, at(2*time.Second)))
	for _, id := range []string{past, sooner, delayed} {
		rec := s.worked(id)
		if rec.Status != "completed" || rec.StartedAt.Before(*rec.NotBefore) {
			t.Errorf("%v began before its time", rec)
		}
	}
	expires := submit(s, fmt.Sprintf(`{"data":{"a":1},"workload":"wait","not_before":%q,"expires_at":%q,"callback_url":%q}`, at(time.Hour), at(time.Hour+time.Second), rcv.url))
	if rec := s.record(expires); rec.Status != "pending" || rec.NotBefore == nil || rec.ExpiresAt == nil {
		t.Errorf("%v", rec)
	}
	s.cancel(expires) // a delayed one can be cancelled, too
	rcv.next()
	s.settled(expires)
	s.kill()

	s = serve(t, "--database", file) // what is delayed stays so over a restart
	if rec := s.worked(far); rec.Status != "completed" || rec.StartedAt.Before(*rec.NotBefore) {
		t.Errorf("%v", rec)
	}
	s.stop(t)

	s = serve(t, "--database", file, "--paused")
	late := submit(s, fmt.Sprintf(`{"data":{"a":1},"workload":"wait","expires_at":%q,"callback_url":%q}`, at(time.Hour), rcv.url))
	s.stop(t)
	if _, err := openDatabase(t, file).Exec(`UPDATE requests SET expires_at = created_at WHERE expires_at > created_at AND status = 'pending'`); err != nil {
		t.Fatal(err) // as if an hour had passed
	}
	s = serve(t, "--database", file)
	rec := s.worked(late)
	if show(rec.ErrorCode) != "expired" || rec.StartedAt != nil {
		t.Errorf("%v", rec)
	}
	if d := rcv.next(); d.event.Error == nil || d.event.Error.Code != "expired" {
		t.Errorf("the callback says %s", d.body)
	}
	for _, bad := range []string{
		`"not_before":"soon"`, `"not_before":7`, `"expires_at":"2020-01-01T00:00:00Z"`, `"not_before":"2999-01-01T00:00:00Z"`,
		fmt.Sprintf(`"not_before":%q,"expires_at":%q`, at(2*time.Hour), at(time.Hour)),
	} {
		s.post("/async", `{"data":{"a":1},`+bad+`}`).problem(t, http.StatusUnprocessableEntity)
	}
	s.post("/sync", fmt.Sprintf(`{"data":{"a":1},"expires_at":%q}`, at(time.Hour))).problem(t, http.StatusUnprocessableEntity)
}

func TestACallerChoosesHowItIsCalledBack(t *testing.T) {
	onEach(t, aCallerChoosesHowItIsCalledBack)
}

func aCallerChoosesHowItIsCalledBack(t *testing.T, database string) {
	rcv := receive(t, func(w http.ResponseWriter, _ *http.Request, _ delivery) { w.WriteHeader(http.StatusServiceUnavailable) })
	s := serve(t, "--database", database)
	a := s.post("/async", fmt.Sprintf(`{"data":{"a":1},"workload":"wait","callback_url":%q,
		"callback":{"max_attempts":1,"timeout":"2s","headers":{"x-tenant":"ann","Authorization":"Bearer t"}}}`, rcv.url))
	id := strings.TrimPrefix(a.header.Get("Location"), "/requests/")
	d := rcv.next()
	if d.header.Get("X-Tenant") != "ann" || d.header.Get("Authorization") != "Bearer t" {
		t.Errorf("the headers are %v", d.header)
	}
	if rec := s.settled(id); rec.Callback.Attempts != 1 || rec.Callback.State != "failed" {
		t.Errorf("%v", rec)
	}
	many, _ := json.Marshal(func() map[string]string {
		m := map[string]string{}
		for i := range 21 {
			m[fmt.Sprint("x-", i)] = "a"
		}
		return m
	}())
	for _, bad := range []string{
		`"x"`, `{"max_attempts":0}`, `{"max_attempts":21}`, `{"max_attempts":"3"}`, `{"timeout":"31s"}`, `{"timeout":"10ms"}`, `{"timeout":5}`, `{"retry":1}`,
		`{"headers":[]}`, `{"headers":{"a b":"c"}}`, `{"headers":{"x":1}}`, `{"headers":{"x":"a\r\nb: c"}}`, `{"headers":{"x":"a","X":"b"}}`, `{"headers":` + string(many) + `}`,
		`{"headers":{"Host":"a"}}`, `{"headers":{"webhook-id":"a"}}`, `{"headers":{"transfer-encoding":"chunked"}}`, `{"headers":{"connection":"close"}}`, `{"headers":{"content-length":"1"}}`, `{"headers":{"x":"` + strings.Repeat("a", 1025) + `"}}`,
	} {
		p := s.post("/async", fmt.Sprintf(`{"data":{"a":1},"callback_url":%q,"callback":%s}`, rcv.url, bad)).problem(t, http.StatusUnprocessableEntity)
		if !strings.HasPrefix(p.Errors[0].Field, "callback") {
			t.Errorf("%s is refused with %+v", bad, p)
		}
	}
	s.post("/async", `{"data":{"a":1},"callback":{"max_attempts":3}}`).problem(t, http.StatusUnprocessableEntity) // to whom?
}

func TestSyncRespondsAsyncIfItIsPreferred(t *testing.T) {
	onEachAfterAKill(t, syncRespondsAsyncIfItIsPreferred)
}

func syncRespondsAsyncIfItIsPreferred(t *testing.T, file string) {
	up := newUpstream(t)
	rcv := receive(t, nil)
	s := serve(t, hasty("--database", file, up.flag())...)
	at := func(prefer string, sub submission) answer {
		t.Helper()
		return s.send("POST", "/sync", sub, "Prefer", prefer)
	}

	a := at("respond-async", submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	if a.status != http.StatusAccepted || a.header.Get("Preference-Applied") != "respond-async" || a.header.Get("Vary") != "Prefer" || a.header.Get("Location") == "" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	rcv.next().verify(t, secret)

	a = at("respond-async, wait=20", submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	var got struct {
		RequestID string `json:"request_id"`
		Result    json.RawMessage
	}
	a.decode(t, http.StatusOK, &got)
	if a.header.Get("Preference-Applied") != "respond-async, wait=20" || len(got.Result) == 0 {
		t.Errorf("%v %s", a.header, a.body)
	}
	if rec := s.record(got.RequestID); rec.Callback.State != "none" || rec.Status != "completed" {
		t.Errorf("who has the answer is called back as well: %v", rec)
	}

	a = at("respond-async, wait=1", up.work("long", rcv.url))
	if a.status != http.StatusAccepted {
		t.Fatalf("%d %s", a.status, a.body)
	}
	id := strings.TrimPrefix(a.header.Get("Location"), "/requests/")
	if rec := s.record(id); rec.Status != "processing" || rec.Callback.State != "pending" {
		t.Errorf("%v", rec)
	}
	s.kill() // a promise: a restart resumes it
	s = serve(t, hasty("--database", file, up.flag())...)
	up.open()
	s.outlived(id)
	if d := rcv.next(); d.event.RequestID != id {
		t.Errorf("called back for %s", d.body)
	}
	if rec := s.settled(id); rec.Status != "callback_sent" {
		t.Errorf("%v", rec)
	}
	if p := s.post("/sync", submission{Workload: "wait", Data: data, CallbackURL: rcv.url}).problem(t, http.StatusUnprocessableEntity); p.Errors[0].Field != "callback_url" {
		t.Errorf("%+v", p)
	}
	countersFit(t, s, s.history(""))
}

func TestWhoWaitsIsPromisedNothingUntilThen(t *testing.T) {
	onEachAfterAKill(t, whoWaitsIsPromisedNothingUntilThen)
}

func whoWaitsIsPromisedNothingUntilThen(t *testing.T, file string) {
	up := newUpstream(t)
	s := serve(t, hasty("--database", file, up.flag())...)
	go s.with("Prefer", "respond-async, wait=60").try("POST", "/sync", up.work("a", "")) // it is cut off
	up.await()
	id := s.onlyOne("").RequestID
	s.kill()
	up.open()
	s = serve(t, hasty("--database", file, up.flag())...)
	if rec := s.outlived(id); rec.Status != "failed" || show(rec.ErrorCode) != "interrupted" {
		t.Errorf("%v", rec)
	}
	countersFit(t, s, s.history(""))
}

func TestARecordIsSentOnceIfItDoesNotChange(t *testing.T) {
	onEach(t, aRecordIsSentOnceIfItDoesNotChange)
}

func aRecordIsSentOnceIfItDoesNotChange(t *testing.T, database string) {
	s := serve(t, "--database", database)
	id := s.async(submission{Workload: "wait", Data: data})
	s.worked(id)
	a := s.get("/requests/" + id)
	etag := a.header.Get("ETag")
	if len(etag) < 10 || etag[0] != '"' {
		t.Fatalf("the ETag is %s", etag)
	}
	for none, status := range map[string]int{etag: 304, "W/" + etag: 304, `"x", ` + etag: 304, "*": 304, `"x"`: 200, "": 200} {
		a := s.send("GET", "/requests/"+id, nil, "If-None-Match", none)
		if a.status != status || a.header.Get("ETag") != etag || (status == 304) != (len(a.body) == 0) {
			t.Errorf("If-None-Match: %s gets %d with %s, %d bytes", none, a.status, a.header.Get("ETag"), len(a.body))
		}
	}
	if a := s.send("HEAD", "/requests/"+id, nil); a.status != 200 || a.header.Get("ETag") != etag || len(a.body) != 0 {
		t.Errorf("HEAD gets %d with %v", a.status, a.header)
	}
	if a := s.send("OPTIONS", "/requests/"+id, nil); a.status != 204 || a.header.Get("Allow") != "DELETE, GET, HEAD, OPTIONS" {
		t.Errorf("OPTIONS gets %d with %v", a.status, a.header)
	}
}
