package loadtest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// How sure a comparison must be.
const (
	resamples    = 10_000
	fewestPairs  = 10
	confidence   = 0.95
	indifference = 0.05 // ratios within it of 1 are equivalent
)

// metrics are the figures that are compared. With seven of them a 95 % interval
// for each would find a difference in many an A/A test. So a difference is
// claimed if the ratio is beyond indifference and the interval at the level of
// Bonferroni, 1 - 0.05/7, leaves 1 out; two arms are equivalent if the 95 %
// interval lies within indifference.
var metrics = []struct {
	name string
	of   func(Block) Latency
	q    float64
}{
	{"acceptance.p50", func(b Block) Latency { return b.Response }, 0.50},
	{"acceptance.p95", func(b Block) Latency { return b.Response }, 0.95},
	{"acceptance.p99", func(b Block) Latency { return b.Response }, 0.99},
	{"completion.p50", func(b Block) Latency { return b.Completion }, 0.50},
	{"completion.p95", func(b Block) Latency { return b.Completion }, 0.95},
	{"completion.p99", func(b Block) Latency { return b.Completion }, 0.99},
	{"throughput", nil, 0},
}

// compare compares the arms of a comparison's blocks: by the ratio of their
// pooled figures, and the paired block bootstrap of it, in which whole pairs of
// blocks are drawn anew. What is alike in a pair, as what the machine did
// meanwhile, does not count as a difference.
func compare(blocks []Block, seed uint64) []Metric {
	pairs := pairUp(blocks)
	var all []Metric
	for _, m := range metrics {
		result := Metric{Name: m.name, Unit: "s"}
		var figure func(drawn []int) (a, b float64, ok bool)
		if m.of == nil {
			result.Unit = "/s"
			figure = func(drawn []int) (float64, float64, bool) { return throughputs(pairs, drawn) }
		} else {
			pool := newPool(pairs, m.of)
			if n := min(pool.n[0], pool.n[1]); !Enough(n, m.q) {
				result.Verdict, result.Reason = Unmeasured, fmt.Sprintf("n too small: %d", n)
				all = append(all, result)
				continue
			}
			figure = func(drawn []int) (float64, float64, bool) { return pool.quantiles(drawn, m.q) }
		}
		result.judge(len(pairs), figure, rand.New(rand.NewPCG(seed, 1)))
		all = append(all, result)
	}
	return all
}

// pairUp orders the blocks by pair, the arm a first.
func pairUp(blocks []Block) [][2]Block {
	n := 0
	for _, b := range blocks {
		n = max(n, b.Pair+1)
	}
	pairs := make([][2]Block, n)
	for _, b := range blocks {
		pairs[b.Pair][b.Arm[0]-'a'] = b
	}
	return pairs
}

// judge fills in the ratio, its interval and the verdict.
func (m *Metric) judge(pairs int, figure func(drawn []int) (a, b float64, ok bool), random *rand.Rand) {
	drawn := make([]int, pairs)
	for i := range drawn {
		drawn[i] = i
	}
	a, b, ok := figure(drawn)
	switch {
	case pairs < fewestPairs:
		m.Verdict, m.Reason = Unmeasured, fmt.Sprintf("%d pairs are too few, there must be %d", pairs, fewestPairs)
		return
	case !ok:
		m.Verdict, m.Reason = Unmeasured, "nothing was completed"
		return
	}
	ratios := make([]float64, 0, resamples)
	for range resamples {
		for i := range drawn {
			drawn[i] = random.IntN(pairs)
		}
		if a, b, ok := figure(drawn); ok {
			ratios = append(ratios, b/a)
		}
	}
	slices.Sort(ratios)
	m.A, m.B, m.Ratio = a, b, b/a
	m.Low, m.High = interval(ratios, pairs, 1-confidence)
	low, high := interval(ratios, pairs, (1-confidence)/float64(len(metrics)))
	better := m.Ratio < 1
	if m.Unit == "/s" {
		better = m.Ratio > 1
	}
	switch {
	case m.Low >= 1-indifference && m.High <= 1+indifference:
		m.Verdict = Equivalent
	case math.Abs(m.Ratio-1) <= indifference || low <= 1 && high >= 1:
		m.Verdict = Inconclusive
	case better:
		m.Verdict = Faster
	default:
		m.Verdict = Slower
	}
}

