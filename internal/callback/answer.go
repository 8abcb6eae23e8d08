package callback

import (
	"time"

	"tandem"
)

// Answer is what became of one attempt.
type Answer struct {
	At       time.Time     // when the attempt began
	Duration time.Duration // until the answer's body ended, or the attempt was given up

	Status int               // HTTP status; 0 if no answer's headers came
	Class  tandem.ErrorClass // ClassNone if and only if the receiver answered 2xx
	Error  string            // what went wrong, for people: no credentials, no query; empty with ClassNone
	Body   []byte            // the first KeptBody bytes of the answer's body

	// RetryAfter is how long the receiver asked to be left alone, at most
	// MaxRetryAfter; zero if it did not ask, and with a 2xx.
	RetryAfter time.Duration

	// Interrupted says that the context given to Send ended before the
	// receiver had answered. Nothing is known about the receiver then: the
	// attempt should be neither spent nor held against its host.
	Interrupted bool
}

// Verdict is what an answer means for the callback.
type Verdict int

const (
	Retry     Verdict = iota // not delivered: try again while the policy allows
	Delivered                // the receiver has it
	Stop                     // not delivered, and the receiver wants no further attempt
)

func (v Verdict) String() string {
	return [...]string{"retry", "delivered", "stop"}[v]
}

// Judge says what to do after an answer. Any 2xx is delivered, 410 Gone stops,
// and everything else is tried again, as Standard Webhooks asks: a receiver
// that answers 404 or 401 today may be half deployed, and an address that the
// egress guard refuses may be another one when the name is resolved next.
func Judge(a Answer) Verdict { return judgements[a.Class].verdict }

// Sign is what an attempt tells of its host's health.
type Sign int

const (
	Silent Sign = iota // nothing: it was not sent, or was cut off
	Well
	Ill
)

func (s Sign) String() string {
	return [...]string{"silent", "well", "ill"}[s]
}

// SignOf says whether the host of an answer is ill: it gave no connection, no
// proper answer, a 5xx or 429. Other 4xx and redirects are the answers of a
// healthy host to one caller's URL, and must not close the host to the others. A
// refused address, a fault of ours and an interrupted attempt say nothing about
// it: they neither open a breaker nor close one.
func SignOf(a Answer) Sign {
	if a.Interrupted {
		return Silent
	}
	return judgements[a.Class].sign
}

// judgements is the one table of what follows from each class. A class that is
// not in it is tried again and says nothing about the host.
var judgements = map[tandem.ErrorClass]struct {
	verdict Verdict
	sign    Sign
}{
	tandem.ClassNone:     {Delivered, Well},
	tandem.ClassDNS:      {Retry, Ill},
	tandem.ClassConnect:  {Retry, Ill},
	tandem.ClassTLS:      {Retry, Ill},
	tandem.ClassTimeout:  {Retry, Ill},
	tandem.ClassProtocol: {Retry, Ill},
	tandem.ClassDenied:   {Retry, Silent},
	tandem.ClassRedirect: {Retry, Well},
	tandem.ClassClient:   {Retry, Well},
	tandem.ClassGone:     {Stop, Well},
	tandem.ClassLimited:  {Retry, Ill},
	tandem.ClassServer:   {Retry, Ill},
	tandem.ClassInternal: {Retry, Silent},
}
