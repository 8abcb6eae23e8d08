package report

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// tooSmall stands where a percentile would have too few samples behind it.
	tooSmall = "n too small"
	// notMeasured stands where a figure could not be had.
	notMeasured = "not measured"
	// without stands where a figure makes no sense, as a callback of sync.
	without = "-"
)

// duration writes three digits and a unit.
func duration(d time.Duration) string {
	switch v := d.Abs(); {
	case v == 0:
		return "0 s"
	case v >= time.Second:
		return digits(d.Seconds()) + " s"
	case v >= time.Millisecond:
		return digits(d.Seconds()*1e3) + " ms"
	default:
		return digits(d.Seconds()*1e6) + " us"
	}
}

// seconds writes a duration that is given in seconds.
func seconds(s float64) string {
	if !finite(s) || math.Abs(s) > math.MaxInt64/1e9 {
		return notMeasured
	}
	return duration(time.Duration(s * float64(time.Second)))
}

// span writes how long something was: whole seconds without their zeros.
func span(d time.Duration) string {
	if d >= time.Second && d%time.Second == 0 {
		return fmt.Sprintf("%d s", d/time.Second)
	}
	return duration(d)
}

func rate(perSecond float64) string {
	if !finite(perSecond) {
		return notMeasured
	}
	return digits(perSecond) + " /s"
}

// perSecond writes a rate, or that there is none.
func perSecond(v float64, ok bool) string {
	if !ok {
		return notMeasured
	}
	return rate(v)
}

// digits writes a number with three digits, and whole ones beyond.
func digits(v float64) string {
	switch size := math.Abs(v); {
	case !finite(v):
		return notMeasured
	case size >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case size >= 9.995:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// square writes the variance of latencies with a standard deviation.
func square(deviation time.Duration) string {
	switch v := deviation.Seconds() * deviation.Seconds(); {
	case v >= 0.1:
		return digits(v) + " s²"
	case v >= 1e-8 || v == 0:
		return digits(v*1e6) + " ms²"
	default:
		return digits(v*1e12) + " us²"
	}
}

// percent writes a share. It is 100 % only if nothing is missing, and 0 % only
// if nothing is there.
func percent(part, whole int) string {
	switch {
	case whole <= 0:
		return notMeasured
	case part == whole || part == 0:
		return fmt.Sprintf("%d %%", 100*part/whole)
	}
	return share(min(max(float64(part)/float64(whole), 0.0001), 0.9999))
}

func share(v float64) string {
	if !finite(v) {
		return notMeasured
	}
	text := fmt.Sprintf("%.2f", 100*v)
	return strings.TrimSuffix(strings.TrimSuffix(text, "0"), ".0") + " %"
}

// part writes a share that was measured, to as many digits as other figures, or
// that there is none.
func part(v float64, ok bool) string {
	if !ok || !finite(v) {
		return notMeasured
	}
	return digits(100*v) + " %"
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// times writes a ratio above one: "3.4 times", or "12 %" if it is small.
func times(ratio float64) string {
	switch {
	case ratio < 2:
		return fmt.Sprintf("%.0f %%", math.Round(100*(ratio-1)))
	case ratio < 10:
		return fmt.Sprintf("%.1f times", ratio)
	default:
		return fmt.Sprintf("%.0f times", ratio)
	}
}

// clean makes a text of a file fit for one line of a terminal: control
// characters, which could move the cursor, and marks that turn the direction of
// writing are replaced.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029' {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// shorten cuts a text to at most n characters.
func shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:max(n-1, 0)]) + "…"
}

// wrap breaks a text into lines of at most eighty columns behind a bullet.
func wrap(bullet, text string) string {
	const width = 80
	var b strings.Builder
	indent := strings.Repeat(" ", utf8.RuneCountInString(bullet))
	b.WriteString(bullet)
	column := len(indent)
	for i, word := range strings.Fields(clean(text)) {
		length := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case column+1+length > width && column > len(indent):
			b.WriteString("\n" + indent)
			column = len(indent)
		default:
			b.WriteString(" ")
			column++
		}
		for column+length > width { // a word that no line can hold
			runes := []rune(word)
			room := width - column
			b.WriteString(string(runes[:room]) + "\n" + indent)
			word, length, column = string(runes[room:]), length-room, len(indent)
		}
		b.WriteString(word)
		column += length
	}
	return b.String()
}

// capital makes the first letter a capital one.
func capital(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

// counted writes a number and its noun.
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
