package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// with is the service as somebody sees it who sends further headers, given as
// names and values.
func (s *service) with(headers ...string) *service {
	c := *s
	c.client = &http.Client{Transport: withHeaders{headers, s.client.Transport}, Timeout: s.client.Timeout}
	return &c
}

// send makes one exchange with further headers.
func (s *service) send(method, path string, body any, headers ...string) answer {
	s.t.Helper()
	a, err := s.with(headers...).try(method, path, body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

type withHeaders struct {
	headers []string
	next    http.RoundTripper
}

func (w withHeaders) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for i := 0; i+1 < len(w.headers); i += 2 {
		r.Header.Add(w.headers[i], w.headers[i+1])
	}
	return w.next.RoundTrip(r)
}

func TestAnAsyncSubmissionUnderOneKeyIsAcceptedOnce(t *testing.T) {
	onEach(t, anAsyncSubmissionUnderOneKeyIsAcceptedOnce)
}

func anAsyncSubmissionUnderOneKeyIsAcceptedOnce(t *testing.T, file string) {
	s := serve(t, "--database", file, "--paused")
	body := `{"data":{"a":1},"workload":"wait"}`
	first := s.send("POST", "/async", body, "Idempotency-Key", `"k-1"`)
	if first.status != http.StatusAccepted || first.header.Get("Idempotency-Replayed") != "" {
		t.Fatalf("%d %s", first.status, first.body)
	}
	again := func(s *service, key string) {
		t.Helper()
		a := s.send("POST", "/async", body, "Idempotency-Key", key)
		if a.status != http.StatusAccepted || !bytes.Equal(a.body, first.body) || a.header.Get("Idempotency-Replayed") != "true" || a.header.Get("Location") != first.header.Get("Location") {
			t.Errorf("again: %d %v %s, want %s", a.status, a.header, a.body, first.body)
		}
	}
	again(s, `"k-1"`)
	again(s, "k-1") // without the quotes it is the same key
	s.send("POST", "/async", body+" ", "Idempotency-Key", "k-1").problem(t, http.StatusUnprocessableEntity)
	s.send("POST", "/sync", body, "Idempotency-Key", "k-1").problem(t, http.StatusUnprocessableEntity)
	if a := s.send("POST", "/async", body, "Idempotency-Key", "k-2"); a.header.Get("Idempotency-Replayed") != "" || bytes.Equal(a.body, first.body) {
		t.Errorf("another key: %s", a.body)
	}
	for _, bad := range []string{"", `""`, "a b", `a"b`, strings.Repeat("a", 256), "ü"} {
		if p := s.send("POST", "/async", body, "Idempotency-Key", bad).problem(t, http.StatusUnprocessableEntity); p.Errors[0].Field != "Idempotency-Key" {
			t.Errorf("%q: %+v", bad, p)
		}
	}
	s.send("POST", "/async", body, "Idempotency-Key", "a", "Idempotency-Key", "b").problem(t, http.StatusUnprocessableEntity)
	s.kill()
	s = serve(t, "--database", file)
	again(s, "k-1") // over a restart
	if n := s.stats().Requests.Total; n != 2 {
		t.Errorf("%d requests are on record, want 2", n)
	}
}

func TestManySubmissionsUnderOneKeyAtOnceAreOne(t *testing.T) {
	onEach(t, manySubmissionsUnderOneKeyAtOnceAreOne)
}

func manySubmissionsUnderOneKeyAtOnceAreOne(t *testing.T, database string) {
	s := serve(t, "--database", database)
	var answers []<-chan answer
	for range 20 {
		answers = append(answers, s.with("Idempotency-Key", "same").later("POST", "/async", `{"data":{"a":1},"workload":"wait"}`))
	}
	replayed, bodies := 0, map[string]bool{}
	for _, later := range answers {
		a := <-later
		if a.status != http.StatusAccepted {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a.header.Get("Idempotency-Replayed") == "true" {
			replayed++
		}
		bodies[string(a.body)] = true
	}
	if replayed != 19 || len(bodies) != 1 {
		t.Errorf("%d of 20 are replayed, %d different answers", replayed, len(bodies))
	}
}

func TestASyncSubmissionUnderOneKeyIsWorkedOnce(t *testing.T) {
	onEach(t, aSyncSubmissionUnderOneKeyIsWorkedOnce)
}

func aSyncSubmissionUnderOneKeyIsWorkedOnce(t *testing.T, file string) {
	up := newUpstream(t)
	s := serve(t, "--database", file, up.flag())
	keyed := s.with("Idempotency-Key", "k")
	first := keyed.later("POST", "/sync", up.work("a", ""))
	up.await()
	a := keyed.post("/sync", up.work("a", "")) // while it is worked
	a.problem(t, http.StatusConflict)
	a.retryAfter(t)
	up.open()
	want := <-first
	if want.status != http.StatusOK || want.header.Get("Idempotency-Replayed") != "" {
		t.Fatalf("%d %s", want.status, want.body)
	}
	for range 2 {
		a := keyed.post("/sync", up.work("a", ""))
		if a.status != http.StatusOK || !bytes.Equal(a.body, want.body) || a.header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("again: %d %v %s, want %s", a.status, a.header, a.body, want.body)
		}
		s.kill()
		s = serve(t, "--database", file, up.flag())
		keyed = s.with("Idempotency-Key", "k")
	}
	if n := up.called("a"); n != 1 {
		t.Errorf("the work ran %d times", n)
	}
}

func TestAFailureIsReplayedAndARefusalIsNot(t *testing.T) {
	onEach(t, aFailureIsReplayedAndARefusalIsNot)
}

func aFailureIsReplayedAndARefusalIsNot(t *testing.T, database string) {
	s := serve(t, "--database", database, "--upstream", "broken="+failing(t, http.StatusServiceUnavailable))
	keyed := s.with("Idempotency-Key", "k")
	keyed.post("/sync", submission{Workload: "nothing", Data: data}).problem(t, http.StatusUnprocessableEntity)
	sub := submission{Workload: "http", Data: map[string]any{"upstream": "broken"}}
	first := keyed.post("/sync", sub) // the key is still free
	first.problem(t, http.StatusBadGateway)
	again := keyed.post("/sync", sub)
	again.problem(t, http.StatusBadGateway)
	if !bytes.Equal(first.body, again.body) || again.header.Get("Idempotency-Replayed") != "true" || first.header.Get("Idempotency-Replayed") != "" {
		t.Errorf("%v %s, and again %v %s", first.header, first.body, again.header, again.body)
	}
	if n := s.stats().Requests.Total; n != 1 {
		t.Errorf("%d requests are on record, want 1", n)
	}
}

func TestAKeyedSyncRequestOutlivesItsCaller(t *testing.T) {
	onEach(t, aKeyedSyncRequestOutlivesItsCaller)
}

func aKeyedSyncRequestOutlivesItsCaller(t *testing.T, database string) {
	up := newUpstream(t)
	s := serve(t, "--database", database, up.flag())
	keyed := s.with("Idempotency-Key", "k")
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		body, _ := json.Marshal(up.work("a", ""))
		r, err := http.NewRequestWithContext(ctx, "POST", s.url()+"/sync", bytes.NewReader(body))
		if err == nil {
			r.Header.Set("Content-Type", "application/json")
			_, err = keyed.client.Do(r)
		}
		left <- err
	}()
	up.await()
	leave()
	if err := <-left; err == nil {
		t.Fatal("the caller got an answer")
	}
	up.open()
	eventually(t, "the answer is there", func() bool { return keyed.post("/sync", up.work("a", "")).status == http.StatusOK })
	if n := up.called("a"); n != 1 {
		t.Errorf("the work ran %d times", n)
	}
}

func TestKeysOfTwoCallersAreTwo(t *testing.T) {
	onEach(t, keysOfTwoCallersAreTwo)
}

func keysOfTwoCallersAreTwo(t *testing.T, file string) {
	ann, _ := newKey(t, file, "ann")
	bob, _ := newKey(t, file, "bob")
	s := serve(t, "--database", file, "--require-keys")
	ids := map[string]bool{}
	for _, key := range []string{ann, bob} {
		a := s.as(key).send("POST", "/async", `{"data":{"a":1}}`, "Idempotency-Key", "k")
		if a.status != http.StatusAccepted || a.header.Get("Idempotency-Replayed") != "" {
			t.Errorf("%d %v", a.status, a.header)
		}
		ids[a.header.Get("Location")] = true
	}
	if len(ids) != 2 {
		t.Error("one caller's key stands for another's request")
	}
}
