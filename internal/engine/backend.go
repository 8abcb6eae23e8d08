package engine

import (
	"context"
	"time"

	"tandem"
	"tandem/internal/callback"
)

// Store keeps requests, their attempts and the counters over them. All methods
// may be called at once from many goroutines.
//
// A write returns nil only once it is committed. It returns
// tandem.CodeConflict, having changed nothing, if the request is no longer in
// the state it expects; CodeUnavailable if storage could not be written; and
// CodeUnknown if ctx ended before the outcome was known, in which case the
// write may still happen. One failing write never fails another.
//
// Every write that moves a request changes the counters in the same
// transaction, so that no crash can part them.
type Store interface {
	// Accept commits a pending async request and wakes a worker for it. It
	// returns CodeBusy, with a time to come back, when the backlog is full.
	Accept(ctx context.Context, req *tandem.Request) error
	// Claim commits a request - a pending async one, as Accept does, or a sync
	// one that is processing - together with the Idempotency-Key of its owner
	// that it was submitted under. If a request of the last IdempotencyKept
	// holds the key, Claim changes nothing and returns that one's id; or
	// ErrKeyReused, if the two have different fingerprints.
	Claim(ctx context.Context, req *tandem.Request, key IdempotencyKey) (holder string, err error)
	// Begin notes a sync request as processing. It does not wait: the
	// request's Complete writes the whole row if this note was lost.
	Begin(req *tandem.Request)
	// Start moves a pending request to processing: it counts a start, raises
	// the epoch and fills both in, with StartedAt as given.
	Start(ctx context.Context, req *tandem.Request) error
	// Requeue gives a started async request back as pending and takes back the
	// start that Start counted, because the work did not bring it about.
	Requeue(ctx context.Context, req *tandem.Request) error
	// Complete records the outcome and, in the same transaction, the debt of a
	// callback (Callback.NextAt, if it is set). It expects the row processing
	// at req.Epoch.
	Complete(ctx context.Context, req *tandem.Request) error
	// Fail moves a pending request to failed without its work having begun,
	// with its Failure, WorkedAt and the debt of a callback as given.
	Fail(ctx context.Context, req *tandem.Request) error
	// Release makes a request that a caller waits for a promise: it is no longer
	// Waited, and owes its callback. It returns CodeConflict if it is worked.
	Release(ctx context.Context, req *tandem.Request) error
	// Redeliver makes a callback that was sent or given up owed again, with
	// NextAt, Since and MaxAttempts as given, and wakes whoever delivers it. It
	// expects the Status and the Callback.State given.
	Redeliver(ctx context.Context, req *tandem.Request) error
	// Interrupt asks the process that works a request, if that is another one,
	// to stop, because of FailureCancelled or FailureClientGone. It does not wait
	// for it, and does nothing to a request that is not being processed.
	Interrupt(ctx context.Context, id string, why tandem.FailureCode) error
	// RecordAttempt appends a delivery attempt and moves the request to the
	// Status and Callback given in req. It expects a callback pending with
	// a.Number-1 attempts made.
	RecordAttempt(ctx context.Context, req *tandem.Request, a tandem.Attempt) error

	// Holder returns the id of the request that holds an owner's
	// Idempotency-Key, "" if none does, or ErrKeyReused.
	Holder(ctx context.Context, owner string, key IdempotencyKey) (id string, err error)
	// Request returns the whole record, or CodeNotFound.
	Request(ctx context.Context, id string) (tandem.Request, error)
	// Requests returns one page of the caller's requests, newest first. It ends
	// where it has Query.Limit of them, or once they weigh MaxPage.
	Requests(ctx context.Context, q Query) (Page, error)
	// Attempts returns a request's delivery attempts, first one first, or
	// CodeNotFound if there is no such request.
	Attempts(ctx context.Context, id string) ([]tandem.Attempt, error)
	// Counts reads the counters of the caller's requests. Its cost does not grow
	// with the history.
	Counts(ctx context.Context, who tandem.Caller) (Counts, error)
	// Watch returns a channel that is closed when the request is next worked.
	// It reports moves from the call on: watch first, then look. stop frees
	// what the watch holds.
	Watch(id string) (worked <-chan struct{}, stop func())
	// Backlog returns how many accepted requests wait to be started, and since
	// when the oldest of them does; zero time if none. One waits from its NotBefore
	// on, not before.
	Backlog(ctx context.Context) (n int, oldest time.Time, err error)
	// Ready returns nil if the store can be written.
	Ready(ctx context.Context) error
}

// What a Store answers beside ErrKeyReused.
var (
	ErrNotFound = &tandem.Error{Code: tandem.CodeNotFound, Message: "there is no such request"}
	ErrMovedOn  = &tandem.Error{Code: tandem.CodeConflict, Message: "the request has moved on"}
	ErrFull     = &tandem.Error{Code: tandem.CodeBusy, Message: "the backlog is full", RetryAfter: 5 * time.Second}
	ErrClosed   = &tandem.Error{Code: tandem.CodeDraining, Message: "the database is closed"}
)

