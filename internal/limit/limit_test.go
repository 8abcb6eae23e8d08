package limit

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// clock is a time that only the test moves.
type clock struct{ at time.Time }

func newClock() *clock { return &clock{time.Now()} }

func (c *clock) after(d time.Duration) time.Time { return c.at.Add(d) }

func TestNoWindowHoldsMoreThanTheRate(t *testing.T) {
	l, c := New(Rate{3, 10 * time.Second}), newClock()
	for _, step := range []struct {
		at        time.Duration
		ok        bool
		remaining int
		retry     time.Duration
	}{
		{0 * time.Second, true, 2, 0},
		{1 * time.Second, true, 1, 0},
		{9 * time.Second, true, 0, 0},
		{9*time.Second + 500*time.Millisecond, false, 0, 500 * time.Millisecond},
		{10*time.Second - 1, false, 0, 1}, // just before the first leaves the window
		{10 * time.Second, true, 0, 0},    // and as it leaves
		{10 * time.Second, false, 0, time.Second},
		{11 * time.Second, true, 0, 0},
		{18 * time.Second, false, 0, time.Second},
		{19 * time.Second, true, 0, 0},
		{60 * time.Second, true, 2, 0}, // all forgotten
	} {
		d := l.Take("a", c.after(step.at))
		if d.OK != step.ok || d.Remaining != step.remaining || d.Retry != step.retry {
			t.Errorf("at %v: got %+v, want ok %v, remaining %d, retry %v", step.at, d, step.ok, step.remaining, step.retry)
		}
		if d.Limit != 3 || d.Window != 10*time.Second {
			t.Errorf("at %v: the decision tells a rate of %d in %v", step.at, d.Limit, d.Window)
		}
	}
	if allowed, refused, callers := l.Counts(); allowed != 7 || refused != 4 || callers != 1 {
		t.Errorf("counts are %d allowed, %d refused, %d callers, want 7, 4, 1", allowed, refused, callers)
	}
}

func TestWaitingAsLongAsToldIsEnoughAndNoLess(t *testing.T) {
	for n := 1; n <= 7; n++ {
		l, c := New(Rate{n, time.Second}), newClock()
		for i := range n {
			if d := l.Take("a", c.after(time.Duration(i)*37*time.Millisecond)); !d.OK {
				t.Fatalf("n %d: request %d was refused", n, i)
			}
		}
		now := time.Duration(n-1)*37*time.Millisecond + 11
		for range 3 * n {
			d := l.Take("a", c.after(now))
			if d.OK {
				t.Fatalf("n %d: a window holds more than %d", n, n)
			}
			if d.Reset != d.Retry {
				t.Errorf("n %d: reset %v, retry %v: a refused caller's quota grows when it may retry", n, d.Reset, d.Retry)
			}
			if early := l.Take("a", c.after(now+d.Retry-1)); early.OK {
				t.Fatalf("n %d: allowed a nanosecond before Retry", n)
			}
			now += d.Retry
			if d := l.Take("a", c.after(now)); !d.OK {
				t.Fatalf("n %d: refused after waiting as long as told; told %v more", n, d.Retry)
			}
		}
	}
}

// The rule in its plainest form: of any stretch as long as the window, at most
// N; and a request is refused only if it would break that.
func TestDecisionsAreThoseOfTheRuleInItsPlainestForm(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		rate := Rate{1 + random.IntN(6), time.Second}
		l, c := New(rate), newClock()
		var taken []time.Duration
		now := time.Duration(0)
		for range 60 {
			switch random.IntN(4) {
			case 0: // at once
			case 1:
				now += 1
			case 2:
				now += time.Duration(random.Int64N(int64(rate.Window)))
			case 3: // as the oldest leaves the window, or a nanosecond before
				if n := len(taken); n >= rate.N {
					now = max(now, taken[n-rate.N]+rate.Window-time.Duration(random.IntN(2)))
				}
			}
			var inWindow []time.Duration
			for _, at := range taken {
				if at > now-rate.Window {
					inWindow = append(inWindow, at)
				}
			}
			want := Decision{OK: len(inWindow) < rate.N, Limit: rate.N, Window: rate.Window, Reset: rate.Window}
			if len(inWindow) > 0 {
				want.Reset = inWindow[0] + rate.Window - now
			}
			if !want.OK {
				want.Retry = want.Reset
			}
			want.Remaining = rate.N - len(inWindow)
			if got := l.Look("a", c.after(now)); got != want {
				t.Fatalf("%v at %v, after %v: a look gives %+v, want %+v", rate, now, inWindow, got, want)
			}
			if want.OK {
				want.Remaining--
				taken = append(taken, now)
			}
			if got := l.Take("a", c.after(now)); got != want {
				t.Fatalf("%v at %v, after %v: got %+v, want %+v", rate, now, inWindow, got, want)
			}
		}
	}
}

func TestSleepingAsLongAsToldIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Rate{2, time.Minute})
		l.Take("a", time.Now())
		time.Sleep(17 * time.Second)
		l.Take("a", time.Now())
		d := l.Take("a", time.Now())
		if d.OK || d.Retry != 43*time.Second {
			t.Fatalf("the third in a minute: %+v", d)
		}
		time.Sleep(d.Retry - 1)
		if l.Take("a", time.Now()).OK {
			t.Error("allowed a nanosecond early")
		}
		time.Sleep(time.Nanosecond)
		if !l.Take("a", time.Now()).OK {
			t.Error("refused after sleeping as long as told")
		}
	})
}

// A caller takes the time before it takes the lock, so it may come second with
// the earlier time.
func TestTimesMayComeALittleOutOfOrder(t *testing.T) {
	l, c := New(Rate{2, time.Second}), newClock()
	l.Take("a", c.after(101))
	l.Take("a", c.after(100))
	if d := l.Take("a", c.after(time.Second+100)); d.OK || d.Retry != 1 {
		t.Errorf("before the later one has left the window: %+v", d)
	}
	if d := l.Take("a", c.after(time.Second+101)); !d.OK {
		t.Errorf("when both have: %+v", d)
	}
}

func TestTheZeroRateAllowsEverything(t *testing.T) {
	l, c := New(Rate{}), newClock()
	for range 100 {
		if d := l.Take("a", c.after(0)); !d.OK || d.Retry != 0 {
			t.Fatalf("refused: %+v", d)
		}
	}
	if allowed, refused, callers := l.Counts(); allowed != 100 || refused != 0 || callers != 0 {
		t.Errorf("counts are %d allowed, %d refused, %d callers", allowed, refused, callers)
	}
}

func TestARefusalIsNotCountedAgainstItsCaller(t *testing.T) {
	l, c := New(Rate{1, time.Second}), newClock()
	l.Take("a", c.after(0))
	for i := range 100 {
		l.Take("a", c.after(time.Duration(i)*time.Millisecond))
	}
	if d := l.Take("a", c.after(time.Second)); !d.OK {
		t.Errorf("a hundred refusals later: %+v", d)
	}
}

func TestCallersHaveLogsOfTheirOwn(t *testing.T) {
	l, c := New(Rate{1, time.Minute}), newClock()
	for _, key := range []string{"a", "b", "c"} {
		if d := l.Take(key, c.after(0)); !d.OK {
			t.Errorf("the first request of %s was refused", key)
		}
		if d := l.Take(key, c.after(1)); d.OK {
			t.Errorf("the second request of %s was allowed", key)
		}
	}
}

func TestCallersInMindAreBounded(t *testing.T) {
	l, c := New(Rate{1, time.Hour}), newClock()
	key := func(i int) string { return fmt.Sprintf("caller-%d", i) }
	for i := range maxCallers {
		l.Take(key(i), c.after(0))
	}
	if l.Take(key(0), c.after(1)).OK { // which makes it the one seen last
		t.Fatal("a caller within the bound was forgotten")
	}
	l.Take("one more", c.after(2))
	if _, _, callers := l.Counts(); callers != maxCallers {
		t.Errorf("%d callers in mind, want %d", callers, maxCallers)
	}
	if l.Take(key(0), c.after(3)).OK {
		t.Error("the caller seen last was forgotten")
	}
	if !l.Take(key(1), c.after(3)).OK {
		t.Error("the caller not seen for longest was not forgotten")
	}
}

