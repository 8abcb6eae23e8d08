package loadtest

import (
	"math"
	"strings"
	"testing"
	"time"

	"tandem"
)

func TestPlan(t *testing.T) {
	for _, row := range []struct {
		requests, concurrency int
		bursts                string // s and a, each with its size
	}{
		{2, 1, "s1 a1"},
		{3, 5, "s2 a1"},
		{8, 2, "s2 a2 a2 s2"},
		{9, 2, "s2 a2 a2 s2 s1"},
		{30, 5, "s5 a5 a5 s5 s5 a5"},
	} {
		var got []string
		inputs := map[tandem.Mode][]string{}
		next := 0
		for _, b := range plan(Spec{Requests: row.requests, Concurrency: row.concurrency}) {
			got = append(got, string(b.mode[0])+string(rune('0'+len(b.posts))))
			for _, p := range b.posts {
				if p.seq != next || p.mode != b.mode {
					t.Errorf("%+v: request %d of the plan is %+v", row, next, p)
				}
				next++
				inputs[p.mode] = append(inputs[p.mode], string(p.body.Data))
			}
		}
		for i, async := range inputs[tandem.Async] {
			if s := inputs[tandem.Sync][i]; s != async {
				t.Errorf("%+v: input %d is %s in sync and %s in async", row, i, s, async)
			}
		}
		if text := strings.Join(got, " "); text != row.bursts {
			t.Errorf("%+v: bursts are %s", row, text)
		}
	}
}

func TestLedgerBalance(t *testing.T) {
	balanced := Ledger{Planned: 10, Sent: 9, Unsent: 1, Accepted: 6, Rejected: 1, Errored: 1, TimedOut: 1, Completed: 3, Failed: 2, Missing: 1}
	if err := balanced.Balance(); err != nil {
		t.Errorf("balanced: %v", err)
	}
	for name, spoil := range map[string]func(*Ledger){
		"planned =":  func(l *Ledger) { l.Unsent++ },
		"sent =":     func(l *Ledger) { l.Rejected++ },
		"accepted =": func(l *Ledger) { l.Missing-- },
	} {
		l := balanced
		spoil(&l)
		if err := l.Balance(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("with %s spoilt: %v", name, err)
		}
	}
}

func TestEnough(t *testing.T) {
	for _, row := range []struct {
		q     float64
		least int
	}{
		{0.5, 11}, {0.95, 130}, {0.99, 662}, {0.999, 6636}, {0.05, 130},
	} {
		if Enough(row.least-1, row.q) || !Enough(row.least, row.q) {
			t.Errorf("q %v: want %d samples to be the least that are enough", row.q, row.least)
		}
	}
	for _, q := range []float64{0, 1, -1, 2} {
		if Enough(1_000_000, q) {
			t.Errorf("no number of samples tells the percentile %v", q)
		}
	}
}

func TestLatency(t *testing.T) {
	l := newLatency()
	if _, ok := l.Max(); ok {
		t.Error("an empty distribution has a longest latency")
	}
	for i := range 1000 {
		l.record(time.Duration(i+1) * time.Millisecond)
	}
	near := func(what string, got time.Duration, ok bool, want time.Duration) {
		t.Helper()
		if !ok || math.Abs(got.Seconds()/want.Seconds()-1) > 0.002 {
			t.Errorf("%s is %v (%v), want %v to three digits", what, got, ok, want)
		}
	}
	got, ok := l.Percentile(0.5)
	near("median", got, ok, 500*time.Millisecond)
	got, ok = l.Percentile(0.99)
	near("p99", got, ok, 990*time.Millisecond)
	got, ok = l.Max()
	near("longest", got, ok, time.Second)
	got, ok = l.Mean()
	near("mean", got, ok, 500500*time.Microsecond)
	got, ok = l.Deviation()
	near("standard deviation", got, ok, 288675*time.Microsecond)
	if _, ok := l.Percentile(0.999); ok {
		t.Error("1000 latencies tell p99.9")
	}

	l = newLatency()
	l.record(0)
	l.record(2 * time.Hour)
	got, ok = l.Max()
	near("longer than the longest", got, ok, time.Hour)
	if l.N() != 2 {
		t.Errorf("n is %d, want 2: nothing is dropped", l.N())
	}
}

func TestLatencyRefusesWhatItDidNotWrite(t *testing.T) {
	for _, text := range []string{`{"n":1}`, `{"n":1,"hdr":"HIST"}`, `{"n":0,"hdr":"%%%"}`, `[]`} {
		var l Latency
		if err := l.UnmarshalJSON([]byte(text)); err == nil {
			t.Errorf("%s was read as %d latencies", text, l.N())
		}
	}
}
