package loadtest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"time"
)

const (
	resamples    = 10_000
	equivalence  = 0.05     // a ratio this close to 1 makes no difference to anybody
	significance = 0.05     // of an interval that is shown: 95 % confidence
	claim        = 0.02 / 7 // of an interval that a difference is claimed by: there are seven metrics
)

// compare says how the arm b did against the arm a, metric by metric: the
// ratios b/a of the p50, p95 and p99 of acceptance and completion and of the
// throughput, over all blocks of each arm together.
//
// Their intervals come from a block bootstrap: pairs of blocks are drawn with
// replacement, so what a machine did to both blocks of a pair, and what the
// requests of a block have in common, is in the interval (B. Efron and R. J.
// Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13). The
// same seed gives the same figures.
//
// Seven intervals of 95 % would find a difference in every fifth comparison of
// equals. So a difference is one of more than 5 % that the intervals at the
// level 0.02/7 (Bonferroni) leave out 1 of: that of the percentiles, and the t
// interval of the log ratio with the bootstrap's standard error. So far out the
// percentiles of ten pairs are rough: by them alone, and at 0.05/7, 3 of 100
// simulated comparisons of equals found a difference; by both it is 1 of 100.
// Equivalent is a 95 % interval within 5 % of 1. A pair that lacks a block, as
// the last one of a run that was cut short, is left out.
func compare(blocks []Block, seed uint64) []Metric {
	return bootstrap(blocks, seed, resamples)
}

func bootstrap(blocks []Block, seed uint64, resamples int) []Metric {
	a, b := pairUp(blocks)
	var statistics []statistic
	for _, kind := range []struct {
		name string
		of   func(Block) Latency
	}{
		{"acceptance", func(b Block) Latency { return b.Response }},
		{"completion", func(b Block) Latency { return b.Completion }},
	} {
		pooledA, pooledB := pool(a, kind.of), pool(b, kind.of)
		for _, percent := range []int{50, 95, 99} {
			quantile := func(p pooled) func([]int) float64 {
				return func(times []int) float64 { return p.quantile(float64(percent)/100, times) }
			}
			s := statistic{name: fmt.Sprintf("%s.p%d", kind.name, percent), unit: "s", a: quantile(pooledA), b: quantile(pooledB)}
			if n := min(pooledA.n, pooledB.n); !Enough(n, float64(percent)/100) {
				s.reason = fmt.Sprintf("too few samples: %d of one arm", n)
			}
			statistics = append(statistics, s)
		}
	}
	statistics = append(statistics, statistic{name: "throughput", unit: "/s", a: throughput(a), b: throughput(b)})

	ratios := resample(statistics, len(a), rand.New(rand.NewPCG(seed, 0)), resamples)
	metrics := make([]Metric, len(statistics))
	for i, s := range statistics {
		metrics[i] = s.judge(ratios[i], len(a))
	}
	return metrics
}

// pairUp returns the blocks of both arms, those of a pair at the same place.
func pairUp(blocks []Block) (a, b []Block) {
	type pair struct{ a, b *Block }
	pairs := map[int]pair{}
	var order []int
	for i := range blocks {
		block := &blocks[i]
		p, known := pairs[block.Pair]
		if !known {
			order = append(order, block.Pair)
		}
		if block.Arm == "a" {
			p.a = block
		} else {
			p.b = block
		}
		pairs[block.Pair] = p
	}
	slices.Sort(order)
	for _, number := range order {
		if p := pairs[number]; p.a != nil && p.b != nil {
			a, b = append(a, *p.a), append(b, *p.b)
		}
	}
	return a, b
}

// statistic is a figure of both arms, given how many times each pair was drawn.
// It is zero if there is none.
type statistic struct {
	name, unit string
	a, b       func(times []int) float64
	reason     string // why it cannot be measured
}

// resample returns the sorted ratios b/a of the resamples of each statistic. A
// resample without a ratio counts as both extremes, so that an interval that
// depends on it is infinite.
func resample(statistics []statistic, pairs int, random *rand.Rand, resamples int) [][]float64 {
	ratios := make([][]float64, len(statistics))
	if pairs < FewestPairs {
		return ratios
	}
	times := make([]int, pairs)
	for range resamples {
		clear(times)
		for range times {
			times[random.IntN(pairs)]++
		}
		for i, s := range statistics {
			if s.reason != "" {
				continue
			}
			if a, b := s.a(times), s.b(times); a > 0 && b > 0 {
				ratios[i] = append(ratios[i], b/a)
			} else {
				ratios[i] = append(ratios[i], 0, math.Inf(1))
			}
		}
	}
	for _, r := range ratios {
		slices.Sort(r)
	}
	return ratios
}

