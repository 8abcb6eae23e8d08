package store_test

import (
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"tandem"
	"tandem/internal/store"
)

func TestANoteIsEitherTakenOrDropped(t *testing.T) {
	var notes store.Notes
	taken := notes.Add("req_taken")
	for range 2 { // its transaction may be tried again
		if !taken.Take() {
			t.Error("a note that waits is not to be written")
		}
	}
	if notes.Drop("req_taken") {
		t.Error("a note that was taken was dropped")
	}
	dropped := notes.Add("req_dropped")
	if !notes.Drop("req_dropped") {
		t.Error("a note that waits was not dropped")
	}
	if dropped.Take() {
		t.Error("a note that was dropped is to be written")
	}
	if notes.Drop("req_dropped") || notes.Drop("req_unknown") {
		t.Error("a note that is not there was dropped")
	}
}

func TestEveryWatcherOfARequestIsToldOnce(t *testing.T) {
	var w store.Watchers
	first, stopFirst := w.Watch("req_a")
	second, stopSecond := w.Watch("req_a")
	left, stopLeft := w.Watch("req_a")
	other, stopOther := w.Watch("req_b")
	stopLeft()
	if got := slices.Sorted(slices.Values(w.IDs())); !slices.Equal(got, []string{"req_a", "req_b"}) {
		t.Errorf("watched are %v", got)
	}
	w.Tell("req_a")
	w.Tell("req_a") // nobody watches any more
	for name, c := range map[string]struct {
		told <-chan struct{}
		want bool
	}{"the first": {first, true}, "the second": {second, true}, "one that has left": {left, false}, "another request's": {other, false}} {
		select {
		case <-c.told:
			if !c.want {
				t.Errorf("%s watcher was told", name)
			}
		default:
			if c.want {
				t.Errorf("%s watcher was not told", name)
			}
		}
	}
	stopFirst()
	stopSecond()
	stopOther()
	stopOther()
	if got := w.IDs(); len(got) != 0 {
		t.Errorf("when all have left, watched are %v", got)
	}
}

func TestATallyAddsUpWhatATransactionChanges(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	req := &tandem.Request{Owner: "alice", Mode: tandem.Async, Status: tandem.Completed, StartedAt: at, WorkedAt: at.Add(5 * time.Microsecond)}
	sync := &tandem.Request{Owner: "alice", Mode: tandem.Sync}
	tally := store.NewTally()
	tally.Count(req, tandem.Pending, tandem.CallbackNone, -1)
	tally.Count(req, tandem.Processing, tandem.CallbackNone, +1)
	tally.Count(req, tandem.Processing, tandem.CallbackNone, -1)
	tally.Count(req, tandem.Completed, tandem.CallbackNone, +1)
	tally.Count(req, tandem.Completed, tandem.CallbackNone, +1)
	tally.Count(sync, tandem.Pending, tandem.CallbackNone, +1) // waits for nothing
	tally.CountError(req, "work", "boom")
	tally.CountError(req, "work", "boom")
	want := map[store.Standing]store.Change{
		{"alice", tandem.Async, tandem.Pending, tandem.CallbackNone}:    {Requests: -1},
		{"alice", tandem.Async, tandem.Processing, tandem.CallbackNone}: {},
		{"alice", tandem.Async, tandem.Completed, tandem.CallbackNone}:  {Requests: 2, ProcessingMicros: 10},
		{"alice", tandem.Sync, tandem.Pending, tandem.CallbackNone}:     {Requests: 1},
	}
	if !maps.Equal(tally.Requests, want) {
		t.Errorf("the requests are %v, want %v", tally.Requests, want)
	}
	if tally.Pending != -1 {
		t.Errorf("by %d more wait, want -1", tally.Pending)
	}
	if n := tally.Errors[store.Category{Owner: "alice", Source: "work", Name: "boom"}]; n != 2 {
		t.Errorf("%d errors, want 2", n)
	}

	pruned := store.NewTally()
	req.Callback.State = tandem.CallbackDelivered
	pruned.Prune(req)
	standing := store.Standing{Owner: "alice", Mode: tandem.Async, Status: tandem.Completed, Callback: tandem.CallbackDelivered}
	if got := pruned.Requests[standing]; got != (store.Change{Requests: -1, ProcessingMicros: -5}) || pruned.Pruned["alice"] != 1 {
		t.Errorf("a pruned request changes %v and %v", pruned.Requests, pruned.Pruned)
	}
}

func TestCallbackOptionsComeBackAsTheyWere(t *testing.T) {
	for _, c := range []struct {
		name string
		cb   tandem.Callback
		text string
	}{
		{"no options are no text", tandem.Callback{}, ""},
		{"a timeout", tandem.Callback{Timeout: 1500 * time.Millisecond}, `{"timeout_ms":1500}`},
		{"a header", tandem.Callback{Header: map[string]string{"X-Tenant": "a"}}, `{"header":{"X-Tenant":"a"}}`},
	} {
		text := store.CallbackOptions(&c.cb)
		if text != c.text {
			t.Errorf("%s: the column is %q, want %q", c.name, text, c.text)
		}
		var got tandem.Callback
		if err := store.ReadCallbackOptions(&got, text); err != nil || got.Timeout != c.cb.Timeout || !maps.Equal(got.Header, c.cb.Header) {
			t.Errorf("%s: comes back as %+v, %v", c.name, got, err)
		}
	}
	if err := store.ReadCallbackOptions(&tandem.Callback{}, "{"); err == nil {
		t.Error("a damaged column is read without an error")
	}
}

func TestACursorIsTheRowBeforeItsPage(t *testing.T) {
	for _, seq := range []int64{1, 35, 36, math.MaxInt64} {
		if got, err := store.ReadCursor(store.Cursor(seq)); got != seq || err != nil {
			t.Errorf("the cursor of %d reads %d, %v", seq, got, err)
		}
	}
	if got, err := store.ReadCursor(""); got != math.MaxInt64 || err != nil {
		t.Errorf("no cursor reads %d, %v, want all rows", got, err)
	}
	for _, bad := range []string{"0", "-1", "a b", "!", "zzzzzzzzzzzzzzz"} {
		if _, err := store.ReadCursor(bad); tandem.CodeOf(err) != tandem.CodeInvalid {
			t.Errorf("the cursor %q gives %v, want invalid", bad, err)
		}
	}
}
