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
type Latency struct {
	histogram *hdrhistogram.Histogram
}

const longestLatency = time.Hour

func newLatency() Latency {
	return Latency{hdrhistogram.New(1, longestLatency.Microseconds(), 3)}
}

func (l Latency) record(d time.Duration) {
	us := min(max(d, time.Microsecond), longestLatency).Microseconds()
	if err := l.histogram.RecordValue(us); err != nil {
		panic(err) // unreachable: the value is within the histogram's range
	}
}

// N is how many latencies there are.
func (l Latency) N() int {
	if l.histogram == nil {
		return 0
	}
	return int(l.histogram.TotalCount())
}

// Percentile returns the latency that the fraction q of all does not exceed.
// ok is false if there are too few to tell, see Enough.
func (l Latency) Percentile(q float64) (d time.Duration, ok bool) {
	if !Enough(l.N(), q) {
		return 0, false
	}
	return microseconds(float64(l.histogram.ValueAtPercentile(100 * q))), true
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

// Mean is their mean. ok is false if there are fewer than two.
func (l Latency) Mean() (mean time.Duration, ok bool) {
	if l.N() < 2 {
		return 0, false
	}
	return microseconds(l.histogram.Mean()), true
}

// Deviation is their standard deviation. ok is false if there are fewer than
// two.
func (l Latency) Deviation() (deviation time.Duration, ok bool) {
	if l.N() < 2 {
		return 0, false
	}
	return microseconds(l.histogram.StdDev()), true
}

// Max is the longest one. ok is false if there is none.
func (l Latency) Max() (d time.Duration, ok bool) {
	if l.N() == 0 {
		return 0, false
	}
	return microseconds(float64(l.histogram.Max())), true
}

func microseconds(us float64) time.Duration { return time.Duration(us * float64(time.Microsecond)) }

type latencyJSON struct {
	N   int    `json:"n"`
	HDR string `json:"hdr,omitempty"`
}

// MarshalJSON writes {"n", "hdr"}.
func (l Latency) MarshalJSON() ([]byte, error) {
	if l.N() == 0 {
		return json.Marshal(latencyJSON{})
	}
	encoded, err := l.histogram.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return nil, fmt.Errorf("encode histogram: %w", err)
	}
	return json.Marshal(latencyJSON{l.N(), string(encoded)})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (l *Latency) UnmarshalJSON(data []byte) error {
	var read latencyJSON
	if err := json.Unmarshal(data, &read); err != nil {
		return err
	}
	*l = newLatency()
	if read.HDR != "" {
		histogram, err := hdrhistogram.Decode([]byte(read.HDR))
		if err != nil {
			return fmt.Errorf("decode histogram: %w", err)
		}
		l.histogram = histogram
	}
	if l.N() != read.N {
		return fmt.Errorf("the histogram holds %d latencies, not %d", l.N(), read.N)
	}
	return nil
}
