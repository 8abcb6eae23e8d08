package callback

import "time"

// The thresholds of every Breaker.
const (
	BreakerFailures = 5                // failures in a row that open it
	BreakerOpen     = 60 * time.Second // how long it stays open
	BreakerProbe    = 60 * time.Second // how long a probe may take before another is let through
)

// Breaker decides whether a host is tried or left alone. It is a value: its
// methods take the present and return the Breaker of the future, and the owner
// keeps one per host, under its own lock or in a row. The zero Breaker is
// closed.
//
// It opens after BreakerFailures failures in a row and lets nothing through for
// BreakerOpen. Then it is half-open: one attempt at a time is let through as a
// probe. A success closes it, whenever it comes; a failure opens it again.
type Breaker struct {
	Failures int       // in a row, while closed
	OpenTill time.Time // zero while closed
	// ProbeTill is when the probe that is under way is given up for lost; zero
	// if none is. An attempt whose process died is never recorded, and must not
	// close its host for ever.
	ProbeTill time.Time
}

// BreakerState names where a Breaker stands.
type BreakerState string

const (
	Closed   BreakerState = "closed"
	Open     BreakerState = "open"
	HalfOpen BreakerState = "half_open"
)

// State returns where b stands at the given time.
func (b Breaker) State(now time.Time) BreakerState {
	switch {
	case b.OpenTill.IsZero():
		return Closed
	case now.Before(b.OpenTill):
		return Open
	default:
		return HalfOpen
	}
}

// Admit asks whether an attempt may be made now. If it may, and is a probe, the
// Breaker it returns keeps others back until Record. If it may not, until is when
// to ask again; while a probe is under way that is the latest such time: its
// outcome may come sooner.
func (b Breaker) Admit(now time.Time) (_ Breaker, ok bool, until time.Time) {
	b = b.clamp(now)
	switch b.State(now) {
	case Closed:
		return b, true, time.Time{}
	case Open:
		return b, false, b.OpenTill
	}
	if now.Before(b.ProbeTill) {
		return b, false, b.ProbeTill
	}
	b.ProbeTill = now.Add(BreakerProbe)
	return b, true, time.Time{}
}

// Record notes what an attempt that was allowed has told of the host; Silent, if
// it was not made after all: then another may find out at once. Attempts that were
// under way when b opened may still come in; their failures do not keep it open
// for longer.
func (b Breaker) Record(now time.Time, sign Sign) Breaker {
	b = b.clamp(now)
	state := b.State(now)
	switch {
	case sign == Silent:
		b.ProbeTill = time.Time{}
		return b
	case sign == Well:
		return Breaker{}
	case state == Closed:
		if b.Failures++; b.Failures >= BreakerFailures {
			return Breaker{OpenTill: now.Add(BreakerOpen)}
		}
		return b
	case state == Open:
		return b
	default:
		return Breaker{OpenTill: now.Add(BreakerOpen)}
	}
}

// clamp bounds waits that a clock set back would draw out. It changes nothing
// while the clock runs forward.
func (b Breaker) clamp(now time.Time) Breaker {
	if latest := now.Add(BreakerOpen); b.OpenTill.After(latest) {
		b.OpenTill = latest
	}
	if latest := now.Add(BreakerProbe); b.ProbeTill.After(latest) {
		b.ProbeTill = latest
	}
	return b
}