func TestLoggedRequestsAreBounded(t *testing.T) {
	const each = maxLogged / 4
	l, c := New(Rate{each, time.Hour}), newClock()
	for _, key := range []string{"a", "b", "c", "d", "e"} {
		for i := range each {
			l.Take(key, c.after(time.Duration(i)))
		}
	}
	if l.logged > maxLogged {
		t.Errorf("%d requests are logged, over the bound of %d", l.logged, maxLogged)
	}
	if _, _, callers := l.Counts(); callers != 4 {
		t.Errorf("%d callers in mind, want the last four", callers)
	}
	if l.Take("e", c.after(each)).OK {
		t.Error("the caller seen last was forgotten")
	}
}

func TestConcurrentCallersShareExactlyTheRate(t *testing.T) {
	l, c := New(Rate{100, time.Minute}), newClock()
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for range 50 {
				l.Take("all", c.after(time.Duration(i)))
			}
		})
	}
	callers.Wait()
	if allowed, refused, _ := l.Counts(); allowed != 100 || refused != 300 {
		t.Errorf("%d allowed and %d refused of 400, want 100 and 300", allowed, refused)
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]Rate{
		"50/60s":     {50, time.Minute},
		"1/1s":       {1, time.Second},
		"3/1500ms":   {3, 1500 * time.Millisecond},
		" 5 / 2m ":   {5, 2 * time.Minute},
		"1000000/1h": {1_000_000, time.Hour},
	} {
		got, err := ParseRate(text)
		if err != nil || got != want {
			t.Errorf("ParseRate(%q) = %v, %v; want %v", text, got, err, want)
		}
		if again, err := ParseRate(got.String()); err != nil || again != got {
			t.Errorf("ParseRate(%q) = %v, %v; want what it is the text of", got.String(), again, err)
		}
	}
	if got := (Rate{50, time.Minute}).String(); got != "50/60s" {
		t.Errorf("a rate is shown as %s, and given as 50/60s", got)
	}
	for _, text := range []string{"", "50", "50/", "/60s", "0/60s", "-1/60s", "1000001/60s", "99999999999999999999/60s", "50/999999999h", "1e3/60s", "50 60s", "50/60", "50/999ms", "50/0.999999999s", "50/0s", "50/-1s", "5.5/60s", "50/60s/1", "x/60s", "50/x"} {
		if got, err := ParseRate(text); err == nil || !strings.Contains(err.Error(), "50/60s") {
			t.Errorf("ParseRate(%q) = %v, %v; want an error that shows how to write it", text, got, err)
		}
	}
}

func TestAMillionCallersTakeBoundedMemory(t *testing.T) {
	for rate, callers := range map[Rate]int{{50, time.Minute}: 1_000_000, {10_000, time.Hour}: 1_000} {
		l, c := New(rate), newClock()
		before := heapInUse()
		for i := range callers {
			key := fmt.Sprintf("2001:db8:%x:%x::/64", i>>16, i&0xffff)
			for range 2 {
				l.Take(key, c.after(time.Duration(i)*time.Microsecond))
			}
		}
		for i := range 250 { // and some who use up all that they may
			for range rate.N {
				l.Take(fmt.Sprint("greedy ", i), c.after(time.Second))
			}
		}
		grown := heapInUse() - before
		_, _, kept := l.Counts()
		t.Logf("%v: %d callers are kept in mind in %.1f MB", rate, kept, float64(grown)/1e6)
		if kept > maxCallers {
			t.Errorf("%v: %d callers are kept in mind, over %d", rate, kept, maxCallers)
		}
		if grown > 40<<20 {
			t.Errorf("%v: they take %d bytes", rate, grown)
		}
		runtime.KeepAlive(l)
	}
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
