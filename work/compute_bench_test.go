package work

import (
	"fmt"
	"testing"
)

func BenchmarkCompute(b *testing.B) {
	kind := Compute(DefaultRounds)
	for complexity := 1; complexity <= 10; complexity++ {
		b.Run(fmt.Sprint(complexity), func(b *testing.B) {
			in := Input{Data: []byte(`{"a":1.5,"b":2,"c":[3,4]}`), Complexity: complexity}
			for b.Loop() {
				if _, err := kind.Func(b.Context(), in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
func BenchmarkComputeOverhead(b *testing.B) {
	kind := Compute(1)
	in := Input{Data: []byte(`{"a":1.5,"b":2,"c":[3,4]}`), Complexity: 1}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := kind.Func(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}