func (s statistic) judge(ratios []float64, pairs int) Metric {
	m := Metric{Name: s.name, Unit: s.unit, Verdict: Unmeasured}
	all := slices.Repeat([]int{1}, pairs)
	a, b := s.a(all), s.b(all)
	switch {
	case pairs < FewestPairs:
		m.Reason = fmt.Sprintf("too few pairs of blocks: %d, and %d are needed", pairs, FewestPairs)
		return m
	case a == 0 || b == 0:
		m.Reason = "nothing completed in one arm"
		return m
	case s.reason != "":
		m.Reason = s.reason
		return m
	}
	low, high := interval(ratios, pairs, significance)
	if low == 0 || math.IsInf(high, 1) {
		m.Reason = "too few blocks in which something completed"
		return m
	}
	m.A, m.B, m.Ratio, m.Low, m.High = a, b, b/a, low, high

	surelyLow, surelyHigh := interval(ratios, pairs, claim)
	margin := logMargin(ratios, pairs, claim)
	surelyLow, surelyHigh = min(surelyLow, m.Ratio/margin), max(surelyHigh, m.Ratio*margin)
	less, more := Faster, Slower
	if s.unit == "/s" {
		less, more = Slower, Faster
	}
	switch {
	case m.Ratio < 1-equivalence && surelyHigh < 1:
		m.Verdict = less
	case m.Ratio > 1+equivalence && surelyLow > 1:
		m.Verdict = more
	case low >= 1-equivalence && high <= 1+equivalence:
		m.Verdict = Equivalent
	default:
		m.Verdict = Inconclusive
	}
	return m
}

// pooled is the latencies of the blocks of an arm: for each value that occurs,
// in order, how many latencies of each block do not exceed it. The quantile of a
// resample is then a search for a value, without adding up histograms.
type pooled struct {
	n      int
	values []int64 // microseconds
	upTo   [][]int // by value, then by block
}

func pool(blocks []Block, of func(Block) Latency) pooled {
	var p pooled
	counts := map[int64][]int{}
	for i, block := range blocks {
		latency := of(block)
		p.n += latency.N()
		for value, count := range latency.counts() {
			if counts[value] == nil {
				counts[value] = make([]int, len(blocks))
				p.values = append(p.values, value)
			}
			counts[value][i] += int(count)
		}
	}
	slices.Sort(p.values)
	for v, value := range p.values {
		row := counts[value]
		if v > 0 {
			for i, below := range p.upTo[v-1] {
				row[i] += below
			}
		}
		p.upTo = append(p.upTo, row)
	}
	return p
}

// quantile is the fraction q of the blocks, each taken so many times, in
// seconds: the same value that Latency.Percentile finds. It is zero if there
// are no latencies.
func (p pooled) quantile(q float64, times []int) float64 {
	if p.n == 0 {
		return 0
	}
	n := weigh(p.upTo[len(p.upTo)-1], times)
	if n == 0 {
		return 0
	}
	rank := min(max(int(q*float64(n)+0.5), 1), n)
	at := sort.Search(len(p.values), func(v int) bool { return weigh(p.upTo[v], times) >= rank })
	return (time.Duration(p.values[at]) * time.Microsecond).Seconds()
}

func weigh(row, times []int) int {
	sum := 0
	for i, n := range row {
		sum += n * times[i]
	}
	return sum
}

// throughput is what the blocks completed over how long they took.
func throughput(blocks []Block) func(times []int) float64 {
	return func(times []int) float64 {
		completed, took := 0, time.Duration(0)
		for i, block := range blocks {
			completed += times[i] * block.Completed
			took += time.Duration(times[i]) * block.Duration
		}
		perSecond, _ := per(completed, took)
		return perSecond
	}
}

// interval is the percentile interval of sorted ratios at a level. With few
// pairs it would be too narrow; it is widened by T. Hesterberg's expansion
// (What Teachers Should Know About the Bootstrap, 2015, section 4.1): each tail
// is the normal one of sqrt(n/(n-1)) times Student's t of n-1 degrees.
func interval(ratios []float64, pairs int, level float64) (low, high float64) {
	n := float64(pairs)
	t := studentQuantile(1-level/2, pairs-1)
	tail := normal(-math.Sqrt(n/(n-1)) * t)
	skip := min(int(tail*float64(len(ratios))), (len(ratios)-1)/2)
	return ratios[skip], ratios[len(ratios)-1-skip]
}

// logMargin is the factor to either side of the ratio that makes a t interval of
// its logarithm at a level, with the standard error of the resamples. It is NaN,
// with which nothing is claimed, if one of them had no ratio.
func logMargin(ratios []float64, pairs int, level float64) float64 {
	var sum, squares float64
	for _, r := range ratios {
		sum += math.Log(r)
		squares += math.Log(r) * math.Log(r)
	}
	mean := sum / float64(len(ratios))
	variance := max(squares/float64(len(ratios))-mean*mean, 0)
	n := float64(pairs)
	return math.Exp(math.Sqrt(n/(n-1)*variance) * studentQuantile(1-level/2, pairs-1))
}
