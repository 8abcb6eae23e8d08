package callback

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MaxRetryAfter is the longest that a receiver's Retry-After is honoured, and
// the longest gap of any policy.
const MaxRetryAfter = 24 * time.Hour

// Policy says how often and when a callback is tried. The gaps between
// attempts grow by Factor from Base up to Cap.
type Policy struct {
	Attempts int           // made at most, the first included
	Base     time.Duration // the gap after the first attempt
	Factor   float64       // by which each gap exceeds the one before; below 1 means 1
	Cap      time.Duration // no gap is longer, unless the receiver asks for it; zero means MaxRetryAfter
	MaxAge   time.Duration // past this age a callback gets no further attempt; zero means no limit
}

var (
	// Demo tries three times: at once, after 1 s and after 2 s.
	Demo = Policy{Attempts: 3, Base: time.Second, Factor: 2, Cap: time.Hour, MaxAge: 24 * time.Hour}

	// Production tries eight times: at once, after 1 and 8 minutes, and then
	// five times at intervals of an hour, 5 h 9 min in all before jitter. The
	// cap of an hour bounds what eight attempts can span at seven hours; the
	// two early ones, which a restarting receiver needs most, cost two of them.
	// With 13 attempts the same gaps span 10 h 9 min.
	Production = Policy{Attempts: 8, Base: time.Minute, Factor: 8, Cap: time.Hour, MaxAge: 24 * time.Hour}
)

// jitterShare is how much of a gap jitter may take away. It shortens and never
// lengthens, so that the cap holds and the gaps at the cap spread as well.
const jitterShare = 0.2

// NextAttempt returns when a callback that became due at the time due, and has
// failed made attempts, is tried next, or false if it is given up: its attempts
// are spent, or it is older than MaxAge now.
//
// The gap is Base*Factor^(made-1), at most Cap, less a fifth of itself times
// jitter, a random number in [0, 1). The receiver's retryAfter is a floor under
// it, capped at MaxRetryAfter. A time this returns may lie past MaxAge: what was
// scheduled is still tried once. An owner that puts off an attempt beyond that
// time, as behind an open breaker, gives the callback up by itself.
func (p Policy) NextAttempt(now, due time.Time, made int, retryAfter time.Duration, jitter float64) (time.Time, bool) {
	if made >= p.Attempts || p.MaxAge > 0 && now.Sub(due) > p.MaxAge {
		return time.Time{}, false
	}
	gap := p.gap(made)
	gap -= time.Duration(float64(gap) * jitterShare * clamp01(jitter))
	return now.Add(max(gap, min(retryAfter, MaxRetryAfter))), true
}

// gap is the wait after the given number of attempts, without jitter.
func (p Policy) gap(made int) time.Duration {
	limit := MaxRetryAfter
	if p.Cap > 0 {
		limit = min(limit, p.Cap)
	}
	// Compared as floats: the power may be far beyond any Duration.
	gap := float64(max(0, p.Base)) * math.Pow(max(1, p.Factor), float64(max(0, made-1)))
	if gap < float64(limit) {
		return time.Duration(gap)
	}
	return limit
}

func clamp01(x float64) float64 {
	if x > 0 { // false for NaN
		return min(x, 1)
	}
	return 0
}

// ParseRetryAfter reads a Retry-After header in either of its forms (RFC 9110,
// section 10.2.3): a number of seconds, or an HTTP date seen from now. It
// returns at most MaxRetryAfter, and zero for a date that is past and for what
// is neither.
func ParseRetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if isDigits(value) {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(MaxRetryAfter/time.Second) {
			return MaxRetryAfter // it overflows, or may as well
		}
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(0, at.Sub(now)), MaxRetryAfter)
	}
	return 0
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