// interval is the percentile interval of sorted bootstrap ratios at the level
// 1 - alpha, widened for few pairs as Hesterberg does (What Teachers Should
// Know About the Bootstrap, 2015, section 4.2.3): its ends are at Phi(-+
// sqrt(n/(n-1)) t), t of Student's distribution.
func interval(ratios []float64, pairs int, alpha float64) (low, high float64) {
	n := float64(pairs)
	tail := normal(-math.Sqrt(n/(n-1)) * student(1-alpha/2, n-1))
	last := float64(len(ratios) - 1)
	return ratios[int(math.Floor(tail*last))], ratios[int(math.Ceil((1-tail)*last))]
}

// normal is the distribution function of the standard normal distribution.
func normal(x float64) float64 { return 0.5 * math.Erfc(-x/math.Sqrt2) }

// student is the quantile p, above one half, of Student's distribution.
func student(p, freedom float64) float64 {
	lower, _ := math.Lgamma(freedom / 2)
	upper, _ := math.Lgamma((freedom + 1) / 2)
	density := func(t float64) float64 {
		return math.Exp(upper-lower-(freedom+1)/2*math.Log1p(t*t/freedom)) / math.Sqrt(freedom*math.Pi)
	}
	const step = 1e-4 // Simpson's rule, until the area is reached
	area, t := 0.5, 0.0
	for ; area < p && t < 1000; t += step {
		area += step / 6 * (density(t) + 4*density(t+step/2) + density(t+step))
	}
	return t
}

// throughputs are the requests completed per second by each arm in the pairs
// that were drawn.
func throughputs(pairs [][2]Block, drawn []int) (a, b float64, ok bool) {
	var completed, seconds [2]float64
	for _, i := range drawn {
		for arm, block := range pairs[i] {
			completed[arm] += float64(block.Completed)
			seconds[arm] += block.Duration.Seconds()
		}
	}
	if completed[0] == 0 || completed[1] == 0 || seconds[0] <= 0 || seconds[1] <= 0 {
		return 0, 0, false
	}
	return completed[0] / seconds[0], completed[1] / seconds[1], true
}

// pool is the latencies of all blocks as counts over the distinct values of an
// arm, so that drawing pairs anew is adding vectors.
type pool struct {
	n      [2]int
	values [2][]float64 // seconds, ascending
	counts [2][][]int32 // by pair
	sum    []int32      // room to work in
}

func newPool(pairs [][2]Block, of func(Block) Latency) *pool {
	p := &pool{}
	for arm := range p.values {
		histograms := make([]map[int64]int64, len(pairs))
		distinct := map[int64]struct{}{}
		for i, pair := range pairs {
			histograms[i] = of(pair[arm]).counts()
			for value, n := range histograms[i] {
				distinct[value] = struct{}{}
				p.n[arm] += int(n)
			}
		}
		sorted := make([]int64, 0, len(distinct))
		for value := range distinct {
			sorted = append(sorted, value)
		}
		slices.Sort(sorted)
		for _, value := range sorted {
			p.values[arm] = append(p.values[arm], float64(value)/1e6)
		}
		for _, histogram := range histograms {
			vector := make([]int32, len(sorted))
			for i, value := range sorted {
				vector[i] = int32(histogram[value])
			}
			p.counts[arm] = append(p.counts[arm], vector)
		}
	}
	p.sum = make([]int32, max(len(p.values[0]), len(p.values[1])))
	return p
}

// quantiles are the quantile q of each arm in the pairs that were drawn.
func (p *pool) quantiles(drawn []int, q float64) (a, b float64, ok bool) {
	var found [2]float64
	for arm, values := range p.values {
		sum := p.sum[:len(values)]
		clear(sum)
		total := int32(0)
		for _, i := range drawn {
			for at, n := range p.counts[arm][i] {
				sum[at] += n
				total += n
			}
		}
		if total == 0 {
			return 0, 0, false
		}
		rank := int32(math.Ceil(q * float64(total)))
		for at, n := range sum {
			if rank -= n; rank <= 0 {
				found[arm] = values[at]
				break
			}
		}
	}
	return found[0], found[1], true
}
