package loadtest

import (
	"context"
	"math"
	"net/http"
	"testing"
	"time"
)

func TestRateLimitHeadersAreRead(t *testing.T) {
	for _, row := range []struct {
		name, value string
		remaining   int
		reset       time.Duration
		ok          bool
	}{
		{"RateLimit", `"default";r=12;t=30`, 12, 30 * time.Second, true},
		{"RateLimit", `"burst";r=9;t=1, "day";r=3;t=600`, 3, 600 * time.Second, true},
		{"RateLimit", `"default";r=0`, 0, time.Second, true},
		{"RateLimit", `"default";r=-1;t=5`, math.MaxInt, 0, false},
		{"RateLimit", `"default";r=1;t=99999999`, 1, time.Second, true},
		{"RateLimit", `nonsense`, math.MaxInt, 0, false},
		{"RateLimit-Remaining", `4`, 4, time.Second, true},
		{"X-RateLimit-Remaining", `4`, 4, time.Second, true},
		{"Content-Type", `4`, math.MaxInt, 0, false},
	} {
		h := http.Header{}
		h.Set(row.name, row.value)
		if remaining, reset, ok := rateLimit(h); remaining != row.remaining || reset != row.reset || ok != row.ok {
			t.Errorf("%s: %s is %d, %v, %v", row.name, row.value, remaining, reset, ok)
		}
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"7": 7 * time.Second, "Thu, 01 Jan 2026 00:00:05 GMT": 5 * time.Second, "Thu, 01 Jan 2025 00:00:00 GMT": 0, "": -1, "soon": -1, "-1": -1,
	} {
		got, ok := retryAfter(http.Header{"Retry-After": {value}}, now)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("Retry-After: %s is %v, %v", value, got, ok)
		}
	}
}

func TestTheThrottleAsksOnceAndThenKeepsToTheLimit(t *testing.T) {
	th := newThrottle()
	now := time.Now()
	out := func() (n int) {
		for {
			if grant, _, _ := th.grant(now); grant == 0 {
				return n
			}
			n++
		}
	}
	limit := func(r string) http.Header { return http.Header{"Ratelimit": {`"default";r=` + r + `;t=10`}} }

	if n := out(); n != 1 {
		t.Fatalf("%d go out before anything is known, want 1", n)
	}
	th.learn(1, 200, limit("3"), now)
	if n := out(); n != 3 {
		t.Fatalf("%d go out where 3 will be taken", n)
	}
	for grant := 2; grant <= 4; grant++ {
		th.learn(grant, 200, limit([]string{"", "", "2", "1", "0"}[grant]), now)
	}
	if n := out(); n != 0 {
		t.Errorf("%d go out where none will be taken", n)
	}
	now = now.Add(10 * time.Second)
	if n := out(); n != 1 {
		t.Errorf("%d go out when it may be taken again, want one to see", n)
	}
	th.learn(5, 429, http.Header{"Retry-After": {"20"}}, now)
	if n := out(); n != 0 {
		t.Errorf("%d go out although the service said when to come back", n)
	}
	now = now.Add(20 * time.Second)
	out()
	th.learn(6, 200, http.Header{}, now)
	grants := 0
	for range 100 {
		if grant, _, _ := th.grant(now); grant > 0 {
			grants++
		}
	}
	if grants != 100 {
		t.Errorf("%d of 100 go out where there is no limit", grants)
	}
}

func TestAWaitForTheThrottleCanBeEnded(t *testing.T) {
	th := newThrottle()
	th.grant(time.Now()) // the one that asks
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok := th.wait(ctx); ok {
		t.Error("a request goes out after the end")
	}
	if _, ok := (*throttle)(nil).wait(t.Context()); !ok {
		t.Error("without a throttle nothing goes out")
	}
}
