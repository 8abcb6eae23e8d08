package work

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"tandem/internal/jsonwalk"
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
	r.value(jsonwalk.Space(data, 0))
	return r.canonical, r.numbers, nil
}

// reader walks through JSON that is known to be valid.
type reader struct {
	in        []byte
	canonical []byte
	numbers   []float64
}

// value reads the value at i, and returns the position behind it.
func (r *reader) value(i int) int {
	switch c := r.in[i]; c {
	case '{':
		return r.object(i)
	case '[':
		return r.array(i)
	case '"':
		end, _, written := r.text(i)
		r.canonical = append(r.canonical, written...)
		return end
	default:
		end := jsonwalk.Literal(r.in, i)
		r.canonical = append(r.canonical, r.in[i:end]...)
		if c == '-' || '0' <= c && c <= '9' {
			v, _ := strconv.ParseFloat(string(r.in[i:end]), 64) // its one error, out of range, comes with an infinity
			r.numbers = append(r.numbers, finite(v))
		}
		return end
	}
}

// member is one of an object: what its key says and how that is written, and
// where its value is.
type member struct {
	key, written []byte
	at           int
}

func (r *reader) object(i int) (end int) {
	var few [8]member
	members := few[:0]
	i, more := jsonwalk.Next(r.in, i+1, '}')
	for more {
		var m member
		i, m.key, m.written = r.text(i)
		m.at = jsonwalk.Colon(r.in, i)
		members = append(members, m)
		i, more = jsonwalk.Next(r.in, jsonwalk.Value(r.in, m.at), '}')
	}
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
		r.value(m.at)
	}
	r.canonical = append(r.canonical, '}')
	return i
}

func (r *reader) array(i int) (end int) {
	r.canonical = append(r.canonical, '[')
	first := len(r.canonical)
	i, more := jsonwalk.Next(r.in, i+1, ']')
	for more {
		if len(r.canonical) > first {
			r.canonical = append(r.canonical, ',')
		}
		i, more = jsonwalk.Next(r.in, r.value(i), ']')
	}
	r.canonical = append(r.canonical, ']')
	return i
}

// text reads the string at i: what it says, and how the canonical form writes it.
func (r *reader) text(i int) (end int, says, written []byte) {
	end, plain := jsonwalk.String(r.in, i)
	raw := r.in[i:end]
	if plain {
		return end, raw[1 : len(raw)-1], raw
	}
	var s string
	_ = json.Unmarshal(raw, &s) // cannot fail: it is valid
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(s) // nor can this, of a string into memory
	return end, []byte(s), bytes.TrimSuffix(buffer.Bytes(), []byte("\n"))
}

func finite(v float64) float64 { return max(-math.MaxFloat64, min(math.MaxFloat64, v)) }
