package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"tandem"
	"tandem/internal/engine"
	"tandem/webhook"
)

// known is what everybody outside of the service knows, and how the rows stood
// after the step before. It is the world's, under its lock.
type known struct {
	asked   []*asked
	callers []*caller
	names   map[string]string // of requests in the trace, by id
	of      map[string]*asked // by id

	rows     map[string]tandem.Request
	attempts map[string][]tandem.Attempt
	reopened bool            // a process has just begun
	rescued  map[string]bool // taken from a process that has just ended

	starter map[string]*process  // who started the work last, by id
	again   map[string]bool      // a redelivery may just have been committed
	planned map[string]time.Time // when an attempt was seen to be planned last, by id
	running map[int][]*run       // work under way, by ordinal

	arrived map[string]int    // callbacks that reached a receiver, by id
	agreed  map[string]int    // those that it answered with 2xx
	said    map[string]string // what they said
}

// run is one run of the work.
type run struct {
	p   *process
	ctx context.Context
}

func newKnown() known {
	return known{
		names:    make(map[string]string),
		of:       make(map[string]*asked),
		rows:     make(map[string]tandem.Request),
		attempts: make(map[string][]tandem.Attempt),
		starter:  make(map[string]*process),
		again:    make(map[string]bool),
		planned:  make(map[string]time.Time),
		rescued:  make(map[string]bool),
		running:  make(map[int][]*run),
		arrived:  make(map[string]int),
		agreed:   make(map[string]int),
		said:     make(map[string]string),
	}
}

// ordinalOf is which submission a request came from.
func ordinalOf(data []byte) int {
	n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(string(data), `{"r":`), "}"))
	if err != nil {
		panic(fmt.Sprintf("data is %s", data))
	}
	return n
}

// meet learns the id of a submission.
func (w *world) meet(req *tandem.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := ordinalOf(req.Data)
	w.names[req.ID] = fmt.Sprintf("r%d", n)
	w.of[req.ID] = w.asked[n]
}

func (w *world) name(id string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.names[id]
}

func (w *world) brokeLocked(format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf(format, args...)
	}
}

// startedBy and endedBy hold the fence: only who started the work last may end
// it.
func (w *world) startedBy(id string, p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.starter[id] = p
	if w.rows[id].Starts > 0 {
		w.happened["started again"]++
	}
}

// startedAsAccepted is startedBy of a request that was started by the write which
// accepted it.
func (w *world) startedAsAccepted(id string, p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !p.dead {
		w.starter[id] = p
		w.happened["started as accepted"]++
	}
}

func (w *world) endedBy(what, id string, p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if by := w.starter[id]; by != p {
		w.brokeLocked("fence: p%d could %s %s, which p%d had started since", p.n, what, w.names[id], by.n)
	}
}

func (w *world) mayRedeliver(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.again[id] = true
}

// runs notes that the work of a request runs.
func (w *world) runs(ctx context.Context, p *process, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a := w.asked[n]; time.Now().Before(a.notBefore) {
		w.brokeLocked("r%d runs before %v", n, a.notBefore)
	}
	for _, other := range w.running[n] {
		if other.p == p && other.ctx.Err() == nil {
			w.brokeLocked("r%d runs twice at once in p%d", n, p.n)
		}
	}
	w.running[n] = append(slices.DeleteFunc(w.running[n], func(r *run) bool { return r.ctx.Err() != nil }), &run{p, ctx})
}

// came notes a callback that reached a receiver, and returns the request's id.
func (w *world) came(h http.Header, body []byte) string {
	var event webhook.Event
	err := json.Unmarshal(body, &event)
	w.mu.Lock()
	defer w.mu.Unlock()
	id := h.Get(webhook.HeaderID)
	switch {
	case err != nil:
		w.brokeLocked("a callback cannot be read: %v: %s", err, body)
	case webhook.Verify(h, body, time.Now(), simSecret) != nil:
		w.brokeLocked("the signature of a callback is not good: %s", body)
	case w.of[id] == nil || event.RequestID != id:
		w.brokeLocked("a callback has the webhook-id %q: %s", id, body)
	}
	row := w.rows[id]
	said := fmt.Sprintf("%s %s %v %v", event.Type, event.Result, event.Error, event.Timestamp)
	if before, ok := w.said[id]; ok && before != said {
		w.brokeLocked("the callback of %s says %s, and said %s", w.names[id], said, before)
	}
	w.said[id] = said
	if !row.Status.Worked() || row.Callback.State == tandem.CallbackNone {
		w.brokeLocked("a callback came for %s, which is %s and owes %q", w.names[id], row.Status, row.Callback.State)
	}
	if !bytes.Equal(event.Result, row.Result) || (event.Error != nil) != (row.Failure != nil) {
		w.brokeLocked("the callback of %s says %s, on record is %s %v", w.names[id], said, row.Result, row.Failure)
	}
	w.arrived[id]++
	return id
}

