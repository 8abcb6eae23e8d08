package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"tandem/webhook"
	"tandem/work"
)

// ledger is what the callers and the receivers of a service wrote down about
// it, outside of it: no crash of the service touches it.
type ledger struct {
	kinds *work.Registry // the work as the service does it, to know what must come of it

	mu        sync.Mutex
	entries   []*entry
	cancelled int
	came      map[string]*arrivals // callbacks, by the id of their request
	again     map[string]int       // redeliveries that were asked for, by id
}

// newLedger opens the ledger of a service that computes in so many rounds.
func newLedger(t *testing.T, rounds int) *ledger {
	t.Helper()
	kinds, err := work.Builtin(work.Options{Rounds: rounds})
	if err != nil {
		t.Fatal(err)
	}
	return &ledger{kinds: kinds, came: make(map[string]*arrivals), again: make(map[string]int)}
}

// entry is one submission, of which its caller knows what is in it. It belongs
// to its client until the load is over.
type entry struct {
	n        int    // data.n, which no other submission has
	key      string // its Idempotency-Key; empty: none
	callback bool
	repeated bool // posted more than once

	id        string // acknowledged: its caller was told that it is safe
	result    string // the answer to a sync caller; empty: it had none
	refused   bool   // its caller was told that it was not taken
	cancelled bool   // its caller was told that it is cancelled
	notBefore time.Time
}

// arrivals are the callbacks that came for one request.
type arrivals struct {
	at     []time.Time // of those that the receiver answered with 2xx
	failed bool        // what they told: the request failed,
	result string
}

// submission adds an entry to the ledger.
func (l *ledger) submission() *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &entry{n: len(l.entries)}
	l.entries = append(l.entries, e)
	return e
}

// acknowledgement is what the answers to submissions have in common.
type acknowledgement struct {
	RequestID string          `json:"request_id"`
	Result    json.RawMessage `json:"result"`
	ErrorCode string          `json:"error_code"`
}

// submit posts a submission and returns what is answered; false if nothing is.
func (s *service) submit(path string, body any, headers ...string) (ack acknowledgement, status int, ok bool) {
	a, err := s.with(headers...).try("POST", path, body)
	if err != nil {
		return ack, 0, false // what became of it is unknown
	}
	if err := json.Unmarshal(a.body, &ack); err != nil {
		s.t.Errorf("POST %s answers %d %q", path, a.status, a.body)
	}
	return ack, a.status, true
}

// post submits what an entry stands for and writes down what is answered; false
// if nothing is.
func (l *ledger) post(s *service, e *entry, path string, body any) bool {
	ack, status, ok := s.submit(path, body)
	switch {
	case !ok:
		return false
	case path == "/sync" && status == http.StatusOK:
		e.id, e.result = ack.RequestID, string(ack.Result)
	case path == "/async" && status == http.StatusAccepted:
		e.id = ack.RequestID
	case path == "/async" && status == http.StatusServiceUnavailable:
		e.refused = ack.ErrorCode != "unknown"
	case path == "/sync" && (status == http.StatusServiceUnavailable || ack.ErrorCode == "interrupted"): // it may be on record
	default:
		s.t.Errorf("POST %s answers %d %+v", path, status, ack)
	}
	return true
}

// arrived writes down a callback that is about to be answered with 2xx.
func (l *ledger) arrived(t *testing.T, event *webhook.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	came := l.came[event.RequestID]
	if came == nil {
		came = &arrivals{failed: event.Error != nil, result: string(event.Result)}
		l.came[event.RequestID] = came
	}
	came.at = append(came.at, time.Now())
	if came.failed != (event.Error != nil) || came.result != string(event.Result) {
		t.Errorf("the callback of %s told %s and then %s", event.RequestID, came.result, event.Result)
	}
}

// balance is the sums of a ledger.
type balance struct {
	acknowledged, refused, unknown, crashed int
	callbacks, repeated                     int // repeated: after they were answered, and nobody asked for it
	statuses                                map[string]int
}

