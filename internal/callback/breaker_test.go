package callback_test

import (
	"testing"
	"time"

	"tandem/internal/callback"
)

// A step happens at a time after noon: an attempt asks to be made, or one's
// outcome comes in.
type step struct {
	at   time.Duration
	do   string        // "ok", "fail", "none" (no sign), "pass" (allowed), "wait" (refused)
	till time.Duration // for "wait": until when
}

func TestBreaker(t *testing.T) {
	const s = time.Second
	fails := func(n int, at time.Duration) []step {
		var steps []step
		for range n {
			steps = append(steps, step{at, "fail", 0})
		}
		return steps
	}
	open := fails(5, 0) // opens at noon, until one minute past
	after := func(first []step, more ...step) []step { return append(first[:len(first):len(first)], more...) }

	tests := []struct {
		name  string
		steps []step
		at    time.Duration
		want  callback.BreakerState
	}{
		{"the zero breaker is closed", []step{{0, "pass", 0}}, 0, callback.Closed},
		{"four failures leave it closed", after(fails(4, 0), step{0, "pass", 0}), 0, callback.Closed},
		{"the fifth opens it", after(open, step{0, "wait", 60 * s}), 0, callback.Open},
		{"a success between them starts the count again", after(fails(4, 0), step{0, "ok", 0}, step{0, "fail", 0}, step{0, "pass", 0}), 0, callback.Closed},
		{"four failures more after that leave it closed", after(fails(4, 0), after([]step{{0, "ok", 0}}, fails(4, 0)...)...), 0, callback.Closed},
		{"failures count however far apart they are", after(fails(4, 0), step{90 * time.Hour, "fail", 0}), 90 * time.Hour, callback.Open},

		{"just before the minute is over it is open", after(open, step{60*s - 1, "wait", 60 * s}), 60*s - 1, callback.Open},
		{"after a minute it is half-open", open, 60 * s, callback.HalfOpen},
		{"and lets one probe through", after(open, step{60 * s, "pass", 0}), 60 * s, callback.HalfOpen},
		{"and one only", after(open, step{60 * s, "pass", 0}, step{61 * s, "wait", 120 * s}, step{62 * s, "wait", 120 * s}), 62 * s, callback.HalfOpen},
		{"a probe's success closes it", after(open, step{60 * s, "pass", 0}, step{61 * s, "ok", 0}, step{61 * s, "pass", 0}, step{61 * s, "pass", 0}), 61 * s, callback.Closed},
		{"and the count starts again", after(after(open, step{60 * s, "pass", 0}, step{61 * s, "ok", 0}), after(fails(4, 62*s), step{62 * s, "pass", 0})...), 62 * s, callback.Closed},
		{"a probe's failure opens it for another minute", after(open, step{60 * s, "pass", 0}, step{65 * s, "fail", 0}, step{66 * s, "wait", 125 * s}), 125*s - 1, callback.Open},
		{"after which the next probe goes", after(open, step{60 * s, "pass", 0}, step{65 * s, "fail", 0}, step{125 * s, "pass", 0}), 125 * s, callback.HalfOpen},

		{"a probe just not given up for lost keeps others back", after(open, step{60 * s, "pass", 0}, step{120*s - 1, "wait", 120 * s}), 120*s - 1, callback.HalfOpen},
		{"a probe whose answer never comes is replaced", after(open, step{60 * s, "pass", 0}, step{120 * s, "pass", 0}, step{121 * s, "wait", 180 * s}), 121 * s, callback.HalfOpen},
		{"a lost probe that succeeds after all closes it", after(open, step{60 * s, "pass", 0}, step{120 * s, "pass", 0}, step{121 * s, "ok", 0}, step{121 * s, "pass", 0}), 121 * s, callback.Closed},

		{"a probe that was not made is replaced at once", after(open, step{60 * s, "pass", 0}, step{61 * s, "none", 0}, step{61 * s, "pass", 0}, step{61 * s, "wait", 121 * s}), 61 * s, callback.HalfOpen},
		{"an attempt that says nothing does not close it", after(open, step{5 * s, "none", 0}, step{5 * s, "wait", 60 * s}), 5 * s, callback.Open},
		{"nor does it start the count again", after(fails(4, 0), step{0, "none", 0}, step{0, "fail", 0}), 0, callback.Open},

		{"failures that come in late do not keep it open longer", after(open, step{30 * s, "fail", 0}, step{59 * s, "fail", 0}, step{60 * s, "pass", 0}), 60 * s, callback.HalfOpen},
		{"a success that comes in late closes it", after(open, step{5 * s, "ok", 0}, step{5 * s, "pass", 0}), 5 * s, callback.Closed},

		{"a clock set back does not draw out the wait", after(open, step{-24 * time.Hour, "wait", -24*time.Hour + 60*s}, step{-24*time.Hour + 60*s, "pass", 0}), -24*time.Hour + 60*s, callback.HalfOpen},
		{"nor that for a probe", after(open, step{60 * s, "pass", 0}, step{0, "wait", 60 * s}, step{60 * s, "pass", 0}), 60 * s, callback.HalfOpen},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b callback.Breaker
			for i, st := range tt.steps {
				now := noon.Add(st.at)
				if sign, ok := map[string]callback.Sign{"ok": callback.Well, "fail": callback.Ill, "none": callback.Silent}[st.do]; ok {
					b = b.Record(now, sign)
					continue
				}
				var ok bool
				var got, want time.Time
				b, ok, got = b.Admit(now)
				if st.do == "wait" {
					want = noon.Add(st.till)
				}
				if ok != (st.do == "pass") || !got.Equal(want) {
					t.Fatalf("step %d: got %v until %v, want %v until %v", i, ok, got, st.do == "pass", want)
				}
			}
			if got := b.State(noon.Add(tt.at)); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// Whatever happens, a host is never shut out for longer than a probe may take
// or a breaker stays open.
func FuzzBreakerNeverWaitsLong(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 2, 62, 2, 3, 2})
	f.Add([]byte{0, 0, 0, 0, 0, 254, 2, 3, 2})
	f.Fuzz(func(t *testing.T, events []byte) {
		var b callback.Breaker
		now := noon
		for _, e := range events {
			now = now.Add(time.Duration(int8(e)) * time.Second) // back as well
			switch e % 4 {
			case 0:
				b = b.Record(now, callback.Ill)
			case 1:
				b = b.Record(now, callback.Well)
			case 3:
				b = b.Record(now, callback.Silent)
			default:
				var ok bool
				var until time.Time
				b, ok, until = b.Admit(now)
				if ok == !until.IsZero() {
					t.Fatalf("allowed %v, until %v", ok, until)
				}
				if wait := until.Sub(now); !ok && (wait <= 0 || wait > max(callback.BreakerOpen, callback.BreakerProbe)) {
					t.Fatalf("refused for %v", wait)
				}
			}
		}
	})
}
