package loadtest

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// newBook is a book, and the last request that was completed.
func newBook() (b *book, last *joined) {
	last = &joined{}
	return &book{arrival: make(chan struct{}, 1), noted: func(arrivalKind) {}, completed: func(j joined) { *last = j }}, last
}

func missingOf(b *book) *missing {
	m := &missing{}
	b.close(m)
	return m
}

func TestABookJoinsWhateverComesFirst(t *testing.T) {
	b, last := newBook()
	cb := func(id string) callback { return callback{first: 5, verified: 6, id: id, completed: true} }
	want := func(what string, kind arrivalKind, got arrivalKind) {
		t.Helper()
		if got != kind {
			t.Errorf("%s is %d, want %d", what, got, kind)
		}
	}
	kind := func(seq int, id string) arrivalKind { return b.came(seq, cb(id)) }

	want("a callback of nothing", unexpected, kind(0, "x"))
	want("a callback of a negative number", unexpected, kind(-1, "x"))
	want("a callback of far away", unexpected, kind(1<<40, "x"))

	b.post(0, 1, nil)
	b.accepted(0, "a", 2)
	if b.backlog() != 1 {
		t.Errorf("the backlog is %d, want 1", b.backlog())
	}
	want("a callback for another request", wrongRequest, kind(0, "z"))
	want("the callback", first, kind(0, "a"))
	if j := *last; j.at != 1 || j.answered != 2 || j.first != 5 || b.backlog() != 0 {
		t.Errorf("joined %+v, the backlog is %d", j, b.backlog())
	}
	want("the same again", duplicate, kind(0, "a"))

	b.post(1, 1, nil)
	want("a callback before the answer", beforeAnswer, kind(1, "b"))
	want("the same again", duplicate, kind(1, "b"))
	if complete, wrong := b.accepted(1, "b", 9); !complete || wrong || last.answered != 9 || last.first != 5 {
		t.Errorf("joined %+v, %v, %v", *last, complete, wrong)
	}

	b.post(2, 1, nil)
	want("a callback before the answer", beforeAnswer, kind(2, "of another"))
	if complete, wrong := b.accepted(2, "c", 9); complete || !wrong {
		t.Error("the answer names another request, and they are joined")
	}
	want("its own callback", first, kind(2, "c"))

	b.post(3, 1, nil)
	if b.lost(3) {
		t.Error("a callback is here that never came")
	}
	want("a callback of a lost post", unacknowledged, kind(3, "d"))
	b.post(4, 1, nil)
	kind(4, "e")
	if !b.lost(4) {
		t.Error("a callback was here before its post was lost, and is forgotten")
	}

	b.post(5, 1, nil)
	b.refused(5)
	want("a callback of a refused post", unexpected, kind(5, "f"))
	b.post(6, 1, nil)
	b.accepted(6, "g", 2)
	b.post(7, 1, nil)
	b.accepted(7, "", 2)
	if m := missingOf(b); m.count != 2 || !slices.Equal(m.ids, []string{"g", "#7"}) {
		t.Errorf("missing are %d, %v", m.count, m.ids)
	}
	want("a callback when the missing are counted", tooLate, kind(6, "g"))
}

func TestABookKnowsWhatWasGivenUp(t *testing.T) {
	b, last := newBook()
	told := make(chan struct{}, 1)
	for seq, givenUp := range []bool{true, false} {
		b.post(seq, 1, told)
		b.accepted(seq, "", 2)
		if b.unwatch(seq, givenUp) {
			t.Error("the caller was told of what has not come")
		}
		b.came(seq, callback{})
		if last.givenUp != givenUp || len(told) > 0 {
			t.Errorf("joined %+v, told %d times; want it given up: %v", *last, len(told), givenUp)
		}
	}
	b.post(2, 1, told)
	b.accepted(2, "", 2)
	b.came(2, callback{})
	if !b.unwatch(2, true) || last.givenUp {
		t.Error("it was given up after it had come")
	}
}

// Whoever is told that a request is settled may add up at once.
func TestABookRecordsBeforeItTells(t *testing.T) {
	b, _ := newBook()
	var noted []arrivalKind
	b.noted = func(k arrivalKind) { noted = append(noted, k) }
	told := make(chan struct{}, 1)
	completed := 0
	b.completed = func(joined) {
		completed++
		if len(noted) != completed {
			t.Errorf("completed for the time %d, after %d callbacks were noted", completed, len(noted))
		}
		if len(told) > 0 || len(b.arrival) > 0 {
			t.Error("somebody was told before the request was recorded")
		}
	}
	b.post(0, 1, told)
	b.accepted(0, "a", 2)
	b.came(0, callback{id: "a"})
	<-told
	b.post(1, 1, told)
	b.came(1, callback{id: "b"})
	if completed != 1 {
		t.Errorf("%d are completed, and one of them has no answer", completed)
	}
	<-b.arrival
	b.accepted(1, "b", 2)
	<-told
	if completed != 2 {
		t.Errorf("%d are completed, want 2", completed)
	}
}

func TestABookForgetsWhatIsSettled(t *testing.T) {
	b, _ := newBook()
	const n = 100 * pageSize
	order := rand.New(rand.NewPCG(1, 1)).Perm(500)
	for from := 0; from < n; from += len(order) {
		for _, i := range order {
			b.post(from+i, 1, nil)
			b.accepted(from+i, "", 2)
		}
		for _, i := range order {
			if k := b.came(from+i, callback{}); k != first {
				t.Fatalf("callback %d is %d", from+i, k)
			}
		}
	}
	kept := 0
	for _, p := range b.pages {
		if p != nil {
			kept++
		}
	}
	if k := b.came(7, callback{}); k != duplicate {
		t.Errorf("a second callback of a forgotten request is %d", k)
	}
	if m := missingOf(b); kept > 1 || m.count != 0 {
		t.Errorf("%d pages are kept of %d, %d missing", kept, len(b.pages), m.count)
	}
}

func TestABookListsTheFirstThousandMissing(t *testing.T) {
	b, _ := newBook()
	for i := range 2500 {
		b.post(i, 1, nil)
		b.accepted(i, "", 2)
	}
	if m := missingOf(b); m.count != 2500 || len(m.ids) != 1000 || m.ids[999] != "#999" {
		t.Errorf("%d missing, %d listed", m.count, len(m.ids))
	}
}

func TestAwaitEndsWhenNothingComesAnyMore(t *testing.T) {
	b, _ := newBook()
	b.post(0, 1, nil)
	b.accepted(0, "a", 2)
	b.await(10*time.Millisecond, nil) // returns
	done := make(chan struct{})
	close(done)
	b.await(time.Hour, done)
	go b.came(0, callback{id: "a"})
	b.await(time.Hour, nil)
	if b.backlog() != 0 {
		t.Error("it returned before the callback came")
	}
}
