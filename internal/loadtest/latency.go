package loadtest

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency is a distribution of latencies, to three digits, from 1 microsecond
// to an hour. In JSON it is {"n", "hdr"}: the histogram in the V2 compressed
// encoding that all HdrHistogram libraries read, counting microseconds.
//
// A Latency that was read from a file, or packed, keeps the encoding and is
// decoded whenever it is asked: a histogram takes two hundred times the memory.
type Latency struct {
	histogram *hdrhistogram.Histogram
	packed    *latencyJSON
}

const longestLatency = time.Hour

func newLatency() Latency {
	return Latency{histogram: hdrhistogram.New(1, longestLatency.Microseconds(), 3)}
}

func (l Latency) record(d time.Duration) {
	us := min(max(d, time.Microsecond), longestLatency).Microseconds()
	if err := l.histogram.RecordValue(us); err != nil {
		panic(err) // unreachable: the value is within the histogram's range
	}
}

// merge adds all of another's latencies.
func (l Latency) merge(other Latency) {
	if other.N() > 0 {
		l.histogram.Merge(other.unpacked()) // drops nothing: the ranges are the same
	}
}

// Merge joins distributions.
func Merge(all ...Latency) Latency {
	var joined Latency
	for _, l := range all {
		switch {
		case l.N() == 0:
		case joined.N() == 0:
			joined = l
		default:
			joined = joined.clone()
			joined.merge(l)
		}
	}
	return joined
}

// pack returns a copy that takes little memory, to be kept.
func (l Latency) pack() Latency {
	packed, err := l.encode()
	if err != nil {
		panic(err) // unreachable: it is written to memory
	}
	return Latency{packed: packed}
}

// reset forgets all latencies.
func (l Latency) reset() {
	if l.N() > 0 {
		l.histogram.Reset()
	}
}

// clone returns a copy.
func (l Latency) clone() Latency {
	c := newLatency()
	c.merge(l)
	return c
}

// N is how many latencies there are.
func (l Latency) N() int {
	switch {
	case l.packed != nil:
		return l.packed.N
	case l.histogram != nil:
		return int(l.histogram.TotalCount())
	default:
		return 0
	}
}

// unpacked is the histogram. There must be latencies in it.
func (l Latency) unpacked() *hdrhistogram.Histogram {
	if l.packed == nil {
		return l.histogram
	}
	histogram, err := hdrhistogram.Decode([]byte(l.packed.HDR))
	if err != nil {
		panic(err) // unreachable: it was decoded once when it was read, or is our own
	}
	return histogram
}

// Percentile returns the latency that the fraction q of all does not exceed.
// ok is false if there are too few to tell, see Enough.
func (l Latency) Percentile(q float64) (d time.Duration, ok bool) {
	if !Enough(l.N(), q) {
		return 0, false
	}
	return microseconds(float64(l.unpacked().ValueAtPercentile(100 * q))), true
}

// Enough reports whether n samples tell the percentile q: whether, with 99 %
// confidence, at least two of them lie at or beyond it on its far side, so that
// no single outlier is printed as a percentile. By the binomial distribution
// the median needs 11 samples, p95 130 and p99 662.
func Enough(n int, q float64) bool {
	tail := min(q, 1-q)
	if n <= 0 || tail <= 0 {
		return false
	}
	none := math.Pow(1-tail, float64(n))
	one := float64(n) * tail * math.Pow(1-tail, float64(n-1))
	return none+one <= 0.01
}

// counts are how often each value, in microseconds, was recorded.
func (l Latency) counts() map[int64]int64 {
	all := map[int64]int64{}
	if l.N() > 0 {
		for _, bar := range l.unpacked().Distribution() {
			if bar.Count > 0 {
				all[bar.To] += bar.Count
			}
		}
	}
	return all
}

// Mean is their mean. ok is false if there are fewer than two.
func (l Latency) Mean() (mean time.Duration, ok bool) {
	if l.N() < 2 {
		return 0, false
	}
	return microseconds(l.unpacked().Mean()), true
}

// Deviation is their standard deviation. ok is false if there are fewer than
// two.
func (l Latency) Deviation() (deviation time.Duration, ok bool) {
	if l.N() < 2 {
		return 0, false
	}
	return microseconds(l.unpacked().StdDev()), true
}

// Max is the longest one. ok is false if there is none.
func (l Latency) Max() (d time.Duration, ok bool) {
	if l.N() == 0 {
		return 0, false
	}
	return microseconds(float64(l.unpacked().Max())), true
}

func microseconds(us float64) time.Duration { return time.Duration(us * float64(time.Microsecond)) }

type latencyJSON struct {
	N   int    `json:"n"`
	HDR string `json:"hdr,omitempty"`
}

// encode writes {"n", "hdr"}.
func (l Latency) encode() (*latencyJSON, error) {
	if l.packed != nil {
		return l.packed, nil
	}
	if l.N() == 0 {
		return &latencyJSON{}, nil
	}
	encoded, err := l.histogram.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return nil, fmt.Errorf("encode histogram: %w", err)
	}
	return &latencyJSON{l.N(), string(encoded)}, nil
}

// MarshalJSON writes {"n", "hdr"}.
func (l Latency) MarshalJSON() ([]byte, error) {
	encoded, err := l.encode()
	if err != nil {
		return nil, err
	}
	return json.Marshal(encoded)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (l *Latency) UnmarshalJSON(data []byte) error {
	var read latencyJSON
	if err := json.Unmarshal(data, &read); err != nil {
		return err
	}
	n := 0
	if read.HDR != "" {
		histogram, err := hdrhistogram.Decode([]byte(read.HDR))
		if err != nil {
			return fmt.Errorf("decode histogram: %w", err)
		}
		n = int(histogram.TotalCount())
	}
	if n != read.N {
		return fmt.Errorf("the histogram holds %d latencies, not %d", n, read.N)
	}
	*l = Latency{packed: &read}
	return nil
}
