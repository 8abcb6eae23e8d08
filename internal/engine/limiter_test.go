package engine

import (
	"container/heap"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tandem"
)

// simulation is a service of some slots on a clock of its own, with a limiter's
// decisions in front of it. served says how long work takes in its slot, when
// so many hold one.
type simulation struct {
	limit    concurrencyLimit
	slots    int
	deadline time.Duration // who has waited so long leaves
	served   func(busy int) time.Duration
	usual    time.Duration // what served is for a few
	random   *rand.Rand

	now     time.Time
	waiting []arrival
	working ends
	inside  int

	refused, late int
	latencies     []time.Duration
}

type arrival struct {
	at       time.Time
	inFlight int
	begun    time.Time
	ends     time.Time
}

type ends []arrival

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].ends.Before(e[j].ends) }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(arrival)) }
func (e *ends) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// run offers perSecond requests for so long.
func (s *simulation) run(perSecond float64, length time.Duration) {
	for until := s.now.Add(length); s.now.Before(until); {
		s.advance(s.now.Add(time.Duration(s.random.ExpFloat64() / perSecond * float64(time.Second))))
		if !s.limit.admits(s.inside) {
			s.refused++
			continue
		}
		s.inside++
		s.waiting = append(s.waiting, arrival{at: s.now, inFlight: s.inside})
		s.begin()
	}
}

// advance works until the time.
func (s *simulation) advance(to time.Time) {
	for len(s.working) > 0 && !s.working[0].ends.After(to) {
		done := heap.Pop(&s.working).(arrival)
		s.now = done.ends
		s.end(done)
		s.begin()
	}
	s.now = to
}

func (s *simulation) begin() {
	for len(s.waiting) > 0 && len(s.working) < s.slots {
		next := s.waiting[0]
		s.waiting = s.waiting[1:]
		if s.now.Sub(next.at) > s.deadline {
			s.late++
			s.end(next)
			continue
		}
		next.begun = s.now
		next.ends = s.now.Add(s.served(len(s.working) + 1))
		heap.Push(&s.working, next)
	}
}

func (s *simulation) end(a arrival) {
	s.inside--
	sample := sample{at: s.now, inFlight: a.inFlight, latency: s.now.Sub(a.at), served: s.usual, noLoad: s.usual}
	if !a.begun.IsZero() {
		sample.served = s.now.Sub(a.begun)
		s.latencies = append(s.latencies, sample.latency)
	}
	s.limit = s.limit.note(sample)
}

func (s *simulation) p99() time.Duration {
	slices.Sort(s.latencies)
	return s.latencies[len(s.latencies)*99/100]
}

// Ten times what the slots can do is offered for a minute. What they do is what
// they can, and who is admitted is answered about as soon as is tolerated.
func TestTheConcurrencyLimitUnderTenTimesTheLoad(t *testing.T) {
	const target = 500 * time.Millisecond
	for _, row := range []struct {
		name  string
		slots int
		work  time.Duration
	}{
		{"short work on two slots", 2, 5 * time.Millisecond},
		{"long work on two slots", 2, 200 * time.Millisecond},
		{"work as long as the target on one slot", 1, target},
		{"very short work on sixteen slots", 16, time.Millisecond},
		{"waiting work on many slots", 512, 100 * time.Millisecond},
	} {
		t.Run(row.name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			spread := func(int) time.Duration { return time.Duration((0.5 + random.Float64()) * float64(row.work)) }
			s := &simulation{limit: newConcurrencyLimit(row.slots, target), slots: row.slots, deadline: 4 * target, served: spread, usual: row.work, random: random, now: time.Now()}
			capacity := float64(row.slots) / row.work.Seconds()
			s.run(capacity/2, 30*time.Second)
			if s.refused > len(s.latencies)/20 { // few wait at a time for one slot
				t.Errorf("%d were refused at half of the capacity, %d were not", s.refused, len(s.latencies))
			}
			s.run(10*capacity, 10*time.Second) // to find the limit
			s.latencies = nil
			s.run(10*capacity, time.Minute)
			goodput := float64(len(s.latencies)) / 60
			t.Logf("capacity %.0f/s, goodput %.0f/s, p99 %v, limit %.0f", capacity, goodput, s.p99().Round(time.Millisecond), s.limit.limit)
			if goodput < 0.9*capacity {
				t.Errorf("goodput is %.0f/s of %.0f/s", goodput, capacity)
			}
			if bound := 2 * (2*row.work + target); s.p99() > bound {
				t.Errorf("p99 is %v, want at most %v", s.p99(), bound)
			}
			s.run(capacity/2, 5*time.Second)
			s.latencies, s.refused = nil, 0
			s.run(capacity/2, 30*time.Second)
			t.Logf("after it p99 %v; %d refused of %d", s.p99().Round(time.Millisecond), s.refused, s.refused+len(s.latencies))
			if s.refused > len(s.latencies)/10 {
				t.Errorf("%d are refused after the overload, %d are not", s.refused, len(s.latencies))
			}
		})
	}
}

