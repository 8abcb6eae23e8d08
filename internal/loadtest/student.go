package loadtest

import "math"

// normal is the distribution function of the standard normal distribution.
func normal(x float64) float64 { return math.Erfc(-x/math.Sqrt2) / 2 }

// studentQuantile is the quantile p > 0.5 of Student's t distribution, found by
// halving.
func studentQuantile(p float64, degrees int) float64 {
	low, high := 0.0, 1.0
	for student(high, degrees) < p {
		high *= 2
	}
	for range 60 {
		if middle := (low + high) / 2; student(middle, degrees) < p {
			low = middle
		} else {
			high = middle
		}
	}
	return high
}

// student is the distribution function of Student's t distribution for t >= 0
// (M. Abramowitz and I. A. Stegun, Handbook of Mathematical Functions, 26.7.3
// and 26.7.4).
func student(t float64, degrees int) float64 {
	angle := math.Atan(t / math.Sqrt(float64(degrees)))
	sin, cos := math.Sincos(angle)
	term, sum := 1.0, 0.0
	if degrees%2 == 1 {
		term = cos
	}
	for k := degrees % 2; k <= degrees-2; k += 2 {
		sum += term
		term *= cos * cos * float64(k+1) / float64(k+2)
	}
	within := sin * sum
	if degrees%2 == 1 {
		within = 2 / math.Pi * (angle + within)
	}
	return 0.5 + within/2
}
