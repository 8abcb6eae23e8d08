package loadtest

import (
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// trial is a synthetic comparison. Each pair of blocks has a speed of its own,
// common to both arms, as on a machine that others use too.
type trial struct {
	pairs, samples int
	ratio          float64 // of the latencies, b to a
	drift          float64 // how much the speed of pairs differs: the deviation of its logarithm
	exponential    bool    // or lognormal
}

func (c trial) blocks(seed uint64) []Block {
	random := rand.New(rand.NewPCG(seed, 7))
	var blocks []Block
	for pair := range c.pairs {
		speed := 0.01 * math.Exp(c.drift*random.NormFloat64())
		for _, arm := range []string{"a", "b"} {
			scale := speed
			if arm == "b" {
				scale *= c.ratio
			}
			latency, total := Latency{histogram: hdrhistogram.New(1, 10*time.Second.Microseconds(), 2)}, 0.0 // two digits, to save time
			for range c.samples {
				seconds := scale * random.ExpFloat64()
				if !c.exponential {
					seconds = scale * math.Exp(0.5*random.NormFloat64())
				}
				latency.record(min(time.Duration(seconds*float64(time.Second)), 10*time.Second))
				total += seconds
			}
			blocks = append(blocks, Block{Pair: pair, Arm: arm, Completed: c.samples,
				Duration: time.Duration(total * float64(time.Second)), Response: latency, Completion: latency})
		}
	}
	return blocks
}

// accepted leaves out the completion, to save time where acceptance shows the
// same.
func (c trial) accepted(seed uint64) []Block {
	blocks := c.blocks(seed)
	for i := range blocks {
		blocks[i].Completion = Latency{}
	}
	return blocks
}

var metricNames = []string{"acceptance.p50", "acceptance.p95", "acceptance.p99",
	"completion.p50", "completion.p95", "completion.p99", "throughput"}

func TestCompareFindsKnownRatios(t *testing.T) {
	metrics := compare(trial{pairs: 20, samples: 500, ratio: 1.5, drift: 0.1}.blocks(1), 1)
	for i, m := range metrics {
		want, verdict := 1.5, Slower
		if i == 6 {
			want = 1 / 1.5
		}
		if m.Name != metricNames[i] || math.Abs(m.Ratio/want-1) > 0.1 || !(m.Low < want && want < m.High) || m.Verdict != verdict {
			t.Errorf("got %+v, want %s of %.3g, %s", m, metricNames[i], want, verdict)
		}
		if math.Abs(m.B/m.A-m.Ratio) > 1e-12 || m.A <= 0 {
			t.Errorf("%s: %v to %v is not %v", m.Name, m.B, m.A, m.Ratio)
		}
	}
	for _, m := range compare(trial{pairs: 20, samples: 500, ratio: 0.6, drift: 0.1}.blocks(1), 1) {
		if m.Verdict != Faster {
			t.Errorf("got %+v, want faster", m)
		}
	}
}

func TestCompareOfSmallDifferencesIsEquivalent(t *testing.T) {
	for _, m := range compare(trial{pairs: 40, samples: 2000, ratio: 1.03}.blocks(1), 1) {
		if strings.HasSuffix(m.Name, "p50") && m.Verdict != Equivalent {
			t.Errorf("got %+v, want equivalent", m)
		}
		if m.Verdict == Slower {
			t.Errorf("got %+v: 3 %% is no difference", m)
		}
	}
}

func TestCompareIsDeterministic(t *testing.T) {
	blocks := trial{pairs: 12, samples: 100, ratio: 1.1, drift: 0.2}.blocks(1)
	first := bootstrap(blocks, 5, 500)
	if again := bootstrap(blocks, 5, 500); !reflect.DeepEqual(again, first) {
		t.Errorf("got %+v, then %+v", first, again)
	}
	if other := bootstrap(blocks, 6, 500); reflect.DeepEqual(other, first) {
		t.Error("another seed gave the same intervals")
	}
}

func TestCompareOfIdenticalArms(t *testing.T) {
	blocks := trial{pairs: 12, samples: 100, ratio: 1, drift: 0.5}.blocks(1)
	for i := 0; i < len(blocks); i += 2 {
		blocks[i+1] = blocks[i]
		blocks[i+1].Arm = "b"
	}
	for _, m := range compare(blocks, 1) {
		if m.Ratio != 1 || m.Low != 1 || m.High != 1 || m.Verdict != Equivalent {
			t.Errorf("got %+v, want exactly 1", m)
		}
	}
}

func TestCompareMeasuresNothingFromTooLittle(t *testing.T) {
	sound := trial{pairs: 10, samples: 100, ratio: 1}
	change := func(apply func(i int, b *Block)) []Block {
		blocks := sound.blocks(1)
		for i := range blocks {
			apply(i, &blocks[i])
		}
		return blocks
	}
	for _, c := range []struct {
		name, metric string
		blocks       []Block
		want         string // part of the reason; empty: it is measured
	}{
		{"no blocks", "throughput", nil, "too few pairs of blocks: 0"},
		{"ten pairs", "throughput", sound.blocks(1), ""},
		{"a block short of ten pairs", "throughput", sound.blocks(1)[:19], "too few pairs of blocks: 9, and 10 are needed"},
		{"66 samples a block for p99", "completion.p99", trial{pairs: 10, samples: 66, ratio: 1}.blocks(1), "too few samples: 660 of one arm"},
		{"67 samples a block for p99", "completion.p99", trial{pairs: 10, samples: 67, ratio: 1}.blocks(1), ""},
		{"an arm that completed nothing", "completion.p50", change(func(i int, b *Block) {
			if b.Arm == "b" {
				b.Completion, b.Completed = Latency{}, 0
			}
		}), "nothing completed in one arm"},
		{"an arm that completed nothing was accepted all the same", "acceptance.p50", change(func(i int, b *Block) {
			if b.Arm == "b" {
				b.Completion, b.Completed = Latency{}, 0
			}
		}), ""},
		{"no throughput of an arm that completed nothing", "throughput", change(func(i int, b *Block) {
			if b.Arm == "a" {
				b.Completed = 0
			}
		}), "nothing completed in one arm"},
		{"all that completed did so in one block", "throughput", change(func(i int, b *Block) {
			if b.Arm == "a" && b.Pair > 0 {
				b.Completed = 0
			}
		}), "too few blocks in which something completed"},
		{"latencies of one block alone", "completion.p50", change(func(i int, b *Block) {
			if b.Pair > 0 {
				b.Completion = newLatency()
			}
		}), "too few blocks in which something completed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			metrics := bootstrap(c.blocks, 1, 1000)
			for i, m := range metrics {
				if m.Name != metricNames[i] {
					t.Fatalf("got %s at %d, want %s", m.Name, i, metricNames[i])
				}
				if m.Name != c.metric {
					continue
				}
				unmeasured := Metric{Name: m.Name, Unit: m.Unit, Verdict: Unmeasured, Reason: m.Reason}
				if c.want != "" && (m != unmeasured || !strings.Contains(m.Reason, c.want)) || c.want == "" && m.Verdict == Unmeasured {
					t.Errorf("got %+v, want the reason %q", m, c.want)
				}
			}
		})
	}
}