// An upstream that gets slower the more it is asked has no queue of ours to be
// seen by. It is asked by as many at once as it can bear.
func TestTheConcurrencyLimitSparesAnUpstreamThatGetsSlower(t *testing.T) {
	const usual, bears = 50 * time.Millisecond, 40
	s := &simulation{limit: newConcurrencyLimit(512, 500*time.Millisecond), slots: 512, deadline: 2 * time.Second, usual: usual, random: rand.New(rand.NewPCG(1, 2)), now: time.Now(),
		served: func(busy int) time.Duration { return usual * time.Duration(max(bears, busy)) / bears }}
	s.run(10*bears/usual.Seconds(), 10*time.Second)
	s.latencies = nil
	s.run(10*bears/usual.Seconds(), time.Minute)
	goodput := float64(len(s.latencies)) / 60
	t.Logf("goodput %.0f/s of %.0f/s, p99 %v, limit %.0f", goodput, bears/usual.Seconds(), s.p99().Round(time.Millisecond), s.limit.limit)
	if goodput < 0.9*bears/usual.Seconds() || s.p99() > 2*(2*usual+500*time.Millisecond) {
		t.Errorf("goodput is %.0f/s, p99 %v", goodput, s.p99())
	}
}

func TestTheConcurrencyLimitIsOneDecisionAWindow(t *testing.T) {
	start := time.Now()
	base := concurrencyLimit{limit: 100, least: 3, most: 200, target: 100 * time.Millisecond}
	const ms = time.Millisecond
	for _, row := range []struct {
		name   string
		sample sample // ten of them, 20 ms apart
		want   float64
	}{
		{"latency as tolerated, made use of: up by the root", sample{inFlight: 100, latency: 50 * ms, served: 5 * ms, noLoad: 5 * ms}, 110},
		{"latency as tolerated, to the millisecond: as it is", sample{inFlight: 100, latency: 110 * ms, served: 5 * ms, noLoad: 5 * ms}, 100},
		{"a little less: up by as little", sample{inFlight: 105, latency: 105 * ms, served: 5 * ms, noLoad: 5 * ms}, 110},
		{"just under half made use of: as it is", sample{inFlight: 49, latency: 50 * ms, served: 5 * ms, noLoad: 5 * ms}, 100},
		{"half made use of: up", sample{inFlight: 50, latency: 50 * ms, served: 5 * ms, noLoad: 5 * ms}, 110},
		{"twice what is tolerated: by half", sample{inFlight: 100, latency: 220 * ms, served: 5 * ms, noLoad: 5 * ms}, 50},
		{"twice, with twice the limit in flight: as it is", sample{inFlight: 200, latency: 220 * ms, served: 5 * ms, noLoad: 5 * ms}, 100},
		{"far too much: no further than the least", sample{inFlight: 10, latency: time.Minute, served: 5 * ms, noLoad: 5 * ms}, 3},
		{"long work is no load", sample{inFlight: 60, latency: 900 * ms, served: 900 * ms, noLoad: 900 * ms}, 110},
		{"work that got longer under load is", sample{inFlight: 60, latency: 420 * ms, served: 420 * ms, noLoad: 55 * ms}, 30},
	} {
		c := base
		for i := range 10 {
			s := row.sample
			s.at = start.Add(time.Duration(i) * 20 * time.Millisecond)
			if i < 9 {
				s.at = start
			}
			c = c.note(s)
		}
		if c.limit != row.want {
			t.Errorf("%s: the limit is %v, want %v", row.name, c.limit, row.want)
		}
		if c.n != 0 {
			t.Errorf("%s: the window goes on", row.name)
		}
	}
	if c := (concurrencyLimit{limit: 199, least: 3, most: 200, target: 100 * ms, n: 9, began: start, inFlight: 1800, latency: 45 * ms, served: 45 * ms, noLoad: 45 * ms}).
		note(sample{at: start.Add(time.Second), inFlight: 199, latency: 5 * ms, served: 5 * ms, noLoad: 5 * ms}); c.limit != 200 {
		t.Errorf("the limit is %v, past the most", c.limit)
	}
	if c := base.note(sample{at: start, inFlight: 100, latency: ms}); c.limit != 100 || c.n != 1 {
		t.Errorf("a single sample was judged: %+v", c)
	}
	if c := base.note(sample{at: start, inFlight: 100, latency: 3 * time.Second, served: ms, noLoad: ms}); c.limit > 4 {
		t.Errorf("a sample that lasted longer than any window was not: %+v", c)
	}
}

