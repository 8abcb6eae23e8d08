package callback_test

import (
	"math"
	"net/http"
	"testing"
	"time"

	"tandem/internal/callback"
)

var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func TestNextAttempt(t *testing.T) {
	demo, production := callback.Demo, callback.Production
	ageless := callback.Policy{Attempts: 1000, Base: time.Second, Factor: 2, Cap: time.Hour}
	const noJitter = 0.0

	tests := []struct {
		name       string
		policy     callback.Policy
		age        time.Duration
		made       int
		retryAfter time.Duration
		jitter     float64
		want       time.Duration // -1 for given up
	}{
		{"demo waits a second after the first attempt", demo, 0, 1, 0, noJitter, time.Second},
		{"demo waits two after the second", demo, 0, 2, 0, noJitter, 2 * time.Second},
		{"demo gives up after the third", demo, 0, 3, 0, noJitter, -1},
		{"more attempts than allowed are given up too", demo, 0, 4, 0, noJitter, -1},

		{"production waits a minute first", production, 0, 1, 0, noJitter, time.Minute},
		{"then eight", production, 0, 2, 0, noJitter, 8 * time.Minute},
		{"then an hour, where 64 minutes would be due", production, 0, 3, 0, noJitter, time.Hour},
		{"and the last gap is an hour", production, 0, 7, 0, noJitter, time.Hour},
		{"production gives up after the eighth", production, 0, 8, 0, noJitter, -1},

		{"half the jitter takes a tenth", production, 0, 1, 0, 0.5, 54 * time.Second},
		{"all the jitter takes a fifth", production, 0, 1, 0, 1, 48 * time.Second},
		{"jitter works at the cap as well", production, 0, 7, 0, 1, 48 * time.Minute},
		{"jitter above one is one", production, 0, 1, 0, 7, 48 * time.Second},
		{"jitter below zero is none", production, 0, 1, 0, -3, time.Minute},
		{"jitter that is no number is none", production, 0, 1, 0, math.NaN(), time.Minute},

		{"Retry-After below the gap changes nothing", production, 0, 1, 59 * time.Second, noJitter, time.Minute},
		{"Retry-After above the gap is the gap", production, 0, 1, 61 * time.Second, noJitter, 61 * time.Second},
		{"Retry-After is not shortened by jitter", production, 0, 1, 2 * time.Minute, 1, 2 * time.Minute},
		{"Retry-After may exceed the policy's cap", production, 0, 1, 5 * time.Hour, noJitter, 5 * time.Hour},
		{"Retry-After of a day is honoured", production, 0, 1, 24 * time.Hour, noJitter, 24 * time.Hour},
		{"Retry-After of more than a day is a day", production, 0, 1, 25 * time.Hour, noJitter, 24 * time.Hour},
		{"Retry-After of less than nothing is none", production, 0, 1, -time.Hour, noJitter, time.Minute},
		{"Retry-After gives no further attempt", demo, 0, 3, time.Hour, noJitter, -1},

		{"at its maximum age a callback is tried again", production, 24 * time.Hour, 3, 0, noJitter, time.Hour},
		{"past its maximum age it is given up", production, 24*time.Hour + 1, 3, 0, noJitter, -1},
		{"a callback of the future is young", production, -time.Hour, 1, 0, noJitter, time.Minute},
		{"no maximum age means none", ageless, 1000 * time.Hour, 1, 0, noJitter, time.Second},

		{"many attempts do not overflow", ageless, 0, 999, 0, noJitter, time.Hour},
		{"without a cap no gap exceeds a day", callback.Policy{Attempts: 99, Base: time.Hour, Factor: 10}, 0, 98, 0, noJitter, 24 * time.Hour},
		{"a cap above a day is a day", callback.Policy{Attempts: 99, Base: time.Hour, Factor: 10, Cap: 48 * time.Hour}, 0, 98, 0, noJitter, 24 * time.Hour},
		{"a factor below one does not shrink gaps", callback.Policy{Attempts: 9, Base: time.Minute, Factor: 0.5, Cap: time.Hour}, 0, 5, 0, noJitter, time.Minute},
		{"no attempt made yet waits the first gap", production, 0, 0, 0, noJitter, time.Minute},
		{"the zero policy gives up at once", callback.Policy{}, 0, 1, 0, noJitter, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			at, ok := tt.policy.NextAttempt(noon, noon.Add(-tt.age), tt.made, tt.retryAfter, tt.jitter)
			got := at.Sub(noon)
			if !ok {
				got = -1
				if !at.IsZero() {
					t.Errorf("given up, and yet due at %v", at)
				}
			}
			if got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// The documentation states these spans; they follow from the policies.
func TestPoliciesSpanWhatTheySay(t *testing.T) {
	thirteen := callback.Production
	thirteen.Attempts = 13
	tests := []struct {
		name   string
		policy callback.Policy
		want   time.Duration
	}{
		{"demo", callback.Demo, 3 * time.Second},
		{"production", callback.Production, 5*time.Hour + 9*time.Minute},
		{"production with thirteen attempts", thirteen, 10*time.Hour + 9*time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now, attempts := noon, 1
			for {
				next, ok := tt.policy.NextAttempt(now, noon, attempts, 0, 0)
				if !ok {
					break
				}
				now = next
				attempts++
			}
			if got := now.Sub(noon); got != tt.want || attempts != tt.policy.Attempts {
				t.Errorf("got %d attempts over %v, want %d over %v", attempts, got, tt.policy.Attempts, tt.want)
			}
		})
	}
}

func TestParseRetryAfter(t *testing.T) {
	date := func(d time.Duration) string { return noon.Add(d).Format(http.TimeFormat) }
	tests := []struct {
		name  string
		value string
		want  time.Duration
	}{
		{"seconds", "120", 2 * time.Minute},
		{"no seconds", "0", 0},
		{"space around it", " 7 ", 7 * time.Second},
		{"a day", "86400", 24 * time.Hour},
		{"a second more than a day", "86401", 24 * time.Hour},
		{"more than a Duration holds", "9223372037", 24 * time.Hour},
		{"more than an integer holds", "99999999999999999999999", 24 * time.Hour},
		{"a date to come", date(90 * time.Second), 90 * time.Second},
		{"a date that is now", date(0), 0},
		{"a date that is past", date(-time.Hour), 0},
		{"a date beyond a day", date(48 * time.Hour), 24 * time.Hour},
		{"a date in the form of RFC 850", noon.Add(time.Minute).Format("Monday, 02-Jan-06 15:04:05 GMT"), time.Minute},
		{"a date in the form of asctime", noon.Add(time.Minute).Format(time.ANSIC), time.Minute},
		{"less than nothing", "-5", 0},
		{"a plus sign", "+5", 0},
		{"a fraction", "1.5", 0},
		{"a unit", "5s", 0},
		{"digits that are not ASCII", "٣", 0},
		{"nothing", "", 0},
		{"rubbish", "soon", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := callback.ParseRetryAfter(tt.value, noon); got != tt.want {
				t.Errorf("%q: got %v, want %v", tt.value, got, tt.want)
			}
		})
	}
}

func FuzzParseRetryAfter(f *testing.F) {
	for _, value := range []string{"120", "-1", "99999999999999999999", noon.Format(http.TimeFormat), "Mon"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if got := callback.ParseRetryAfter(value, noon); got < 0 || got > callback.MaxRetryAfter {
			t.Errorf("%q: got %v, want between nothing and a day", value, got)
		}
	})
}
