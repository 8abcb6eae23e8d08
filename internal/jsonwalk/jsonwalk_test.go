package jsonwalk_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"tandem/internal/jsonwalk"
)

// walk decodes as encoding/json does, as far as it is a matter of finding the way.
func walk(b []byte) any {
	i := jsonwalk.Space(b, 0)
	switch b[i] {
	case '{':
		object := map[string]any{}
		for i, more := jsonwalk.Next(b, i+1, '}'); more; i, more = jsonwalk.Next(b, i, '}') {
			end, plain := jsonwalk.String(b, i)
			var key string
			if plain {
				key = string(b[i+1 : end-1])
			} else if err := json.Unmarshal(b[i:end], &key); err != nil {
				panic(err)
			}
			start := jsonwalk.Colon(b, end)
			i = jsonwalk.Value(b, start)
			object[key] = walk(b[start:i])
		}
		return object
	case '[':
		array := []any{}
		for i, more := jsonwalk.Next(b, i+1, ']'); more; i, more = jsonwalk.Next(b, i, ']') {
			end := jsonwalk.Value(b, i)
			array = append(array, walk(b[i:end]))
			i = end
		}
		return array
	default:
		end := jsonwalk.Value(b, i)
		var v any
		decoder := json.NewDecoder(bytes.NewReader(b[i:end]))
		decoder.UseNumber()
		if err := decoder.Decode(&v); err != nil {
			panic(err)
		}
		return v
	}
}

func FuzzTheWayIsThatOfEncodingJSON(f *testing.F) {
	for _, seed := range []string{
		`{}`, `[]`, `""`, `0`, `null`, ` { } `, "[\t]\r\n",
		`{"a":1,"b":[true,false,null],"c":{"d":"e"}}`,
		` { "a" : [ 1 , -2.5e10 , "x" ] , "b" : { } } `,
		`{"\"":"\\","}":"]","é":"\u00e9","a\\":[[[]],[{}]]}`,
		`[{"a":[{"b":[1]}]},2]`, `{"a":1,"a":2}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !json.Valid(b) {
			return
		}
		var want any
		decoder := json.NewDecoder(bytes.NewReader(b))
		decoder.UseNumber()
		if err := decoder.Decode(&want); err != nil {
			t.Skip(err) // nested too deeply, or a surrogate alone
		}
		got, err := json.Marshal(walk(b))
		if err != nil {
			t.Fatal(err)
		}
		if want, err := json.Marshal(want); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: got %s, want %s (%v)", b, got, want, err)
		}
	})
}
