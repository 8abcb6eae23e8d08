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
	// if none is. An attempt whose process died, or that was interrupted, is
	// never recorded and must not close its host for ever.
	ProbeTill time.Time
}

// BreakerState names where a Breaker stands.
type BreakerState string

const (
	Closed   BreakerState = "closed"
	Open     BreakerState = "open"
	HalfOpen BreakerState = "half_open"
)

// Admission is a Breaker's answer to one attempt that wants to be made.
type Admission struct {
	Allowed bool
	// Probe says that the attempt was let through to find out: it is the only
	// one under way until its outcome is recorded.
	Probe bool
	// Until is, if the attempt is not allowed, when to ask again. While a probe
	// is under way that is the latest such time: its outcome may come sooner.
	Until time.Time
}

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
// Breaker it returns keeps others back until Record; so an owner asks only for
// an attempt that it goes on to make.
func (b Breaker) Admit(now time.Time) (Breaker, Admission) {
	b = b.clamp(now)
	switch b.State(now) {
	case Closed:
		return b, Admission{Allowed: true}
	case Open:
		return b, Admission{Until: b.OpenTill}
	}
	if now.Before(b.ProbeTill) {
		return b, Admission{Until: b.ProbeTill}
	}
	b.ProbeTill = now.Add(BreakerProbe)
	return b, Admission{Allowed: true, Probe: true}
}

// Record notes the outcome of an attempt that was allowed: ok is false if it
// counts against the host. Attempts that were under way when b opened may still
// come in; their failures do not keep it open for longer.
func (b Breaker) Record(now time.Time, ok bool) Breaker {
	if ok {
		return Breaker{}
	}
	b = b.clamp(now)
	switch b.State(now) {
	case Closed:
		if b.Failures++; b.Failures >= BreakerFailures {
			return Breaker{OpenTill: now.Add(BreakerOpen)}
		}
		return b
	case Open:
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