func TestRetryAfterSpreadsWhoComesBack(t *testing.T) {
	now := time.Now()
	var a retryAfter
	var away time.Duration
	for i, want := range []time.Duration{time.Second, 1100 * time.Millisecond, 1200 * time.Millisecond} {
		if a, away = a.next(now, time.Second, 100*time.Millisecond, 0); away != want {
			t.Errorf("the time to come back of refusal %d is in %v, want %v", i+1, away, want)
		}
	}
	if _, away = a.next(now.Add(time.Hour), time.Second, 100*time.Millisecond, 0); away != time.Second {
		t.Errorf("after an hour it is in %v", away)
	}
	for range 1000 {
		a, away = a.next(now, time.Second, 100*time.Millisecond, 0.5)
	}
	if away != 22500*time.Millisecond {
		t.Errorf("past the longest it is in %v, want the middle of its second half", away)
	}
	if a, _ = a.next(now, time.Second, time.Hour, 0.5); a.last.After(now.Add(longestRetryAfter)) {
		t.Errorf("the last is in %v: none ends it", a.last.Sub(now))
	}
}

// Who is refused and comes back when told gets in, however many were refused
// with it.
func TestWhoComesBackWhenToldGetsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const work, slots, callers = 50 * time.Millisecond, 2, 600
		l := newLimiter(slots, 500*time.Millisecond)
		free := make(chan struct{}, slots)
		tries := make([]int, callers)
		done := make(chan int)
		for i := range callers {
			go func() {
				time.Sleep(time.Duration(i) * work / slots / 10) // ten times what can be worked
				for {
					tries[i]++
					p, err := l.acquire(&tandem.Request{Workload: "compute", Complexity: 1})
					if err == nil {
						free <- struct{}{}
						p.begun = time.Now()
						time.Sleep(work)
						<-free
						p.record()
						done <- i
						return
					}
					busy, _ := errors.AsType[*tandem.Error](err)
					time.Sleep(busy.RetryAfter)
				}
			}()
		}
		start := time.Now()
		for range callers {
			<-done
		}
		took := time.Since(start)
		slices.Sort(tries)
		_, inFlight, refused := l.state()
		t.Logf("%d callers were worked in %v; %d refusals; tries: median %d, p99 %d, most %d", callers, took, refused, tries[callers/2], tries[callers*99/100], tries[callers-1])
		if tries[callers/2] > 2 || tries[callers-1] > 4 {
			t.Errorf("half of them took up to %d tries, the last %d", tries[callers/2], tries[callers-1])
		}
		if least := callers * work / slots; took > 2*least {
			t.Errorf("it took %v, the work alone %v", took, least)
		}
		if inFlight != 0 {
			t.Errorf("%d are in flight when all have left", inFlight)
		}
	})
}

func TestALimiterLearnsWhatWorkTakesWithoutLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(512, 500*time.Millisecond)
		req := &tandem.Request{Workload: "http", Complexity: 1}
		serve := func(served time.Duration) {
			p, err := l.acquire(req)
			if err != nil {
				t.Fatal(err)
			}
			p.begun = time.Now()
			time.Sleep(served)
			p.record()
		}
		for range 100 {
			serve(10 * time.Millisecond)
		}
		// Now it is slower for good, and by more than is tolerated. The limit
		// falls, and rises again once that is known to be usual.
		lowest := 512
		for range 200 {
			serve(3 * time.Second)
			limit, _, _ := l.state()
			lowest = min(lowest, limit)
		}
		if lowest > 17 {
			t.Errorf("the limit fell to %d only", lowest)
		}
		if usual := l.noLoad[kindOfWork{"http", 1}]; usual < 2900*time.Millisecond {
			t.Errorf("%v is held to be usual", usual)
		}
		var all []*permit
		for range 16 {
			p, err := l.acquire(req)
			if err != nil {
				t.Fatal("nobody is admitted for good:", err)
			}
			p.begun = time.Now()
			all = append(all, p)
		}
		time.Sleep(3 * time.Second)
		for _, p := range all {
			p.record()
		}
		if limit, _, _ := l.state(); limit < lowest {
			t.Errorf("the limit is %d", limit)
		}
	})
}
