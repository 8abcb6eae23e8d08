package work

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
)

// DefaultRounds is the cost of one unit of complexity: about 5 ms on a core of
// 2024. The cost is counted in rounds and not in time, so that results are the
// same on every machine.
const DefaultRounds = 1_400_000

// Computed is the result of compute.
type Computed struct {
	Sum        float64 `json:"sum"`        // of the values, clamped to the finite
	Product    float64 `json:"product"`    // of the values, clamped to the finite
	Operations int     `json:"operations"` // complexity times the number of values
	Checksum   string  `json:"checksum"`   // 16 hex digits that take every round to find
}

// Compute is work that burns CPU: rounds of integer mixing for every unit of
// complexity. Its result depends on the data and the complexity only, and is
// the same on every platform: the rounds are integers, and the few floating
// point operations are rounded one by one.
//
// The values are all numbers in the data, depth first and with the keys of an
// object sorted; if there are none, three numbers from 1 to 1000 taken from the
// SHA-256 of the data. What exceeds the range of a float64 is clamped to its
// largest number, because JSON knows no infinity.
func Compute(rounds int) Kind {
	return Kind{
		Name:    "compute",
		Summary: "burns CPU: cost linear in complexity, the same result everywhere",
		Class:   CPU,
		Func: func(ctx context.Context, in Input) (json.RawMessage, error) {
			return compute(ctx, in, rounds)
		},
	}
}

func compute(ctx context.Context, in Input, rounds int) (json.RawMessage, error) {
	tree, err := parse(in.Data)
	if err != nil {
		return nil, err
	}
	digest, err := digest(tree)
	if err != nil {
		return nil, err
	}
	values := numbers(tree, nil)
	if len(values) == 0 {
		for i := range 3 {
			values = append(values, float64(binary.BigEndian.Uint32(digest[8+4*i:])%1000+1))
		}
	}
	sum, product := 0.0, 1.0
	for _, v := range values {
		sum = finite(float64(sum + v)) // the conversions forbid fused operations
		product = finite(float64(product * v))
	}
	state, err := mix(ctx, binary.BigEndian.Uint64(digest[:])+uint64(in.Complexity), in.Complexity*rounds)
	if err != nil {
		return nil, err
	}
	return json.Marshal(Computed{
		Sum:        sum,
		Product:    product,
		Operations: in.Complexity * len(values),
		Checksum:   fmt.Sprintf("%016x", state),
	})
}

// lookUp is how many rounds go by between looks at the context: some 40 us.
const lookUp = 1 << 14

// mix runs so many rounds of the finaliser of SplitMix64 (Steele, Lea and
// Flood, "Fast splittable pseudorandom number generators", 2014), each on the
// outcome of the one before.
func mix(ctx context.Context, x uint64, rounds int) (uint64, error) {
	for rounds > 0 {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		for range min(rounds, lookUp) {
			x += 0x9e3779b97f4a7c15
			x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
			x = (x ^ x>>27) * 0x94d049bb133111eb
			x ^= x >> 31
		}
		rounds -= lookUp
	}
	return x, nil
}

// parse reads data without touching the digits of its numbers.
func parse(data json.RawMessage) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, fmt.Errorf("parse data: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("parse data: more than one value")
	}
	return tree, nil
}

// digest is the SHA-256 of the canonical form: no spaces, keys sorted, numbers
// as they were written.
func digest(tree any) ([sha256.Size]byte, error) {
	canonical, err := json.Marshal(tree)
	return sha256.Sum256(canonical), err
}

// numbers appends all numbers of the tree to values.
func numbers(tree any, values []float64) []float64 {
	switch t := tree.(type) {
	case json.Number:
		v, _ := strconv.ParseFloat(t.String(), 64) // out of range gives an infinity, which is clamped
		values = append(values, finite(v))
	case []any:
		for _, element := range t {
			values = numbers(element, values)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(t)) {
			values = numbers(t[key], values)
		}
	}
	return values
}

func finite(v float64) float64 { return max(-math.MaxFloat64, min(math.MaxFloat64, v)) }
