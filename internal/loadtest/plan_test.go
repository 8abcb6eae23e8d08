package loadtest

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"tandem"
)

func plan(s Spec) []planned { return slices.Collect(s.schedule()) }

func TestAScheduleIsFixedByItsSeed(t *testing.T) {
	s := Spec{Rate: 500, Duration: 20 * time.Second, Arrivals: Poisson, SyncRatio: 0.3, Seed: 7}
	all := plan(s)
	if !slices.Equal(all, plan(s)) {
		t.Error("the same Spec has two schedules")
	}
	s.Seed++
	if slices.Equal(all, plan(s)) {
		t.Error("two seeds have one schedule")
	}
	var n [2]int
	last := time.Duration(0)
	for _, p := range all {
		if p.at < last || p.at >= s.Duration || p.seq != n[p.arm] || p.mode != tandem.Modes[p.arm] {
			t.Fatalf("request %+v after %v, %d before in its arm", p, last, n[p.arm])
		}
		last = p.at
		n[p.arm]++
	}
	if total := float64(n[0] + n[1]); math.Abs(total-10_000) > 400 { // four standard deviations
		t.Errorf("%v arrivals, want about 10000", total)
	}
	if part := float64(n[0]) / float64(n[0]+n[1]); math.Abs(part-0.3) > 0.02 {
		t.Errorf("%.3f of them are sync, want 0.3", part)
	}
}

func TestPoissonGapsAreExponential(t *testing.T) {
	s := Spec{Rate: 1000, Duration: 20 * time.Second, Arrivals: Poisson, Seed: 3}
	var gaps []float64
	last := 0.0
	for _, p := range plan(s) {
		gaps = append(gaps, p.at.Seconds()-last)
		last = p.at.Seconds()
	}
	slices.Sort(gaps)
	worst := 0.0 // Kolmogorov-Smirnov
	for i, g := range gaps {
		worst = max(worst, math.Abs(1-math.Exp(-1000*g)-float64(i+1)/float64(len(gaps))))
	}
	if limit := 1.95 / math.Sqrt(float64(len(gaps))); worst > limit { // one in a thousand
		t.Errorf("the gaps differ from an exponential distribution by %.4f, over %.4f", worst, limit)
	}
}

func TestConstantArrivalsAreEven(t *testing.T) {
	all := plan(Spec{Rate: 400, Duration: 2 * time.Second, Arrivals: Constant})
	if len(all) != 800 {
		t.Fatalf("%d arrivals, want 800", len(all))
	}
	for i, p := range all {
		if want := time.Duration(i) * 2500 * time.Microsecond; (p.at - want).Abs() > time.Microsecond {
			t.Fatalf("request %d is due at %v, want %v", i, p.at, want)
		}
	}
}

func TestARampRunsFromOneRateToTheOther(t *testing.T) {
	for _, rates := range [][2]float64{{50, 500}, {500, 50}} {
		all := plan(Spec{Rate: rates[0], RateTo: rates[1], Duration: 10 * time.Second, Arrivals: Constant})
		if math.Abs(float64(len(all))-2750) > 1 {
			t.Errorf("%v: %d arrivals, want 2750", rates, len(all))
		}
		for second := range 10 {
			n := 0
			for _, p := range all {
				if int(p.at/time.Second) == second {
					n++
				}
			}
			want := rates[0] + (rates[1]-rates[0])*(float64(second)+0.5)/10
			if math.Abs(float64(n)-want) > 1.5 {
				t.Errorf("%v: %d in second %d, want %v", rates, n, second, want)
			}
		}
	}
}

