package work

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
)

// DefaultRounds is the cost of one unit of complexity: about 5 ms on a core of
// 2024. The cost is counted in rounds and not in time, so that results are the
// same on every machine.
const DefaultRounds = 1_400_000

// Computed is the result of compute.
type Computed struct {
	Sum        float64 `json:"sum"`        // of the values, see Compute
	Product    float64 `json:"product"`    // of the values, see Compute
	Operations int     `json:"operations"` // complexity times the number of values
	Checksum   string  `json:"checksum"`   // 16 hex digits that take every round to find
}

// Compute is work that burns CPU: so many rounds of integer mixing for every
// unit of complexity, however many values there are. Its result depends on the
// data, the complexity and the rounds only, and is the same on every platform.
//
// The values are all numbers in the data, depth first and with the keys of an
// object in the order of their bytes. If there are none, they are three numbers
// from 1 to 1000, taken from the SHA-256 of the canonical data: its JSON with
// sorted keys, without spaces, and with the digits of numbers as they were sent.
//
// Sum and product are taken in that order in float64. What leaves its range, be
// it a value such as 1e400 or a step of the way, is clamped to the largest
// finite number of its sign, because JSON knows no infinity. So a product that
// reads 1.7976931348623157e+308 means "at least this".
//
// The checksum begins with the SHA-256 and the complexity, and every round
// mixes the outcome of the one before: there is no way to it but all of them.
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
	canonical, values, err := read(in.Data)
	if err != nil {
		return nil, err
	}
	sha := sha256.Sum256(canonical)
	if len(values) == 0 {
		for i := range 3 {
			values = append(values, float64(binary.BigEndian.Uint32(sha[8+4*i:])%1000+1))
		}
	}
	sum, product := 0.0, 1.0
	for _, v := range values {
		// A conversion rounds, which forbids the compiler to fuse operations
		// (Go specification, "Floating-point operators").
		sum = finite(float64(sum + v))
		product = finite(float64(product * v))
	}
	state, err := mix(ctx, binary.BigEndian.Uint64(sha[:])+uint64(in.Complexity), in.Complexity*rounds)
	if err != nil {
		return nil, err
	}
	return json.Marshal(Computed{
		Sum:        sum,
		Product:    product,
		Operations: in.Complexity * len(values),
		Checksum:   hex.EncodeToString(binary.BigEndian.AppendUint64(nil, state)),
	})
}

// lookUp is how many rounds go by between looks at the context: some 60 us.
const lookUp = 1 << 14

// mix runs so many rounds, each on the outcome of the one before. A round is
// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
// generators", 2014). It ends early, with the cause, when ctx does.
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
