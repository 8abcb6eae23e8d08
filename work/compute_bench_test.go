package work

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"
)

var benchInput = Input{Data: json.RawMessage(`{"a":1.5,"b":2,"c":[3,4]}`), Complexity: 1}

func BenchmarkCompute(b *testing.B) {
	kind := Compute(DefaultRounds)
	for complexity := 1; complexity <= 10; complexity++ {
		b.Run(fmt.Sprint(complexity), func(b *testing.B) {
			in := benchInput
			in.Complexity = complexity
			for b.Loop() {
				if _, err := kind.Func(b.Context(), in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkComputeIsLinear fits a line to the time of complexity 1 to 10 and
// reports its R2, which is to be at least 0.99, and the slope. It takes the
// fastest of its rounds for each, so that it measures the work and not what
// else the machine does.
func BenchmarkComputeIsLinear(b *testing.B) {
	kind := Compute(DefaultRounds)
	var fastest [10]time.Duration
	for b.Loop() {
		for i := range fastest {
			in := benchInput
			in.Complexity = i + 1
			start := time.Now()
			if _, err := kind.Func(b.Context(), in); err != nil {
				b.Fatal(err)
			}
			if took := time.Since(start); fastest[i] == 0 || took < fastest[i] {
				fastest[i] = took
			}
		}
	}
	var xs, ys []float64
	for i, took := range fastest {
		xs = append(xs, float64(i+1))
		ys = append(ys, float64(took)/float64(time.Millisecond))
	}
	slope, r2 := fit(xs, ys)
	b.ReportMetric(r2, "R2")
	b.ReportMetric(slope, "ms/unit")
	if r2 < 0.99 {
		b.Errorf("R2 is %.4f, want at least 0.99; ms by complexity: %.2f", r2, ys)
	}
}

// BenchmarkComputeOverhead is all of compute but the rounds.
func BenchmarkComputeOverhead(b *testing.B) {
	kind := Compute(1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := kind.Func(b.Context(), benchInput); err != nil {
			b.Fatal(err)
		}
	}
}

// fit returns the slope and the coefficient of determination of the line of
// least squares.
func fit(xs, ys []float64) (slope, r2 float64) {
	var mx, my float64
	for i := range xs {
		mx += xs[i] / float64(len(xs))
		my += ys[i] / float64(len(ys))
	}
	var sxx, sxy, syy float64
	for i := range xs {
		sxx += (xs[i] - mx) * (xs[i] - mx)
		sxy += (xs[i] - mx) * (ys[i] - my)
		syy += (ys[i] - my) * (ys[i] - my)
	}
	return sxy / sxx, sxy * sxy / (sxx * syy)
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		what      string
		ys        []float64
		slope, r2 float64
	}{
		{"a line fits", []float64{7, 9, 11, 13}, 2, 1},
		{"a parabola about the middle does not", []float64{1, 0, 0, 1}, 0, 0},
		{"a square fits less than a line", []float64{1, 4, 9, 16}, 5, 0.9689922480620154},
	} {
		slope, r2 := fit([]float64{1, 2, 3, 4}, c.ys)
		if math.Abs(slope-c.slope) > 1e-9 || math.Abs(r2-c.r2) > 1e-9 {
			t.Errorf("%s: got slope %v and R2 %v, want %v and %v", c.what, slope, r2, c.slope, c.r2)
		}
	}
}
