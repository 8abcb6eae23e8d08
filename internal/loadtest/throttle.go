package loadtest

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// throttle lets requests out no faster than the service says that it will take
// them, so that it need refuse none: by RateLimit
// (draft-ietf-httpapi-ratelimit-headers, also in its older forms) and
// Retry-After (RFC 9110). A nil throttle lets all out at once.
type throttle struct {
	mu        sync.Mutex
	changed   chan struct{} // closed, and made anew, when something was learned
	inFlight  int
	granted   int       // the number of the last request that was let out
	until     time.Time // nothing goes out before
	probing   bool      // one request at a time goes out, until its answer says what remaining is
	remaining int       // that the service would still take; math.MaxInt: it names no limit
	since     int       // the last request that was let out when remaining was learned
}

func newThrottle() *throttle {
	return &throttle{changed: make(chan struct{}), probing: true, remaining: math.MaxInt}
}

// wait returns when a request may go out, and its number for learn; ok is false
// if ctx ended before.
func (t *throttle) wait(ctx context.Context) (grant int, ok bool) {
	if t == nil {
		return 0, ctx.Err() == nil
	}
	for {
		grant, changed, pause := t.grant(time.Now())
		if grant > 0 {
			return grant, ctx.Err() == nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return 0, false
		}
		timer.Stop()
	}
}

// grant lets one request out, or says what to wait for.
func (t *throttle) grant(now time.Time) (number int, changed <-chan struct{}, pause time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if pause := t.until.Sub(now); pause > 0 {
		return 0, t.changed, pause
	}
	if t.probing && t.inFlight > 0 || !t.probing && t.remaining-t.inFlight <= 0 {
		return 0, t.changed, time.Minute
	}
	t.inFlight++
	t.granted++
	return t.granted, nil, 0
}

// giveBack returns a grant that was not used.
func (t *throttle) giveBack() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inFlight--
	t.tell()
}

// tell wakes all that wait. The lock must be held.
func (t *throttle) tell() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// learn takes what the answer to a request says of the limit; status is 0 if
// none came.
func (t *throttle) learn(grant, status int, h http.Header, now time.Time) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inFlight--
	remaining, reset, limited := rateLimit(h)
	switch {
	case status == 0:
	case !limited:
		t.probing, t.remaining = false, math.MaxInt
	case grant > t.since: // it was sent after remaining was learned, so it knows better
		t.probing, t.remaining, t.since = false, remaining, t.granted
	case remaining < t.remaining: // of those sent at once, the least is the latest
		t.remaining, t.since = remaining, t.granted
	}
	if limited && t.remaining-t.inFlight <= 0 {
		t.hold(now.Add(reset))
	}
	if retry, ok := retryAfter(h, now); ok && (status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable) {
		t.hold(now.Add(retry))
	}
	t.tell()
}

// hold lets nothing out until then, and after that one request, to see.
func (t *throttle) hold(until time.Time) {
	if until.After(t.until) {
		t.until = until
	}
	t.probing = true
}

// rateLimit reads how many requests a service will still take, and when that
// grows. ok is false if it does not say.
func rateLimit(h http.Header) (remaining int, reset time.Duration, ok bool) {
	remaining = math.MaxInt
	least := func(r, t string) {
		if left, err := strconv.Atoi(r); err == nil && left >= 0 && left < remaining {
			seconds, err := strconv.ParseInt(t, 10, 64)
			if err != nil || seconds < 0 || seconds > int64(time.Hour/time.Second) {
				seconds = 1 // it says how much, and not when there is more: look again soon
			}
			remaining, reset, ok = left, time.Duration(seconds)*time.Second, true
		}
	}
	for _, line := range h.Values("RateLimit") { // "default";r=5;t=12, and perhaps more, by commas
		for item := range strings.SplitSeq(line, ",") {
			values := map[string]string{}
			for parameter := range strings.SplitSeq(item, ";") {
				name, value, _ := strings.Cut(strings.TrimSpace(parameter), "=")
				values[name] = value
			}
			least(values["r"], values["t"])
		}
	}
	for _, prefix := range []string{"RateLimit-", "X-RateLimit-"} {
		least(h.Get(prefix+"Remaining"), h.Get(prefix+"Reset"))
	}
	return remaining, reset, ok
}

// retryAfter reads Retry-After: seconds, or a date.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	value := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil && seconds >= 0 {
		return time.Duration(seconds) * time.Second, true
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(date.Sub(now), 0), true
	}
	return 0, false
}
