package work

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"testing"
)

// run does one unit of work that must succeed.
func run(t *testing.T, k Kind, data string, complexity int) string {
	t.Helper()
	result, err := k.Func(t.Context(), Input{Data: json.RawMessage(data), Complexity: complexity})
	if err != nil {
		t.Fatalf("%s of %s: %v", k.Name, data, err)
	}
	return string(result)
}

// The results below hold for every machine and every later version, and come
// from a second implementation, in Python.
func TestComputeGivesTheSameResultEverywhere(t *testing.T) {
	for _, c := range []struct {
		what       string
		data       string
		complexity int
		want       string
	}{
		{"one number", `{"value":42}`, 1,
			`{"sum":42,"product":42,"operations":1,"checksum":"3026cc7034476cf2"}`},
		{"more complexity changes operations and checksum only", `{"value":42}`, 10,
			`{"sum":42,"product":42,"operations":10,"checksum":"6821a13ddc0328ab"}`},
		{"numbers at any depth, and strings that only look like them", `{"a":[1,{"b":2.5}],"c":{"d":-4},"e":"7","f":true,"g":null}`, 2,
			`{"sum":-0.5,"product":-10,"operations":6,"checksum":"47bb2e156aeb0f24"}`},
		{"keys are taken in order, so rounding is the same: 1e16 - 1e16 + 1", `{"b":-1e16,"c":1,"a":1e16}`, 1,
			`{"sum":1,"product":-1e+32,"operations":3,"checksum":"57adde1728a874d3"}`},
		{"no numbers: three from the SHA-256", `{"name":"x"}`, 1,
			`{"sum":1674,"product":162217332,"operations":3,"checksum":"601f8553acc627ba"}`},
		{"an empty object", `{}`, 1,
			`{"sum":1889,"product":214956547,"operations":3,"checksum":"669e6697187d190b"}`},
		{"a number beyond float64 is clamped", `{"value":1e400}`, 1,
			`{"sum":1.7976931348623157e+308,"product":1.7976931348623157e+308,"operations":1,"checksum":"ebede19eb7db11cc"}`},
		{"a negative one, too", `{"value":-1e400}`, 1,
			`{"sum":-1.7976931348623157e+308,"product":-1.7976931348623157e+308,"operations":1,"checksum":"ff37130eb2bdc82c"}`},
		{"and what overflows on the way", `{"a":1e308,"b":1e308}`, 1,
			`{"sum":1.7976931348623157e+308,"product":1.7976931348623157e+308,"operations":2,"checksum":"d1ce1e7718f23dfb"}`},
		{"the largest of both signs cancel out", `{"a":1e400,"b":-1e400}`, 1,
			`{"sum":0,"product":-1.7976931348623157e+308,"operations":2,"checksum":"8b772941951816ca"}`},
		{"a number too small is zero", `{"value":1e-400}`, 1,
			`{"sum":0,"product":0,"operations":1,"checksum":"e5cca926f7bba7b4"}`},
		{"decimal fractions are rounded one by one", `{"a":0.1,"b":0.2,"c":10}`, 1,
			`{"sum":10.3,"product":0.20000000000000004,"operations":3,"checksum":"dd87d8509595eef4"}`},
		{"HTML and any script", `{"<b>&":"é\u2028"}`, 1,
			`{"sum":858,"product":10494802,"operations":3,"checksum":"587404c4bcfd3f9a"}`},
	} {
		if got := run(t, Compute(1000), c.data, c.complexity); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.what, got, c.want)
		}
	}
}

// Canonical is the order of keys and the spaces, and nothing else.
func TestComputeGoesByTheMeaningOfTheData(t *testing.T) {
	base := run(t, Compute(1), `{"a":1,"b":[2,"x"]}`, 1)
	for _, c := range []struct {
		what, data string
		same       bool
	}{
		{"spaces change nothing", ` { "a" : 1, "b" : [ 2, "x" ] } `, true},
		{"the order of keys changes nothing", `{"b":[2,"x"],"a":1}`, true},
		{"escapes change nothing", `{"\u0061":1,"b":[2,"\u0078"]}`, true},
		{"the order of an array does", `{"a":1,"b":["x",2]}`, false},
		{"the digits of a number do: they are not read and written again", `{"a":1.0,"b":[2,"x"]}`, false},
		{"a digit past float64 does", `{"a":1.00000000000000000001,"b":[2,"x"]}`, false},
		{"a string does", `{"a":1,"b":[2,"y"]}`, false},
	} {
		if got := run(t, Compute(1), c.data, 1); (got == base) != c.same {
			t.Errorf("%s: got %s, beside %s", c.what, got, base)
		}
	}
}

