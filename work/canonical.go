package work

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// read returns the canonical form of JSON data - no spaces, keys sorted,
// numbers as they were written, and nothing escaped for the sake of HTML - and
// its numbers, in the order in which they stand in that form. Of a key that
// comes twice the last value counts.
//
// It gives what encoding/json makes of the data decoded and encoded again, and
// costs less than a third of that, which counts where work is short.
func read(data json.RawMessage) (canonical []byte, numbers []float64, err error) {
	if !json.Valid(data) {
		var sink json.RawMessage
		return nil, nil, fmt.Errorf("parse data: %w", json.Unmarshal(data, &sink))
	}
	r := reader{in: data, canonical: make([]byte, 0, len(data))}
	r.value()
	return r.canonical, r.numbers, nil
}

// reader walks through JSON that is known to be valid.
type reader struct {
	in        []byte
	at        int
	canonical []byte
	numbers   []float64
}

func (r *reader) value() {
	r.space()
	switch c := r.in[r.at]; c {
	case '{':
		r.object()
	case '[':
		r.array()
	case '"':
		_, written := r.text()
		r.canonical = append(r.canonical, written...)
	default:
		literal := r.literal()
		r.canonical = append(r.canonical, literal...)
		if c == '-' || '0' <= c && c <= '9' {
			v, _ := strconv.ParseFloat(string(literal), 64) // its one error, out of range, comes with an infinity
			r.numbers = append(r.numbers, finite(v))
		}
	}
}

// member is one of an object: what its key says and how that is written, and
// where its value is.
type member struct {
	key, written []byte
	at           int
}

func (r *reader) object() {
	var few [8]member
	members := few[:0]
	for r.at++; r.next('}'); {
		var m member
		m.key, m.written = r.text()
		r.space()
		r.at++ // the colon
		m.at = r.at
		members = append(members, m)
		r.skip()
	}
	end := r.at
	slices.SortStableFunc(members, func(a, b member) int { return bytes.Compare(a.key, b.key) })
	r.canonical = append(r.canonical, '{')
	first := len(r.canonical)
	for i, m := range members {
		if i+1 < len(members) && bytes.Equal(m.key, members[i+1].key) {
			continue
		}
		if len(r.canonical) > first {
			r.canonical = append(r.canonical, ',')
		}
		r.canonical = append(append(r.canonical, m.written...), ':')
		r.at = m.at
		r.value()
	}
	r.canonical = append(r.canonical, '}')
	r.at = end
}

func (r *reader) array() {
	r.canonical = append(r.canonical, '[')
	first := len(r.canonical)
	for r.at++; r.next(']'); {
		if len(r.canonical) > first {
			r.canonical = append(r.canonical, ',')
		}
		r.value()
	}
	r.canonical = append(r.canonical, ']')
}

// next goes to the next member or element, or behind the bracket that ends them.
func (r *reader) next(end byte) bool {
	r.space()
	if r.in[r.at] == ',' {
		r.at++
		r.space()
	}
	if r.in[r.at] == end {
		r.at++
		return false
	}
	return true
}

// text reads a string: what it says, and how the canonical form writes it.
func (r *reader) text() (says, written []byte) {
	start, plain := r.at, true
	for r.at++; r.in[r.at] != '"'; r.at++ {
		c := r.in[r.at]
		if c == '\\' {
			r.at++
		}
		plain = plain && c != '\\' && c < 0x80
	}
	r.at++
	raw := r.in[start:r.at]
	if plain {
		return raw[1 : len(raw)-1], raw
	}
	var s string
	_ = json.Unmarshal(raw, &s) // cannot fail: it is valid
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(s) // nor can this, of a string into memory
	return []byte(s), bytes.TrimSuffix(buffer.Bytes(), []byte("\n"))
}

// literal reads a number, true, false or null.
func (r *reader) literal() []byte {
	start := r.at
	for r.at < len(r.in) && bytes.IndexByte([]byte(" \t\n\r,]}"), r.in[r.at]) < 0 {
		r.at++
	}
	return r.in[start:r.at]
}

// skip goes behind a value, which takes little more than counting brackets
// outside of strings.
func (r *reader) skip() {
	for depth := 0; ; {
		switch r.space(); r.in[r.at] {
		case '{', '[':
			depth++
			r.at++
		case '}', ']':
			depth--
			r.at++
		case ',', ':':
			r.at++
			continue
		case '"':
			for r.at++; r.in[r.at] != '"'; r.at++ {
				if r.in[r.at] == '\\' {
					r.at++
				}
			}
			r.at++
		default:
			r.literal()
		}
		if depth == 0 {
			return
		}
	}
}

func (r *reader) space() {
	for r.in[r.at] == ' ' || r.in[r.at] == '\t' || r.in[r.at] == '\n' || r.in[r.at] == '\r' {
		r.at++
	}
}

func finite(v float64) float64 { return max(-math.MaxFloat64, min(math.MaxFloat64, v)) }