// balance holds a history in which all is settled against what callers and
// receivers wrote down.
func (l *ledger) balance(t *testing.T, rows []record) balance {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	wrong := 0
	fault := func(format string, args ...any) {
		if wrong++; wrong <= 20 {
			t.Errorf(format, args...)
		}
	}
	sums := balance{statuses: make(map[string]int)}
	byID, byN := make(map[string]*record, len(rows)), make(map[int][]*record)
	for i := range rows {
		r := &rows[i]
		byID[r.RequestID] = r
		n := numberOf(r)
		byN[n] = append(byN[n], r)
		sums.statuses[r.Status]++
		l.checkRow(t, fault, r)
		if show(r.ErrorCode) == "crashed_worker" {
			sums.crashed++
		}
	}
	for _, e := range l.entries {
		of := byN[e.n]
		if len(of) > 1 && (e.key != "" || !e.repeated) {
			fault("submission %d (key %q) is on record %d times", e.n, e.key, len(of))
		}
		switch {
		case e.id != "":
			sums.acknowledged++
			e.check(fault, byID[e.id])
		case e.refused:
			sums.refused++
			if len(of) > 0 {
				fault("submission %d was refused and is on record: %v", e.n, of[0])
			}
		default:
			sums.unknown++ // it may be on record or not
		}
		delete(byN, e.n)
	}
	for n, of := range byN {
		fault("a request of no submission is on record: %d, %v", n, of[0])
	}
	for id, came := range l.came {
		sums.callbacks += len(came.at)
		sums.repeated += max(0, len(came.at)-1-l.again[id])
		if byID[id] == nil {
			fault("a callback came for %s, which is not on record", id)
		}
	}
	if wrong > 20 {
		t.Errorf("and %d more", wrong-20)
	}
	return sums
}

// checkRow holds a row against its work and its callbacks.
func (l *ledger) checkRow(t *testing.T, fault func(string, ...any), r *record) {
	switch code := show(r.ErrorCode); {
	case !r.settled():
		fault("%s is not settled: %v", r.RequestID, r)
	case r.Status == "completed" || r.Status == "callback_sent":
		if want := l.expected(t, r); string(r.Result) != want {
			fault("%s has the result %s, the work gives %s", r.RequestID, r.Result, want)
		}
	case r.Status == "callback_failed" || r.Callback.State == "failed":
		fault("%s is given up although its receiver is well: %v", r.RequestID, r)
	case code == "crashed_worker" && r.Mode == "async", code == "interrupted" && r.Mode == "sync",
		code == "cancelled", code == "expired", code == "client_gone":
	default:
		fault("%s failed: %v", r.RequestID, r)
	}
	if r.Callback.State == "sent" {
		switch came := l.came[r.RequestID]; {
		case came == nil:
			fault("the callback of %s is on record as sent and no receiver has it", r.RequestID)
		case came.failed != (r.Status == "failed"):
			fault("the callback of %s told something else than %v", r.RequestID, r)
		case r.Status != "failed" && came.result != string(r.Result):
			fault("the callback of %s told the result %s, on record is %s", r.RequestID, came.result, r.Result)
		}
	}
}

// check holds the row of an acknowledged submission against what its caller
// was told.
func (e *entry) check(fault func(string, ...any), r *record) {
	switch {
	case r == nil:
		fault("submission %d was acknowledged as %s and is lost", e.n, e.id)
	case numberOf(r) != e.n:
		fault("submission %d was acknowledged as %s, which is on record as number %d", e.n, e.id, numberOf(r))
	case e.result != "" && string(r.Result) != e.result:
		fault("the caller of %s was given %s, on record is %v", r.RequestID, e.result, r)
	case e.cancelled != (show(r.ErrorCode) == "cancelled"):
		fault("%s: its caller was told that it is cancelled: %v; on record is %v", r.RequestID, e.cancelled, r)
	case r.Status == "failed" && !e.cancelled && show(r.ErrorCode) != "expired" && show(r.ErrorCode) != "crashed_worker":
		fault("%s failed: %v", r.RequestID, r)
	case e.callback && r.Callback.State != "sent":
		fault("%s was accepted with a callback, on record is %v", r.RequestID, r)
	case !e.notBefore.IsZero() && r.StartedAt != nil && r.StartedAt.Before(e.notBefore):
		fault("%s was to begin at %v and began at %v", r.RequestID, e.notBefore, r.StartedAt)
	}
}

// expected is the result of a completed request.
func (l *ledger) expected(t *testing.T, r *record) string {
	if r.Workload == "wait" { // without the waiting
		return fmt.Sprintf(`{"waited_ms":%d}`, (time.Duration(r.Complexity) * work.WaitUnit).Milliseconds())
	}
	kind, _ := l.kinds.Lookup("compute") // which mixed ends with
	result, err := kind.Func(t.Context(), work.Input{Data: r.InputData, Complexity: r.Complexity})
	if err != nil {
		t.Fatal(err)
	}
	return string(result)
}

// numberOf is the number of the submission that a request came from.
func numberOf(r *record) int {
	var in struct {
		N int `json:"n"`
	}
	if json.Unmarshal(r.InputData, &in) != nil {
		return -1
	}
	return in.N
}
