package engine

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"tandem/internal/callback"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func TestAWindowHoldsTenMinutes(t *testing.T) {
	w := &window{}
	if p := w.percentiles(noon); p.N != 0 {
		t.Errorf("an empty window has %d durations", p.N)
	}
	for i := range 100 {
		w.add(noon, time.Duration(i+1)*time.Millisecond)
	}
	within := func(what string, got, want time.Duration) {
		t.Helper()
		if got < want || float64(got) > 1.01*float64(want) { // two digits, and never less than what was measured
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	p := w.percentiles(noon.Add(10*time.Minute + 59*time.Second)) // the last moment of the tenth minute after
	if p.N != 100 {
		t.Fatalf("%d durations after ten minutes, want 100", p.N)
	}
	within("p50", p.P50, 50*time.Millisecond)
	within("p95", p.P95, 95*time.Millisecond)
	within("p99", p.P99, 99*time.Millisecond)
	if p := w.percentiles(noon.Add(11 * time.Minute)); p.N != 0 {
		t.Errorf("%d durations after eleven minutes, want none", p.N)
	}

	w.add(noon.Add(11*time.Minute), time.Second) // where noon's minute was kept
	if p := w.percentiles(noon.Add(11 * time.Minute)); p.N != 1 || p.P50 < time.Second {
		t.Errorf("%+v after the ring has come round, want the one duration of a second", p)
	}
}

func TestAWindowClampsWhatItCannotHold(t *testing.T) {
	w := &window{}
	w.add(noon, -time.Second)
	w.add(noon, 1000*time.Hour)
	if p := w.percentiles(noon); p.N != 2 {
		t.Errorf("%d durations, want 2: nothing is dropped", p.N)
	}
}

func TestATallyCountsTheLastWholeMinute(t *testing.T) {
	began := noon.Add(-time.Hour)
	c := &meter{}
	for range 120 {
		c.add(noon)
	}
	for _, row := range []struct {
		name  string
		after time.Duration
		want  float64
	}{
		{"the second under way does not count", 0, 0},
		{"a second later it does", time.Second, 2},
		{"after a minute still", 60 * time.Second, 2},
		{"after that no more", 61 * time.Second, 0},
	} {
		if got := c.perSecond(noon.Add(row.after), began); got != row.want {
			t.Errorf("%s: %v per second, want %v", row.name, got, row.want)
		}
	}
	if got := c.perSecond(noon.Add(10*time.Second), noon); got != 12 {
		t.Errorf("%v per second ten seconds after the start, want 12", got)
	}
}

func TestAHostIsLimitedAndLeftAloneOnItsOwn(t *testing.T) {
	h := newHosts(2)
	admit := func(name string, at time.Time) bool { return h.admit(name, at).OK }
	for i, want := range []bool{true, true, false} {
		if admit("a", noon) != want {
			t.Fatalf("attempt %d: want two in flight, no third", i+1)
		}
	}
	if !admit("b", noon) {
		t.Fatal("one full host holds up another")
	}
	h.leave("a", noon, callback.Well)
	if !admit("a", noon) {
		t.Fatal("an attempt that ended leaves no room")
	}
	for range 2 {
		h.leave("a", noon, callback.Silent)
	}
	h.leave("b", noon, callback.Well)
	if n := len(h.known); n != 0 {
		t.Errorf("%d hosts are remembered without a reason", n)
	}

	for i := range callback.BreakerFailures {
		if !admit("a", noon) {
			t.Fatalf("left alone after %d failures", i)
		}
		h.leave("a", noon, callback.Ill)
	}
	refused := h.admit("a", noon)
	if refused.OK || !refused.Until.Equal(noon.Add(callback.BreakerOpen)) {
		t.Errorf("after %d failures in a row: %+v, want to be told to come back after %v", callback.BreakerFailures, refused, callback.BreakerOpen)
	}
	if states := h.states(noon, 10); len(states) != 1 || states[0] != (HostState{Host: "a", Breaker: "open"}) {
		t.Errorf("states are %+v, want a, open", states)
	}
	later := noon.Add(callback.BreakerOpen)
	for i, want := range []bool{true, false} {
		if admit("a", later) != want {
			t.Errorf("half-open, attempt %d: want one probe and no second", i+1)
		}
	}
	h.leave("a", later, callback.Silent)
	if !admit("a", later) {
		t.Error("a probe that was not made keeps the next one back")
	}
	if n := h.byBreaker(later); n["half_open"] != 1 || n["open"] != 0 {
		t.Errorf("by breaker: %v, want one half-open", n)
	}
	h.leave("a", later, callback.Well)
	for range 2 {
		if !admit("a", later) {
			t.Error("a probe that succeeded does not close the breaker")
		}
	}
}

func TestHostsRememberedForFailuresAreBounded(t *testing.T) {
	h := newHosts(1)
	h.admit("in flight", noon)
	for i := range maxIdleHosts + 100 {
		name := fmt.Sprint(i)
		h.admit(name, noon)
		h.leave(name, noon, callback.Ill)
	}
	if n := len(h.known); n > maxIdleHosts {
		t.Errorf("%d hosts are remembered, over %d", n, maxIdleHosts)
	}
	if h.known["in flight"] == nil {
		t.Error("a host with an attempt in flight was forgotten")
	}
}

// A million callbacks to as many hosts are given up. What is remembered of them
// is bounded, and so is what finding that out costs.
func TestAMillionHostsTakeBoundedMemory(t *testing.T) {
	h := newHosts(10)
	before := heapInUse()
	for i := range 1_000_000 {
		name := fmt.Sprintf("host-%d.example:443", i)
		for range callback.BreakerFailures {
			if h.admit(name, noon).OK {
				h.leave(name, noon, callback.Ill)
			}
		}
	}
	grown := heapInUse() - before
	t.Logf("%d hosts are remembered in %.1f MB", len(h.known), float64(grown)/1e6)
	if len(h.known) > maxIdleHosts {
		t.Errorf("%d hosts are remembered, over %d", len(h.known), maxIdleHosts)
	}
	if grown > 10<<20 {
		t.Errorf("they take %d bytes", grown)
	}
	if n := h.byBreaker(noon); n["open"] < maxIdleHosts*9/10 {
		t.Errorf("of those remembered %v", n)
	}
	runtime.KeepAlive(h.known)
}

// A million callbacks to one host are given up: that is one host.
func TestAMillionCallbacksToOneHostTakeNoMemory(t *testing.T) {
	h := newHosts(10)
	made, now := 0, noon
	for range 1_000_000 {
		if h.admit("dead.example:443", now).OK {
			h.leave("dead.example:443", now, callback.Ill)
			made++
		}
		now = now.Add(time.Second)
	}
	if len(h.known) != 1 {
		t.Errorf("%d hosts are remembered", len(h.known))
	}
	if most := callback.BreakerFailures + int(1_000_000*time.Second/callback.BreakerOpen) + 1; made > most {
		t.Errorf("%d attempts were let through, want at most %d", made, most)
	}
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
