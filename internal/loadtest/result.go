package loadtest

import (
	"errors"
	"fmt"
	"time"

	"tandem"
)

// Result is what a run measured. Nothing in it is estimated: what could not be
// measured is not there.
type Result struct {
	Version     int           `json:"version"` // of this format: 1
	Spec        Spec          `json:"spec"`
	Started     time.Time     `json:"started"`
	Duration    time.Duration `json:"duration_ns"`
	Environment Environment   `json:"environment"`
	Service     Service       `json:"service"`
	Sync        Arm           `json:"sync"`
	Async       Arm           `json:"async"`
	Callbacks   Callbacks     `json:"callbacks"`
}

// Environment is the machine that the load came from.
type Environment struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
	CPU  string `json:"cpu,omitempty"` // its model, where the system tells
	CPUs int    `json:"cpus"`          // that this process may use
	Go   string `json:"go"`
}

// Service is what the service says of itself.
type Service struct {
	URL     string `json:"url"`
	Version string `json:"version"`
	Backend string `json:"backend"`
	Durable bool   `json:"durable"` // a 202 survives power loss
}

// Arm is one mode's part of a run.
type Arm struct {
	Mode   tandem.Mode `json:"mode"`
	Ledger Ledger      `json:"ledger"`

	// Response is from when the sender was free to send until the answer was
	// read and found good: the result of a sync request, the 202 of an async
	// one. Uncorrected is the same from when the request was written.
	Response    Latency `json:"response"`
	Uncorrected Latency `json:"response_uncorrected"`
	// Completion is from when the sender was free to send until the outcome was
	// here: the answer of a sync request, the verified callback of an async one.
	Completion Latency `json:"completion"`

	Busy   time.Duration  `json:"busy_ns"` // all bursts of this mode, from the first request to the last outcome
	Errors map[string]int `json:"errors"`  // by category, see Category
	Usage  *Usage         `json:"usage"`   // of the service during these bursts; nil if it could not be measured
}

// Throughput is how many requests were completed per second of busy time.
// ok is false if none were.
func (a Arm) Throughput() (perSecond float64, ok bool) {
	if a.Ledger.Completed == 0 || a.Busy <= 0 {
		return 0, false
	}
	return float64(a.Ledger.Completed) / a.Busy.Seconds(), true
}

// Usage is what a process used.
type Usage struct {
	CPU       time.Duration `json:"cpu_ns"`          // user and system, of all its threads
	PeakBytes int64         `json:"peak_rss_bytes"`  // the largest resident memory that was seen
	Bursts    int           `json:"bursts_measured"` // over how many bursts
}

// Ledger accounts for every request of an arm:
//
//	planned  = sent + unsent
//	sent     = accepted + rejected + errored + timed out
//	accepted = completed + failed + missing
type Ledger struct {
	Planned  int `json:"planned"`
	Sent     int `json:"sent"`
	Unsent   int `json:"unsent"` // the run ended before
	Accepted int `json:"accepted"`
	Rejected int `json:"rejected"` // answered, and not taken up
	Errored  int `json:"errored"`  // no usable answer came
	TimedOut int `json:"timed_out"`

	Completed int `json:"completed"` // the work succeeded; async: a verified callback says so
	Failed    int `json:"failed"`    // the work failed; async: a verified callback says so
	Missing   int `json:"missing"`   // accepted, and its callback did not come
}

// Balance returns an error that names the equations that do not hold.
func (l Ledger) Balance() error {
	var faults []error
	equal := func(what string, left, right int) {
		if left != right {
			faults = append(faults, fmt.Errorf("%s: %d is not %d", what, left, right))
		}
	}
	equal("planned = sent + unsent", l.Planned, l.Sent+l.Unsent)
	equal("sent = accepted + rejected + errored + timed out", l.Sent, l.Accepted+l.Rejected+l.Errored+l.TimedOut)
	equal("accepted = completed + failed + missing", l.Accepted, l.Completed+l.Failed+l.Missing)
	return errors.Join(faults...)
}

// Callbacks accounts for what reached the receiver.
type Callbacks struct {
	Received   int `json:"received"`   // in all
	Verified   int `json:"verified"`   // first callbacks of a request, with a good signature
	Duplicates int `json:"duplicates"` // verified too, but not the first; at-least-once delivery allows them
	Refused    int `json:"refused"`    // the signature, its age or the body was wrong
	Unknown    int `json:"unknown"`    // for no request of this run
	// OfUnacknowledged are verified callbacks of posts that errored or timed
	// out: the service had accepted them, and the sender does not know.
	OfUnacknowledged int `json:"of_unacknowledged"`

	MissingIDs []string `json:"missing_ids"` // the first thousand
}

// maxMissingIDs bounds Callbacks.MissingIDs.
const maxMissingIDs = 1000

// Category sorts what went wrong with a request.
const (
	CategoryConnect      = "connect"       // no connection, or it broke
	CategoryTimeout      = "timeout"       // no answer in time
	CategoryRateLimited  = "429"           // refused, to be sent later
	CategoryClient       = "4xx"           // refused for good
	CategoryServer       = "5xx"           // refused or failed by the service
	CategoryBadAnswer    = "bad_answer"    // not the answer that was agreed
	CategoryWork         = "work"          // the work itself failed
	CategoryBadSignature = "bad_signature" // a callback that did not verify
	CategoryMissing      = "missing"       // a callback that did not come
)