// answers notes a receiver's answer.
func (w *world) answers(id string, status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if status/100 == 2 {
		w.agreed[id]++
	}
}

// check compares the rows with those of the step before, and with what
// everybody knows.
func (w *world) check() {
	if w.live == nil || w.broken != "" {
		return
	}
	rows := w.rows
	if w.store.changed() {
		rows = w.readRows()
		w.checkCounters(rows)
	}
	w.mu.Lock()
	for id := range w.rows {
		if _, ok := rows[id]; !ok {
			w.brokeLocked("%s was on record and is lost", w.names[id])
		}
	}
	for id, after := range rows {
		if !w.rows[id].Callback.NextAt.Equal(after.Callback.NextAt) {
			w.planned[id] = time.Now()
		}
		if fault := w.checkRow(&after); fault != "" {
			w.brokeLocked("%s: %s: %s", w.names[id], fault, describe(&after))
		}
		if before, known := w.rows[id]; known {
			if fault := w.checkMove(&before, &after); fault != "" {
				w.brokeLocked("%s: %s:\n was %s\n  is %s", w.names[id], fault, describe(&before), describe(&after))
			}
		}
	}
	w.checkAsked(rows)
	w.rows = rows
	clear(w.rescued)
	w.mu.Unlock()
	w.bury()
}

// readRows reads what is on record.
func (w *world) readRows() map[string]tandem.Request {
	ctx := context.Background()
	page, err := w.live.backend.Requests(ctx, engine.Query{Caller: tandem.Anyone, Limit: 1000})
	if err != nil {
		w.broke("read the history: %v", err)
		return w.rows
	}
	rows := make(map[string]tandem.Request, len(page.Requests))
	for i := range page.Requests {
		r := &page.Requests[i]
		rows[r.ID] = *r
		if len(w.attempts[r.ID]) != r.Callback.Attempts {
			if w.attempts[r.ID], err = w.live.backend.Attempts(ctx, r.ID); err != nil {
				w.broke("read attempts: %v", err)
			}
		}
	}
	return rows
}

