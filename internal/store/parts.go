package store

import (
	"tandem"
	"tandem/internal/engine"
)

// Part is requests that one index has in the order of seq, newest last: those of a
// Set, of a mode and a status if they are not empty.
type Part struct {
	Set    Set
	Mode   tandem.Mode
	Status tandem.Status
}

// Set is what a Part is taken from.
type Set int

const (
	// ByStanding has an index by mode and status, of all requests and of each
	// owner's. Its parts have both.
	ByStanding Set = iota
	// Everything is all requests, in the order of seq alone.
	Everything
	// Owed, GivenUp and ToldOfFailure are small in a history of any length, and
	// have an index of their own: requests that are worked and owe a callback, those
	// whose callback was given up, and failed ones whose callback was delivered.
	Owed
	GivenUp
	ToldOfFailure
)

// Parts returns where the requests are that a Query asks for: in one of them each,
// and beside others that it does not ask for by owner, by what no index knows - the
// host of a callback, when a request was worked - and by where the callback stands.
func Parts(q engine.Query) (parts []Part) {
	standing := func(modes []tandem.Mode, statuses []tandem.Status) {
		for _, mode := range modes {
			for _, status := range statuses {
				if (q.Mode == "" || q.Mode == mode) && (q.Status == "" || q.Status == status) {
					parts = append(parts, Part{ByStanding, mode, status})
				}
			}
		}
	}
	of := func(set Set) { parts = append(parts, Part{set, q.Mode, q.Status}) }
	switch {
	case q.Callback == tandem.CallbackPending: // of those that are not worked yet, and of those that are
		standing([]tandem.Mode{tandem.Async}, []tandem.Status{tandem.Pending, tandem.Processing})
		of(Owed)
	case q.Callback == tandem.CallbackDelivered:
		standing([]tandem.Mode{tandem.Async}, []tandem.Status{tandem.CallbackSent})
		of(ToldOfFailure)
	case q.Callback == tandem.CallbackGivenUp:
		of(GivenUp)
	case q.Callback == "" && q.Mode == "" && q.Status == "" && q.Caller.Admin:
		of(Everything)
	default:
		standing(tandem.Modes, tandem.Statuses)
	}
	return parts
}