// reference is mix without the looks at the context.
func reference(x uint64, rounds int) uint64 {
	for range rounds {
		x += 0x9e3779b97f4a7c15
		x ^= x >> 30
		x *= 0xbf58476d1ce4e5b9
		x ^= x >> 27
		x *= 0x94d049bb133111eb
		x ^= x >> 31
	}
	return x
}

func TestMixRunsExactlySoManyRounds(t *testing.T) {
	// The first outputs of SplitMix64 with seed 0 are well known; feeding the
	// outcome back makes only the first of them comparable.
	if got, want := reference(0, 1), uint64(0xe220a8397b1dcdaf); got != want {
		t.Errorf("a round of 0 is %x, want %x", got, want)
	}
	for _, rounds := range []int{0, 1, 2, lookUp - 1, lookUp, lookUp + 1, 2 * lookUp, 3*lookUp + 7} {
		got, err := mix(t.Context(), 12345, rounds)
		if want := reference(12345, rounds); err != nil || got != want {
			t.Errorf("%d rounds: got %x, %v, want %x", rounds, got, err, want)
		}
	}
}

// The work is linear in complexity, and does not depend on how many values
// there are: the checksum is that of complexity times rounds, to the round.
func TestTheRoundsAreExactlyLinearInComplexity(t *testing.T) {
	for _, data := range []string{`{}`, `{"a":1}`, `{"a":[1,2,3,4,5,6,7,8,9]}`} {
		canonical, _, err := read(json.RawMessage(data))
		if err != nil {
			t.Fatal(err)
		}
		sha := sha256.Sum256(canonical)
		for _, rounds := range []int{1, 999, 5000} {
			for complexity := 1; complexity <= 10; complexity++ {
				var got Computed
				if err := json.Unmarshal([]byte(run(t, Compute(rounds), data, complexity)), &got); err != nil {
					t.Fatal(err)
				}
				seed := binary.BigEndian.Uint64(sha[:]) + uint64(complexity)
				if want := fmt.Sprintf("%016x", reference(seed, complexity*rounds)); got.Checksum != want {
					t.Errorf("%s at complexity %d, %d rounds: got %s, want %s", data, complexity, rounds, got.Checksum, want)
				}
			}
		}
	}
}

// endsAt is a context that ends when it is looked at for the nth time.
type endsAt struct {
	context.Context
	looks, n int
}

func (e *endsAt) Err() error {
	e.looks++
	if e.looks >= e.n {
		return context.Canceled
	}
	return nil
}

func TestComputeStopsWhenItsContextEnds(t *testing.T) {
	endless := Compute(math.MaxInt / 10)
	in := Input{Data: json.RawMessage(`{}`), Complexity: 10}

	if _, err := endless.Func(&endsAt{Context: t.Context(), n: 5}, in); !errors.Is(err, context.Canceled) {
		t.Errorf("ended while it computes: got %v, want context.Canceled", err)
	}
	cause := errors.New("the caller thought better of it")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := endless.Func(ctx, in); !errors.Is(err, cause) {
		t.Errorf("ended before: got %v, want the cause", err)
	}
}

func TestComputeRefusesWhatIsNotOneValue(t *testing.T) {
	for _, data := range []string{``, `{`, `{} {}`, `{"a":NaN}`, `{"a":01}`} {
		if got, err := Compute(1).Func(t.Context(), Input{Data: json.RawMessage(data), Complexity: 1}); err == nil {
			t.Errorf("%q: got %s, want an error", data, got)
		}
	}
}

// FuzzCompute: any object gives a valid result of finite numbers, the same one
// after its spaces are gone.
func FuzzCompute(f *testing.F) {
	for _, data := range []string{`{}`, `{"a":1e400,"b":-1e400,"c":0}`, `{"a":[[[-0.0]]]}`, "{\"\xff\":1}", `{"a":"\ud800"}`} {
		f.Add([]byte(data))
	}
	kind := Compute(3)
	f.Fuzz(func(t *testing.T, data []byte) {
		result, err := kind.Func(t.Context(), Input{Data: data, Complexity: 2})
		if (err == nil) != json.Valid(data) {
			t.Fatalf("%q: got %s, %v", data, result, err)
		}
		if err != nil {
			return
		}
		var got Computed
		if err := json.Unmarshal(result, &got); err != nil || got.Operations < 2 || len(got.Checksum) != 16 {
			t.Errorf("%q: got %s, %v", data, result, err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, data); err != nil {
			t.Fatal(err)
		}
		if again, err := kind.Func(t.Context(), Input{Data: compact.Bytes(), Complexity: 2}); !bytes.Equal(again, result) {
			t.Errorf("%q: got %s without spaces (%v), and %s with them", data, again, err, result)
		}
	})
}
