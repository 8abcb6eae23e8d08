package loadtest

import (
	"encoding/json"
	"math"
	"testing"
	"time"
)

func TestMergedLatenciesAreOneDistribution(t *testing.T) {
	var twin Latency
	text, err := json.Marshal(repeated(50, 9*time.Millisecond))
	if err == nil {
		err = json.Unmarshal(text, &twin)
	}
	if err != nil {
		t.Fatal(err)
	}
	first := repeated(50, time.Millisecond)
	both := Merge(first, Latency{}, twin)
	low, ok := both.Percentile(0.2)
	high, okToo := both.Percentile(0.8)
	if both.N() != 100 || !ok || !okToo || low.Round(time.Millisecond) != time.Millisecond || high.Round(time.Millisecond) != 9*time.Millisecond {
		t.Errorf("of 50 of 1 ms and 50 of 9 ms there are %d, p20 %v, p80 %v", both.N(), low, high)
	}
	if first.N() != 50 {
		t.Errorf("merging changed what was merged: %d", first.N())
	}
}

func TestAPercentileNeedsEnoughSamples(t *testing.T) {
	for q, n := range map[float64]int{0.5: 11, 0.95: 130, 0.99: 662, 0.999: 6636} {
		if Enough(n-1, q) || !Enough(n, q) {
			t.Errorf("p%g should need %d samples", 100*q, n)
		}
		if _, ok := repeated(n-1, time.Millisecond).Percentile(q); ok {
			t.Errorf("p%g is told of %d samples", 100*q, n-1)
		}
		if d, ok := repeated(n, time.Millisecond).Percentile(q); !ok || d.Round(time.Millisecond) != time.Millisecond {
			t.Errorf("p%g of %d of 1 ms is %v, %v", 100*q, n, d, ok)
		}
	}
}

func TestALatencyIsReadAsItWasWritten(t *testing.T) {
	var read Latency
	for _, bad := range []string{`{"n":3}`, `{"n":1,"hdr":"HISTogram"}`, `{"n":"1"}`} {
		if err := json.Unmarshal([]byte(bad), &read); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
	l := newLatency()
	for _, d := range []time.Duration{-time.Second, 0, 1234 * time.Microsecond, 2 * time.Hour} { // none is lost, whatever it is
		l.record(d)
	}
	text, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	longest, _ := read.Max()
	if read.N() != 4 || longest.Round(time.Minute) != time.Hour {
		t.Errorf("of %s there are %d, the longest %v", text, read.N(), longest)
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
