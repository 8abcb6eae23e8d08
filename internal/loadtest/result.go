package loadtest

import (
	"errors"
	"fmt"
	"time"

	"tandem"
)

// Result is what one run measured. Nothing in it is estimated: what could not
// be measured is not there.
type Result struct {
	Spec     Spec          `json:"spec"`
	Started  time.Time     `json:"started"`
	Duration time.Duration `json:"duration_ns"` // with the wait for the last callbacks
	Service  Service       `json:"service"`

	Sync      Arm       `json:"sync"`
	Async     Arm       `json:"async"`
	Callbacks Callbacks `json:"callbacks"`
	Generator Generator `json:"generator"`
	Series    []Second  `json:"series"`
	LittleLaw []Window  `json:"little_law"`

	SLOs     []Objective `json:"slos"`
	Void     []string    `json:"void"`     // why the figures do not count; empty: they do
	Warnings []string    `json:"warnings"` // what a reader of the figures must know
}

// Service is the API that was measured, and what it says of itself.
type Service struct {
	URL        string `json:"url"`
	Name       string `json:"name"`              // Tandem, or what its target file calls it
	Version    string `json:"version,omitempty"` // Tandem's own
	Backend    string `json:"backend,omitempty"`
	Durable    *bool  `json:"durable,omitempty"` // a 202 survives power loss; nil: it does not say
	Local      bool   `json:"local"`             // it runs on the machine that the load came from
	Completion string `json:"completion"`        // how outcomes were learned: callback or poll
	Verified   bool   `json:"verified"`          // callbacks were signed, and only those that verified count
	Usage      *Usage `json:"usage"`             // of its process during the whole run, if it is local; nil if it could not be measured
}

// Arm is one mode's part of a run.
type Arm struct {
	Mode   tandem.Mode `json:"mode"`
	Ledger Ledger      `json:"ledger"`

	// Response is from the planned time of a request until its answer was read
	// and found good: the result of a sync request, the 202 of an async one.
	// Uncorrected is the same from when the request was written: it hides what
	// a slow service made wait to be sent (coordinated omission).
	Response    Latency `json:"response"`
	Uncorrected Latency `json:"response_uncorrected"`
	// Completion is from the planned time until the outcome was here: the
	// answer of a sync request, the verified callback (or the poll that found
	// it worked) of an async one.
	Completion Latency `json:"completion"`
	// Unsuccessful is from the planned time until the request was known not to
	// succeed: rejected, errored, timed out or failed.
	Unsuccessful Latency `json:"unsuccessful"`

	// Window is the time over which throughput is counted: of an open run the
	// length of its schedule, of a closed one all blocks of this mode.
	// WindowAccepted and WindowCompleted are what fell into it.
	Window          time.Duration `json:"window_ns"`
	WindowAccepted  int           `json:"window_accepted"`
	WindowCompleted int           `json:"window_completed"`

	Errors map[string]int `json:"errors"` // by category, see Category
	Usage  *Usage         `json:"usage"`  // of a local service while this mode ran alone; nil if it could not be measured
}

// Accepted is how many requests were accepted per second. It is not
// throughput. ok is false if none were.
func (a Arm) Accepted() (perSecond float64, ok bool) { return per(a.WindowAccepted, a.Window) }

// Throughput is how many requests were completed per second. ok is false if
// none were.
func (a Arm) Throughput() (perSecond float64, ok bool) { return per(a.WindowCompleted, a.Window) }

func per(n int, window time.Duration) (perSecond float64, ok bool) {
	if n == 0 || window <= 0 {
		return 0, false
	}
	return float64(n) / window.Seconds(), true
}

// Usage is what a process used.
type Usage struct {
	CPU       time.Duration `json:"cpu_ns"`         // user and system, of all its threads
	PeakBytes int64         `json:"peak_rss_bytes"` // the largest resident memory that was seen, at both ends and every 250 ms between
	Over      time.Duration `json:"over_ns"`        // the time that it was watched
}

