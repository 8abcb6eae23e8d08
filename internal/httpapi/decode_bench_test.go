package httpapi

import (
	"strings"
	"testing"

	"tandem"
)

// BenchmarkParseSubmission is of a short body, and of one with data near its limit.
func BenchmarkParseSubmission(b *testing.B) {
	member := `"name": {"text": "plain, and not over long", "numbers": [1, 2.5, -3e10], "deep": {"a": {"b": null}}, "é": true}`
	for _, row := range []struct{ name, body string }{
		{"short", small},
		{"long", `{"data": {"all": [{` + strings.Repeat(member+"}, {", 80) + `}]}, "complexity": 3, "callback_url": "http://example.com/hook"}`},
	} {
		b.Run(row.name, func(b *testing.B) {
			b.SetBytes(int64(len(row.body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := parseSubmission([]byte(row.body), tandem.Async); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
