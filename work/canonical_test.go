package work

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strconv"
	"testing"
)

// decodedAndEncoded is what read is to give, the long way.
func decodedAndEncoded(data []byte) (canonical []byte, numbers []float64, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return nil, nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, nil, io.ErrUnexpectedEOF
	}
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(tree); err != nil {
		return nil, nil, err
	}
	return bytes.TrimSuffix(buffer.Bytes(), []byte("\n")), numbersOf(tree, nil), nil
}

func numbersOf(tree any, values []float64) []float64 {
	switch t := tree.(type) {
	case json.Number:
		v, _ := strconv.ParseFloat(t.String(), 64)
		values = append(values, finite(v))
	case []any:
		for _, element := range t {
			values = numbersOf(element, values)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(t)) {
			values = numbersOf(t[key], values)
		}
	}
	return values
}

func FuzzReadIsDecodingAndEncodingAgain(f *testing.F) {
	for _, data := range []string{
		`{}`, `[]`, `7`, `"x"`, `null`, ` { "b" : [ 1 , { } , [ ] ] , "a" : -0.0e1 } `,
		`{"b":1,"a":2,"b":{"c":3},"a":[4]}`, `{"\u0061":1,"a":2}`, `{"a\"]}":"\\","z":"\"}"}`,
		`{"<b>&":"é\u2028\u007f\/"}`, "{\"\xff\":\"\xfe\",\"\ufffd\":1}", `{"a":"\ud800","":1}`,
		`{"i":9,"h":8,"g":7,"f":6,"e":5,"d":4,"c":3,"b":2,"a":1}`, `{`, `{} {}`, `{"a":01}`, `[1,]`, ``,
	} {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		canonical, numbers, err := read(data)
		wantCanonical, wantNumbers, wantErr := decodedAndEncoded(data)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: got error %v, want %v", data, err, wantErr)
		}
		if !bytes.Equal(canonical, wantCanonical) {
			t.Errorf("%q: got %s, want %s", data, canonical, wantCanonical)
		}
		if !slices.Equal(numbers, wantNumbers) {
			t.Errorf("%q: got numbers %v, want %v", data, numbers, wantNumbers)
		}
	})
}
