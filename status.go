package tandem

// Status says where a request stands. docs/states.md tells the same story in
// pictures, and a test holds the two together.
type Status string

const (
	// Pending: accepted and on disk, not started. A worker moves it to
	// Processing; cancellation, expiry or too many interrupted starts move it
	// to Failed.
	Pending Status = "pending"
	// Processing: a worker, or a sync caller, is running it. It ends Completed
	// or Failed, and an async request whose worker died goes back to Pending.
	Processing Status = "processing"
	// Completed: the work succeeded. Final for sync and for async without a
	// callback; otherwise the callback's fate moves it on.
	Completed Status = "completed"
	// Failed: the work failed, was cancelled or expired. Final; a callback, if
	// one is owed, still tells so.
	Failed Status = "failed"
	// CallbackSent: completed, and the receiver answered 2xx. Final.
	CallbackSent Status = "callback_sent"
	// CallbackFailed: completed, and delivery was given up. Only a redelivery
	// moves it, to CallbackSent.
	CallbackFailed Status = "callback_failed"
)

// Statuses lists every status in the order a request meets them.
var Statuses = []Status{Pending, Processing, Completed, Failed, CallbackSent, CallbackFailed}

// moves is the one table of permitted transitions.
var moves = map[Status][]Status{
	Pending:        {Processing, Failed},
	Processing:     {Completed, Failed, Pending},
	Completed:      {CallbackSent, CallbackFailed},
	Failed:         {},
	CallbackSent:   {},
	CallbackFailed: {CallbackSent},
}

// Moves returns the statuses s may move to, in the order of the table.
func (s Status) Moves() []Status { return moves[s] }

// Worked reports whether the work has ended, well or not. Waiting for a
// request ends here.
func (s Status) Worked() bool { return s != Pending && s != Processing }

// Succeeded reports whether the work ended well, whatever became of its
// callback.
func (s Status) Succeeded() bool {
	return s == Completed || s == CallbackSent || s == CallbackFailed
}

// Settled reports whether nothing more will happen by itself: the request is
// worked and no callback is pending. Recovery and draining count the rest.
func (r *Request) Settled() bool {
	return r.Status.Worked() && r.Callback.State != CallbackPending
}
