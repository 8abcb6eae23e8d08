package work

import (
	"encoding/json"
	"strings"
	"testing"
)

// BenchmarkRead is of data near its limit: many members, some of them nested.
func BenchmarkRead(b *testing.B) {
	member := `"name%": {"text": "plain, and not over long", "numbers": [1, 2.5, -3e10], "deep": {"a": {"b": null}}, "é": true}`
	var all []string
	for i := range 80 {
		all = append(all, strings.Replace(member, "%", strings.Repeat("x", i%7), 1))
	}
	data := json.RawMessage("{" + strings.Join(all, ",\n ") + "}")
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := read(data); err != nil {
			b.Fatal(err)
		}
	}
}