// Backend is a Store that also decides when steps run.
type Backend interface {
	Store
	// Name is what /stats and /healthz call it: embedded or distributed.
	Name() string
	// Durable reports whether what is committed survives power loss.
	Durable() bool
	// Run takes up every request that is not settled and runs the steps it is
	// owed, until ctx ends; then it takes up no more, waits for the steps that
	// run, and returns nil. The steps' context is not cancelled with ctx. Of one
	// request no two attempts are under way at once, in whatever processes.
	//
	// From time to time it gives up the callbacks that Steps.TooOld tells of, but
	// for those that are being attempted: as RecordAttempt would, without an
	// attempt, and with LastTooOld for the last error.
	Run(ctx context.Context, steps Steps) error
	// Close commits what is queued and frees what the backend holds. Call it
	// after Run has returned.
	Close() error
}

// Steps is what a Backend runs. Engine implements it; tests of a Backend
// inject their own to see when it runs what.
type Steps interface {
	// Reserve waits for room to start one more async request of the lane, and
	// returns ctx's cause if there was none in time. Process gives it back.
	Reserve(ctx context.Context, lane string) error
	// Unreserve gives back what was reserved, if no request is processed after
	// all.
	Unreserve(lane string)
	// Process runs the work of a pending request, or of one that the backend has
	// started as it was accepted, and records the outcome; the
	// callback's debt is then in req.Callback. Call it once per Reserve. Its
	// errors are the Store's: on CodeConflict the request has moved on, after
	// any other the request is still the backend's to run again.
	Process(ctx context.Context, req *tandem.Request) error
	// Admit asks for one delivery attempt to the host. Unless it is admitted,
	// the host is to be left alone until Admission.Until or, if that is zero,
	// until one of its attempts ends.
	Admit(host string) Admission
	// Leave gives back what was admitted to a host, if no attempt is made after
	// all.
	Leave(host string)
	// Deliver makes one attempt and records it; req.Callback then says whether
	// and when another is due. A request of which only the ID is given is read
	// first. Call it once per Admit, with the same host, unless you Leave. It returns
	// CodeConflict if no attempt is owed; after any other error it still is.
	Deliver(ctx context.Context, host string, req *tandem.Request) error
	// TooOld says which callbacks are given up without a further attempt: those
	// that are owed since before the one time, by Callback.Since or else WorkedAt,
	// and due since before the other. Zero times say that none is.
	TooOld() (owed, due time.Time)
	// Interrupt stops the work of a request, if it runs in this process, as
	// Store.Interrupt was asked to.
	Interrupt(id string, why tandem.FailureCode)
	// Breaker returns what this process knows of a host, and SetBreaker tells
	// it what the processes that share the store know together.
	Breaker(host string) callback.Breaker
	SetBreaker(host string, b callback.Breaker)
}

// LastTooOld is the last error of a callback that Steps.TooOld told of.
const LastTooOld = "it was too old before a further attempt could be made"

// Admission is the answer of Steps.Admit.
type Admission struct {
	OK    bool
	Until time.Time
}

// Query selects a page of the history.
type Query struct {
	Caller tandem.Caller // whose requests
	Mode   tandem.Mode   // empty for both
	Status tandem.Status // empty for all

	Callback tandem.CallbackState // empty for all
	Host     string               // of the callback, as HostOf returns it; empty for all
	From, To time.Time            // worked in [From, To); zero: at any time

	Limit  int    // 1..1000; a page may hold fewer
	Offset int    // rows to skip, at most 10,000
	Cursor string // Page.Next of the page before; excludes Offset
}

// Page is one page of the history.
type Page struct {
	Requests []tandem.Request
	Next     string // cursor of the next page; empty on the last
}

// MaxPage bounds what a page takes in memory, in bytes: the request with which it
// weighs as much is its last.
const MaxPage = 8 << 20

// Weight is about what a request takes in memory, in bytes.
func Weight(req *tandem.Request) int {
	const all = 1 << 10 // that is short
	n := all + len(req.Data) + len(req.Result) + len(req.Callback.URL)
	for name, value := range req.Callback.Header {
		n += len(name) + len(value)
	}
	return n
}

// Counts is what the counters say.
type Counts struct {
	Requests []RequestCount
	Errors   []ErrorCount
	Pruned   int64 // requests deleted because they were old; Requests counts what is kept
}

// RequestCount counts the requests that stand alike.
type RequestCount struct {
	Mode       tandem.Mode
	Status     tandem.Status
	Callback   tandem.CallbackState
	N          int64
	Processing time.Duration // sum over those that are worked
}

// ErrorCount counts the errors of one category since the database was made.
type ErrorCount struct {
	Source   string // "work" or "callback"
	Category string // a tandem.FailureCode or tandem.ErrorClass
	N        int64
}