func TestBlocksTakeTurns(t *testing.T) {
	write := func(s Spec) string {
		var words []string
		var n [2]int
		for _, b := range s.turns() {
			if b.from != n[b.arm] {
				t.Errorf("%+v: block %+v begins elsewhere than at %d", s, b, n[b.arm])
			}
			n[b.arm] = b.to
			words = append(words, fmt.Sprintf("%c%d", "ab"[b.arm], b.to-b.from))
		}
		return strings.Join(words, " ")
	}
	for want, s := range map[string]Spec{
		"a1 b1":       {Requests: 2, Concurrency: 1, SyncRatio: 0.5},
		"a2 b1":       {Requests: 3, Concurrency: 5, SyncRatio: 0.5},
		"a8":          {Requests: 8, Concurrency: 1, SyncRatio: 1},
		"b8":          {Requests: 8, Concurrency: 1},
		"a5 b5 b5 a5": {Requests: 20, Concurrency: 2, SyncRatio: 0.5},
	} {
		if got := write(s); got != want {
			t.Errorf("%+v: %s, want %s", s, got, want)
		}
	}
	s := Spec{Requests: 400, Concurrency: 4, SyncRatio: 0.5, Pairs: 20, Seed: 5}
	if got := s.turns(); len(got) != 40 || !slices.Equal(got, s.turns()) {
		t.Errorf("20 pairs make %d blocks", len(got))
	}
	first := 0
	for i, b := range s.turns() {
		if i%2 == 0 && b.arm == 0 {
			first++
		}
	}
	if first < 4 || first > 16 {
		t.Errorf("sync goes first in %d of 20 pairs; the order is not random", first)
	}
	s.AA = true
	for _, b := range s.turns() {
		if b.mode != tandem.Sync {
			t.Errorf("an A/A test has a block of %s", b.mode)
		}
	}
}

func TestBothArmsGetTheSameInputs(t *testing.T) {
	if !bytes.Equal(input(3), input(3)) || bytes.Equal(input(3), input(4)) {
		t.Error("inputs are not those of their sequence numbers")
	}
}

func TestASpecIsChecked(t *testing.T) {
	good := Spec{Requests: 1, Concurrency: 1, Complexity: 1, Workload: "compute", SyncRatio: 1}
	open := Spec{Rate: 1, Duration: 10 * time.Second, Arrivals: Poisson, Complexity: 1, Workload: "compute"}
	for _, s := range []Spec{good, open} {
		if err := s.Check(); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
	}
	for want, edit := range map[string]func(s *Spec){
		"complexity must be from 1 to 10, is 11":             func(s *Spec) { s.Complexity = 11 },
		"workload must be named":                             func(s *Spec) { s.Workload = "" },
		"sync_ratio must be from 0 to 1, is NaN":             func(s *Spec) { s.SyncRatio = math.NaN() },
		"rate must be above 0":                               func(s *Spec) { s.Rate = 100_001 },
		"rate_to must be above 0":                            func(s *Spec) { s.RateTo = -1 },
		"duration must be positive":                          func(s *Spec) { s.Duration = 0 },
		"duration and rate make 0.5 requests":                func(s *Spec) { s.Duration = 500 * time.Millisecond },
		"duration and rate make 1e+08 requests":              func(s *Spec) { s.Rate, s.Duration = 100_000, 1000*time.Second },
		"arrivals must be poisson or constant":               func(s *Spec) { s.Arrivals = "bursts" },
		"concurrency must be from 0 to 10000, is -1":         func(s *Spec) { s.Concurrency = -1 },
		"requests must be from 1 to 20000000, is 0":          func(s *Spec) { *s = good; s.Requests = 0 },
		"concurrency must be from 1 to 10000, is 0":          func(s *Spec) { *s = good; s.Concurrency = 0 },
		"pairs must be from 10 to half of --requests, is 9":  func(s *Spec) { *s = good; s.Requests, s.Pairs = 40, 9 },
		"pairs must be from 10 to half of --requests, is 21": func(s *Spec) { *s = good; s.Requests, s.Pairs = 40, 21 },
		"requests must be from 1 to 20000000, is 3000":       func(s *Spec) { *s = good; s.Requests = 30_000_000 },
	} {
		s := open
		edit(&s)
		if err := s.Check(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", s, err, want)
		}
	}
}
