package loadtest

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"tandem"
)

// result joins what the senders and the receiver saw.
func (r *runner) result(spec Spec, service Service, bursts []burst) *Result {
	result := &Result{
		Version:     1,
		Spec:        spec,
		Started:     r.epoch.UTC().Round(0),
		Duration:    r.now(),
		Environment: Environment{OS: runtime.GOOS, Arch: runtime.GOARCH, CPU: cpuModel(), CPUs: runtime.GOMAXPROCS(0), Go: runtime.Version()},
		Service:     service,
		Sync:        newArm(tandem.Sync),
		Async:       newArm(tandem.Async),
		Callbacks:   r.receiver.callbacks(),
	}
	for _, b := range bursts {
		for _, p := range b.posts {
			if p.mode == tandem.Sync {
				result.Sync.addSync(r.samples[p.seq])
				continue
			}
			callback, arrived := r.receiver.arrived(p.seq)
			result.Async.addAsync(r.samples[p.seq], callback, arrived, &result.Callbacks)
		}
	}
	if result.Callbacks.Refused > 0 {
		result.Async.Errors[CategoryBadSignature] = result.Callbacks.Refused
	}
	for _, arm := range []*Arm{&result.Sync, &result.Async} {
		arm.Busy = r.busy[arm.Mode]
		if r.usageErr == nil && r.usage[arm.Mode].Bursts > 0 {
			arm.Usage = r.usage[arm.Mode]
		}
	}
	return result
}

func newArm(mode tandem.Mode) Arm {
	return Arm{Mode: mode, Response: newLatency(), Uncorrected: newLatency(), Completion: newLatency(), Errors: map[string]int{}}
}

// add accounts for what the sender saw of a request.
func (a *Arm) add(s sample) {
	l := &a.Ledger
	l.Planned++
	if s.outcome == unsent {
		l.Unsent++
		return
	}
	l.Sent++
	if s.category != "" {
		a.Errors[s.category]++
	}
	switch s.outcome {
	case accepted:
		l.Accepted++
	case rejected:
		l.Rejected++
	case timedOut:
		l.TimedOut++
	default:
		l.Errored++
	}
	if s.outcome == accepted && !s.workFail {
		a.Response.record(s.answered - s.free)
		a.Uncorrected.record(s.answered - s.written)
	}
}

func (a *Arm) addSync(s sample) {
	a.add(s)
	switch {
	case s.outcome != accepted:
	case s.workFail:
		a.Ledger.Failed++
	default:
		a.Ledger.Completed++
		a.Completion.record(s.answered - s.free)
	}
}

func (a *Arm) addAsync(s sample, callback arrival, arrived bool, callbacks *Callbacks) {
	a.add(s)
	switch {
	case s.outcome != accepted:
		if arrived {
			callbacks.OfUnacknowledged++
		}
	case !arrived, callback.requestID != s.requestID: // a callback that names another request is not this one's
		a.Ledger.Missing++
		a.Errors[CategoryMissing]++
		if len(callbacks.MissingIDs) < maxMissingIDs {
			callbacks.MissingIDs = append(callbacks.MissingIDs, s.requestID)
		}
	case !callback.completed:
		a.Ledger.Failed++
		a.Errors[CategoryWork]++
	default:
		a.Ledger.Completed++
		a.Completion.record(callback.verified - s.free)
	}
}

// Complete returns an error that says what of the Result is not as promised:
// a ledger that does not balance, or callbacks that did not come.
func (r *Result) Complete() error {
	faults := []error{}
	for _, arm := range []Arm{r.Sync, r.Async} {
		if err := arm.Ledger.Balance(); err != nil {
			faults = append(faults, fmt.Errorf("the %s ledger does not balance: %w", arm.Mode, err))
		}
	}
	if n := r.Async.Ledger.Missing; n > 0 {
		faults = append(faults, fmt.Errorf("%d of %d accepted requests have no verified callback: %s",
			n, r.Async.Ledger.Accepted, strings.Join(r.Callbacks.MissingIDs[:min(n, 3)], ", ")))
	}
	return errors.Join(faults...)
}