// The interval must hold the true ratio as often as it says, here at least 90
// times of 100, for latencies with a tail as well as for few pairs.
func TestCompareIntervalsCoverTheTruth(t *testing.T) {
	t.Parallel()
	if raced {
		t.Skip("it computes for long, in one goroutine: there is no race to be found")
	}
	const seeds = 200
	for _, c := range []trial{
		{pairs: 10, samples: 70, ratio: 1.3, drift: 0.2},
		{pairs: 16, samples: 60, ratio: 1.3, drift: 0.2, exponential: true},
	} {
		covered := map[string]int{}
		for seed := range uint64(seeds) {
			for _, m := range bootstrap(c.accepted(seed), seed, 500) {
				truth := c.ratio
				if m.Unit == "/s" {
					truth = 1 / truth
				}
				if m.Low <= truth && truth <= m.High {
					covered[m.Name]++
				}
			}
		}
		for _, name := range []string{"acceptance.p50", "acceptance.p95", "acceptance.p99", "throughput"} {
			if covered[name] < 0.9*seeds || covered[name] == seeds {
				t.Errorf("%+v: the interval of %s held the truth %d times of %d", c, name, covered[name], seeds)
			}
		}
	}
}

// Comparisons of equals must not find differences, however strongly the machine
// drifts from one pair to the next.
func TestCompareOfEqualsFindsNothing(t *testing.T) {
	t.Parallel()
	if raced {
		t.Skip("it computes for long, in one goroutine: there is no race to be found")
	}
	const seeds = 200
	for _, c := range []trial{
		{pairs: 10, samples: 70, ratio: 1},
		{pairs: 12, samples: 60, ratio: 1, drift: 1.5, exponential: true},
	} {
		found := 0
		for seed := range uint64(seeds) {
			for _, m := range bootstrap(c.accepted(seed), seed, 500) {
				if m.Verdict == Faster || m.Verdict == Slower {
					found++
					break
				}
			}
		}
		if found > 5 {
			t.Errorf("%+v: %d of %d comparisons of equals found a difference", c, found, seeds)
		}
	}
}

// raced says that the tests look for races.
var raced bool

func TestPooledQuantileIsThatOfTheHistogram(t *testing.T) {
	blocks := trial{pairs: 7, samples: 331, ratio: 1, drift: 1}.blocks(3)
	all := Latency{histogram: hdrhistogram.New(1, 10*time.Second.Microseconds(), 2)}
	var times []int
	for i, b := range blocks {
		times = append(times, i%3)
		for range i % 3 {
			all.histogram.Merge(b.Response.histogram)
		}
	}
	p := pool(blocks, func(b Block) Latency { return b.Response })
	for _, q := range []float64{0.01, 0.5, 0.9, 0.95, 0.99} {
		want, ok := all.Percentile(q)
		if got := p.quantile(q, times); !ok || math.Abs(got-want.Seconds()) > 1e-9 {
			t.Errorf("q %v: got %v, want %v", q, got, want.Seconds())
		}
	}
}

func TestStudentQuantile(t *testing.T) {
	// From the tables of NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2.
	for _, c := range []struct {
		p       float64
		degrees int
		want    float64
	}{
		{0.975, 1, 12.706}, {0.975, 2, 4.303}, {0.975, 9, 2.262}, {0.999, 9, 4.297},
		{0.95, 10, 1.812}, {0.975, 39, 2.023}, {0.99, 100, 2.364},
	} {
		if got := studentQuantile(c.p, c.degrees); math.Abs(got-c.want) > 0.0006 {
			t.Errorf("p %v, %d degrees: got %.4f, want %.3f", c.p, c.degrees, got, c.want)
		}
	}
}

func BenchmarkCompare(b *testing.B) {
	blocks := trial{pairs: 40, samples: 2000, ratio: 1, drift: 0.3}.blocks(1)
	for b.Loop() {
		compare(blocks, 1)
	}
}
