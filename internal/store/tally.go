package store

import "tandem"

// Tally is what one transaction changes of the counters. They are written once,
// at its end, so that requests that move alike share a write.
type Tally struct {
	Requests map[Standing]Change
	Errors   map[Category]int64
	Pruned   map[string]int64 // by owner
	Pending  int              // by how many more requests wait to be started
}

// Standing is what requests are counted by.
type Standing struct {
	Owner    string
	Mode     tandem.Mode
	Status   tandem.Status
	Callback tandem.CallbackState
}

// Change is how much a counter of requests is raised. The zero value changes
// nothing: what one request adds, another may take away.
type Change struct{ Requests, ProcessingMicros int64 }

// Category is what errors are counted by.
type Category struct{ Owner, Source, Name string }

// NewTally returns one that changes nothing yet.
func NewTally() Tally {
	return Tally{Requests: make(map[Standing]Change), Errors: make(map[Category]int64), Pruned: make(map[string]int64)}
}

// Count adds n requests that stand as req does, but with the given status and
// callback state.
func (t *Tally) Count(req *tandem.Request, status tandem.Status, cb tandem.CallbackState, n int64) {
	key := Standing{req.Owner, req.Mode, status, cb}
	c := t.Requests[key]
	c.Requests += n
	if status.Worked() {
		c.ProcessingMicros += n * req.ProcessingTime().Microseconds()
	}
	t.Requests[key] = c
	if req.Mode == tandem.Async && status == tandem.Pending {
		t.Pending += int(n)
	}
}

// CountError adds an error of a request: of the source "work" or "callback".
func (t *Tally) CountError(req *tandem.Request, source, name string) {
	t.Errors[Category{req.Owner, source, name}]++
}

// GiveUp counts a request whose callback was given up without an attempt, as it
// stands now: anew, if it was owed after a redelivery.
func (t *Tally) GiveUp(req *tandem.Request, anew bool) {
	before := req.Status
	if before == tandem.CallbackFailed && !anew {
		before = tandem.Completed
	}
	t.Count(req, before, tandem.CallbackPending, -1)
	t.Count(req, req.Status, req.Callback.State, +1)
}

// Prune takes away a request that is deleted because it was old.
func (t *Tally) Prune(req *tandem.Request) {
	t.Count(req, req.Status, req.Callback.State, -1)
	t.Pruned[req.Owner]++
}
