package tandem

import "time"

// CallbackState says where the message owed to a callback URL stands. It moves
// apart from the request's status, so that a failed work whose failure was
// reported reads status failed, callback sent.
type CallbackState string

const (
	CallbackNone      CallbackState = "none"    // nothing was asked for
	CallbackPending   CallbackState = "pending" // owed: not worked yet, or between attempts
	CallbackDelivered CallbackState = "sent"    // the receiver answered 2xx
	CallbackGivenUp   CallbackState = "failed"  // the last attempt failed, or the receiver said 410
)

// CallbackStates lists every state in the order a callback meets them.
var CallbackStates = []CallbackState{CallbackNone, CallbackPending, CallbackDelivered, CallbackGivenUp}

// Callback is the message a request owes to its caller.
type Callback struct {
	URL         string
	State       CallbackState
	Attempts    int       // attempts made so far
	MaxAttempts int       // attempts after which it is given up
	NextAt      time.Time // when the next attempt is due; zero if none is. Of one just planned it has a monotonic reading, which no clock that is set meanwhile moves
	LastStatus  int       // HTTP status of the last answer; 0 if there was none
	LastError   string    // why the last attempt failed; empty if it did not

	// What the caller asked for. Zero means the service's own.
	Timeout time.Duration     // of one attempt
	Header  map[string]string // further headers of each attempt

	// Since is when it was last asked for again, after it was sent or given up;
	// zero: never.
	Since time.Time
}

// Attempt is one try at delivering a callback.
type Attempt struct {
	Number   int // 1 for the first
	At       time.Time
	Duration time.Duration
	Status   int        // HTTP status of the answer; 0 if there was none
	Class    ErrorClass // ClassNone if the receiver answered 2xx
	Error    string     // what went wrong, for people
	Answer   []byte     // the first KiB of the answer's body
}

// ErrorClass sorts failed attempts by what went wrong.
type ErrorClass string

const (
	ClassNone     ErrorClass = ""         // answered 2xx
	ClassDNS      ErrorClass = "dns"      // the name did not resolve
	ClassConnect  ErrorClass = "connect"  // no connection, or it was reset
	ClassTLS      ErrorClass = "tls"      // the certificate or handshake failed
	ClassTimeout  ErrorClass = "timeout"  // no complete answer in time
	ClassProtocol ErrorClass = "protocol" // the answer was not HTTP
	ClassDenied   ErrorClass = "denied"   // the egress guard refused the address
	ClassRedirect ErrorClass = "redirect" // 3xx; redirects are never followed
	ClassClient   ErrorClass = "4xx"
	ClassGone     ErrorClass = "gone"         // 410: the receiver wants no more
	ClassLimited  ErrorClass = "rate_limited" // 429
	ClassServer   ErrorClass = "5xx"
	ClassInternal ErrorClass = "internal" // our fault: it could not be written or signed, and was not sent
)