func describe(r *tandem.Request) string {
	text, err := json.Marshal(r)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// checkMove says what is wrong with what a step has made of a row.
func (w *world) checkMove(before, after *tandem.Request) string {
	moved := before.Status != after.Status
	start := moved && after.Status == tandem.Processing
	back := moved && after.Status == tandem.Pending
	if moved && !slices.Contains(before.Status.Moves(), after.Status) {
		return "this move is not in the table"
	}
	epoch, starts := before.Epoch, before.Starts
	switch {
	case start:
		epoch, starts = epoch+1, starts+1
	case back && !w.reopened && !w.rescued[after.ID]:
		starts--
	}
	if after.Epoch != epoch || after.Starts != starts {
		return fmt.Sprintf("it should have epoch %d and %d starts", epoch, starts)
	}
	if moved && after.Status.Worked() && after.Failure != nil {
		w.happened["failed: "+string(after.Failure.Code)]++
	}
	if before.Waited != after.Waited && after.Waited {
		return "a promise was taken back"
	}
	if before.Status.Worked() && (!bytes.Equal(before.Result, after.Result) || !sameFailure(before.Failure, after.Failure) || !before.WorkedAt.Equal(after.WorkedAt) || !before.StartedAt.Equal(after.StartedAt)) {
		return "the outcome has changed"
	}
	b, a := &before.Callback, &after.Callback
	if before.Settled() && (moved || b.State != a.State || b.Attempts != a.Attempts || !b.NextAt.Equal(a.NextAt)) {
		if !w.again[before.ID] || moved || a.State != tandem.CallbackPending || a.Attempts != b.Attempts {
			return "it was settled and has changed"
		}
		delete(w.again, before.ID)
	}
	if moved && after.Status.Worked() && after.Callback.State == tandem.CallbackGivenUp || b.State != a.State && a.State == tandem.CallbackGivenUp {
		w.happened["given up"]++
		if a.Attempts == b.Attempts {
			w.happened["given up unattempted"]++
		}
	}
	if a.Attempts < b.Attempts || a.Attempts > b.Attempts+1 {
		return "attempts are counted one by one"
	}
	return ""
}

func sameFailure(a, b *tandem.Failure) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// checkRow says what is wrong with a row as it stands.
func (w *world) checkRow(r *tandem.Request) string {
	cb := &r.Callback
	attempts := w.attempts[r.ID]
	a := w.of[r.ID]
	n := ordinalOf(r.Data)
	worked := r.Status.Worked()
	switch {
	case a == nil || a.n != n:
		return "nobody has asked for it"
	case a.refused:
		return "its caller was told that it was not taken"
	case r.Starts < 0 || r.Starts > tandem.MaxStarts:
		return "so many starts there may not be"
	case r.Status == tandem.Processing && r.Starts == 0:
		return "it runs without a start"
	case worked == r.WorkedAt.IsZero():
		return "the time of the outcome does not fit the status"
	case (r.Status == tandem.Failed) != (r.Failure != nil):
		return "the failure does not fit the status"
	case r.Status.Succeeded() && string(r.Result) != fmt.Sprintf(`{"r":%d}`, n):
		return "it has the result of another"
	case r.Failure != nil && r.Failure.Code == tandem.FailureCrashed && r.Starts != tandem.MaxStarts:
		return "it has not crashed often enough"
	case r.Mode == tandem.Async && !r.Waited && r.Failure != nil && (r.Failure.Code == tandem.FailureInterrupted || r.Failure.Code == tandem.FailureClientGone):
		return "it was promised, and given up for the service's own reasons"
	case w.reopened && !worked && r.Status == tandem.Processing:
		return "a restart has not taken it up"
	case r.Failure != nil && r.Failure.Code == tandem.FailureExpired && r.WorkedAt.Before(r.ExpiresAt):
		return "it has expired too early"
	case r.Mode == tandem.Async && cb.URL != "" && (cb.State == tandem.CallbackNone) != r.Waited:
		return "a callback is owed if and only if nobody waits for the outcome"
	case (r.Mode == tandem.Sync || cb.URL == "") && cb.State != tandem.CallbackNone:
		return "no callback was asked for"
	case cb.State == tandem.CallbackPending && cb.NextAt.IsZero() == worked:
		return "an attempt is due if and only if the work has ended"
	case cb.State != tandem.CallbackPending && !cb.NextAt.IsZero():
		return "an attempt is due although none is owed"
	case r.Status == tandem.Completed && (cb.State == tandem.CallbackDelivered || cb.State == tandem.CallbackGivenUp),
		r.Status == tandem.CallbackSent && cb.State == tandem.CallbackNone,
		r.Status == tandem.CallbackFailed && (cb.State == tandem.CallbackNone || cb.State == tandem.CallbackDelivered):
		return "the status does not fit the callback"
	case len(attempts) != cb.Attempts || cb.Attempts > cb.MaxAttempts:
		return fmt.Sprintf("%d attempts are on record", len(attempts))
	case cb.Attempts > w.arrived[r.ID]:
		return fmt.Sprintf("%d attempts have reached a receiver", w.arrived[r.ID])
	case cb.State == tandem.CallbackDelivered && w.agreed[r.ID] == 0:
		return "no receiver has answered 2xx"
	}
	for i, attempt := range attempts {
		if attempt.Number != i+1 {
			return fmt.Sprintf("attempt %d has number %d", i+1, attempt.Number)
		}
	}
	since := later(r.WorkedAt, cb.Since)
	switch gone := len(attempts) > 0 && attempts[len(attempts)-1].Class == tandem.ClassGone; {
	case cb.State == tandem.CallbackGivenUp && cb.Attempts < cb.MaxAttempts && !gone && time.Since(since) <= simMaxAge:
		return "it was given up too early"
	case !cb.NextAt.IsZero() && w.outlives(r.ID, later(since.Add(simMaxAge), cb.NextAt)):
		return "it should have been given up for its age"
	}
	return ""
}

// outlives reports whether a callback is owed although it has been too old, and
// due, since a time, and no step of the live process has it.
func (w *world) outlives(id string, since time.Time) bool {
	p := w.live
	if p.stopping || p.steps[id] > 0 {
		return false
	}
	for _, t := range []time.Time{w.planned[id], p.began, p.ends[id]} {
		since = later(since, t)
	}
	return time.Since(since) > simSlack
}

// checkAsked holds the rows against what callers were told.
func (w *world) checkAsked(rows map[string]tandem.Request) {
	holders := make(map[string][]string)
	for id, r := range rows {
		if a := w.of[id]; a != nil && a.key != "" && time.Since(r.CreatedAt) < engine.IdempotencyKept {
			holders[a.key] = append(holders[a.key], w.names[id])
		}
	}
	for key, names := range holders {
		if len(names) > 1 {
			w.brokeLocked("key %s stands for %v", key, names)
		}
	}
	for _, a := range w.asked {
		if a.id == "" {
			continue
		}
		r, ok := rows[a.id]
		switch {
		case !ok:
			w.brokeLocked("r%d was acknowledged and is lost", a.n)
		case a.answer != nil && (!r.Status.Worked() || !bytes.Equal(a.answer.Result, r.Result) || !sameFailure(a.answer.Failure, r.Failure)):
			w.brokeLocked("r%d: its caller was told %s, on record is %s", a.n, describe(a.answer), describe(&r))
		case a.canceled && (r.Failure == nil || r.Failure.Code != tandem.FailureCancelled):
			w.brokeLocked("r%d was cancelled, on record is %s", a.n, describe(&r))
		case a.safe && (r.Waited || a.callback && r.Callback.State == tandem.CallbackNone):
			w.brokeLocked("r%d was promised and is not treated so: %s", a.n, describe(&r))
		}
	}
}

// checkCounters compares the counters with the rows.
func (w *world) checkCounters(rows map[string]tandem.Request) {
	counts, err := w.live.backend.Counts(context.Background(), tandem.Anyone)
	if err != nil {
		w.broke("read the counters: %v", err)
		return
	}
	got, want := make(map[standing]sums), make(map[standing]sums)
	gotErrors, wantErrors := make(map[string]int64), make(map[string]int64)
	for id, r := range rows {
		key := standing{"", r.Mode, r.Status, r.Callback.State}
		want[key] = sums{want[key].n + 1, want[key].processing + r.ProcessingTime()}
		if r.Failure != nil {
			wantErrors["work "+string(r.Failure.Code)]++
		}
		for _, a := range w.attempts[id] {
			if a.Class != tandem.ClassNone {
				wantErrors["callback "+string(a.Class)]++
			}
		}
	}
	for _, c := range counts.Requests {
		key := standing{"", c.Mode, c.Status, c.Callback}
		got[key] = sums{got[key].n + c.N, got[key].processing + c.Processing}
	}
	maps.DeleteFunc(got, func(_ standing, s sums) bool { return s == sums{} })
	for _, e := range counts.Errors {
		gotErrors[e.Source+" "+e.Category] = e.N
	}
	if !maps.Equal(got, want) {
		w.broke("the counters are not those of the rows\n counters %v\n     rows %v", got, want)
	}
	if !maps.Equal(gotErrors, wantErrors) {
		w.broke("the error counters are not those of the rows\n counters %v\n     rows %v", gotErrors, wantErrors)
	}
}

func (w *world) allSettled() bool { return w.unsettled() == "" }

// unsettled names the requests to which something is still to happen.
func (w *world) unsettled() string {
	var all []string
	for _, r := range w.rows {
		if !r.Settled() {
			all = append(all, describe(&r))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// atRest wants a process with nothing to do to hold nothing any more.
func (w *world) atRest() {
	families, err := w.live.metrics.Gather()
	if err != nil {
		w.broke("gather metrics: %v", err)
		return
	}
	looked := 0
	for _, f := range families {
		switch f.GetName() {
		case "tandem_slots_busy", "tandem_in_flight", "tandem_abandoned_work", "tandem_queue_depth":
			for _, m := range f.GetMetric() {
				looked++
				if v := m.GetGauge().GetValue(); v != 0 {
					w.broke("at rest %s is %v", f.GetName(), v)
				}
			}
		}
	}
	if looked != 6 {
		w.broke("%d gauges were looked at, want 6", looked)
	}
	stats, err := w.live.engine.Stats(context.Background(), tandem.Anyone)
	if err != nil {
		w.broke("read stats: %v", err)
	}
	for _, h := range stats.Hosts {
		if h.InFlight != 0 {
			w.broke("at rest %d attempts are in flight to %s", h.InFlight, h.Host)
		}
	}
}