// Ledger accounts for every request of an arm:
//
//	planned  = sent + unsent
//	sent     = accepted + rejected + errored + timed out
//	accepted = completed + failed + missing
type Ledger struct {
	Planned  int `json:"planned"`
	Sent     int `json:"sent"`
	Unsent   int `json:"unsent"` // the run ended before, or the generator was saturated
	Accepted int `json:"accepted"`
	Rejected int `json:"rejected"` // answered, and not taken up; those refused with 429 are in Errors
	Errored  int `json:"errored"`  // no usable answer came
	TimedOut int `json:"timed_out"`

	Completed int `json:"completed"` // the work succeeded; async: a verified callback says so
	Failed    int `json:"failed"`    // the work failed; async: a verified callback says so
	Missing   int `json:"missing"`   // accepted, and its outcome did not come
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

// Callbacks accounts for what reached the receiver. In a run that polls it is
// all zero.
type Callbacks struct {
	Received   int `json:"received"`   // in all
	Verified   int `json:"verified"`   // first callbacks of a request that passed verification
	Duplicates int `json:"duplicates"` // passed too, but not the first; at-least-once delivery allows them
	Forged     int `json:"forged"`     // no signature, or a wrong one
	Late       int `json:"late"`       // a good signature of a time too long ago or to come, as replays have
	Malformed  int `json:"malformed"`  // verified, and not the message that was agreed
	Unknown    int `json:"unknown"`    // for no request of this run
	// OfUnacknowledged are verified callbacks of posts that errored or timed
	// out: the service had accepted them, and the sender does not know.
	OfUnacknowledged int `json:"of_unacknowledged"`
	// Early are those whose first byte was here before the answer that
	// accepted their request.
	Early int `json:"early"`

	// Lag is from the answer that accepted a request to the first byte of its
	// callback. Verification is from there until the signature was verified.
	Lag          Latency `json:"lag"`
	Verification Latency `json:"verification"`

	MissingIDs []string `json:"missing_ids"` // the first thousand accepted requests without an outcome
}

// Refused is how many callbacks were not believed.
func (c Callbacks) Refused() int { return c.Forged + c.Late + c.Malformed }

// maxMissingIDs bounds Callbacks.MissingIDs.
const maxMissingIDs = 1000

// Generator is what the load generator says of itself.
type Generator struct {
	// Lag is from the planned time of a request until it was written, without
	// what the service is to blame for: the time that its connection took to
	// be made, or that it waited because Spec.Concurrency were outstanding.
	Lag Latency `json:"lag"`
	// Ceiling is how many requests per second it sent to a server in its own
	// process that does nothing, and NoiseFloor the latencies it saw there.
	Ceiling    float64 `json:"ceiling_per_s"` // 0: not calibrated
	NoiseFloor Latency `json:"noise_floor"`
	Usage      *Usage  `json:"usage"`     // of its own process during the run; nil if it could not be measured
	Saturated  int     `json:"saturated"` // requests that found the most connections outstanding, and were not sent
}

// Second is one second of a run. Requests are counted in the second in which
// it happened to them; seconds in which nothing happened are left out.
type Second struct {
	At       int     `json:"at"`        // seconds from the beginning of the run
	Span     float64 `json:"span_s"`    // how long it was: 1, but for the last
	InFlight float64 `json:"in_flight"` // requests written and not answered: the mean of samples
	Backlog  float64 `json:"backlog"`   // requests accepted and not completed: the mean of samples
	Sync     Counts  `json:"sync"`
	Async    Counts  `json:"async"`

	Lag         Latency `json:"lag"`          // of the generator
	CallbackLag Latency `json:"callback_lag"` // as in Callbacks
}

// Counts is what happened to the requests of one arm in one second.
type Counts struct {
	Sent       int     `json:"sent"`
	Answered   int     `json:"answered"` // well or not
	Waited     float64 `json:"waited_s"` // of all answered: the sum of their seconds from written to answered
	Accepted   int     `json:"accepted"`
	Completed  int     `json:"completed"`
	Failed     int     `json:"failed"` // rejected, errored, timed out or failed
	Response   Latency `json:"response"`
	Completion Latency `json:"completion"`
}

// Window holds Little's law, L = lambda * W, against some seconds of a run: L
// is the mean number in flight as it was sampled, lambda the answers per
// second, W their mean latency from when they were written. The two sides are
// measured apart; where they differ, the figures contradict each other.
type Window struct {
	From     int     `json:"from"` // seconds from the beginning of the run
	To       int     `json:"to"`
	InFlight float64 `json:"in_flight"` // L
	Rate     float64 `json:"per_s"`     // lambda
	Mean     float64 `json:"mean_s"`    // W
	Holds    bool    `json:"holds"`
}

// Objective is a service level objective and how it was met.
type Objective struct {
	SLO      string  `json:"slo"`
	Outcome  Outcome `json:"outcome"`
	Measured string  `json:"measured,omitempty"` // the figure, with its unit
	N        int     `json:"n"`                  // samples behind it
}

// Outcome says whether an objective was met.
type Outcome string

const (
	Met         Outcome = "met"
	Missed      Outcome = "missed"
	NotMeasured Outcome = "not measured" // too few samples, or none
)

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
	CategoryMissing      = "missing"       // an outcome that did not come
)
