package loadtest

import (
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"time"

	"tandem"
)

// planned is one request of the plan. Its arm is 0 or 1, and seq counts the
// requests of its arm from 0; so those with the same seq carry the same input.
type planned struct {
	arm  int
	mode tandem.Mode
	seq  int
	at   time.Duration // when it is due

	free  time.Duration // when it could be sent at the earliest, if that is later
	grant int           // the throttle's number for it
}

// input is the i-th input, the same for both arms.
func input(i int) []byte {
	return fmt.Appendf(nil, `{"order":%d,"values":[%d,%d.5,%d]}`, i+1, i%7+1, i%11+1, i%13+1)
}

// schedule is the plan of an open model: a pure function of the Spec, so that
// nothing that happens in the run can move it. Requests come in the order of
// their times.
func (s Spec) schedule() iter.Seq[planned] {
	return func(yield func(planned) bool) {
		random := rand.New(rand.NewPCG(s.Seed, 0))
		curve := s.curve()
		var seq [2]int
		for n, nth := 0, 0.0; ; n++ {
			if s.Arrivals == Poisson {
				nth += random.ExpFloat64()
			} else {
				nth = float64(n)
			}
			at := curve.when(nth)
			if at >= s.Duration.Seconds() {
				return
			}
			p := planned{arm: 1, mode: tandem.Async, at: time.Duration(at * float64(time.Second))}
			if random.Float64() < s.SyncRatio {
				p.arm, p.mode = 0, tandem.Sync
			}
			p.seq = seq[p.arm]
			seq[p.arm]++
			if !yield(p) {
				return
			}
		}
	}
}

// curve is a rate that changes evenly from one value to another. The arrivals
// of an uneven rate are those of the rate one, each moved to the time by which
// the curve expects as many (the time-rescaling theorem of Poisson processes).
type curve struct {
	from, to float64 // per second
	over     float64 // seconds
}

func (s Spec) curve() curve {
	c := curve{from: s.Rate, to: s.RateTo, over: s.Duration.Seconds()}
	if c.to == 0 {
		c.to = c.from
	}
	return c
}

// total is how many arrivals are expected in all.
func (c curve) total() float64 { return (c.from + c.to) / 2 * c.over }

// when is the time in seconds by which n arrivals are expected: the solution of
// from*t + (to-from)/(2*over)*t^2 = n.
func (c curve) when(n float64) float64 {
	slope := (c.to - c.from) / c.over
	root := c.from*c.from + 2*slope*n
	if root < 0 {
		return math.Inf(1) // a falling rate never reaches n
	}
	return 2 * n / (c.from + math.Sqrt(root))
}
