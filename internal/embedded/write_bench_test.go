package embedded_test

import (
	"path/filepath"
	"testing"
	"time"

	"tandem"
	"tandem/internal/embedded"
	"tandem/internal/storetest"
)

// BenchmarkLife writes the whole life of a request: accepted, started,
// completed, delivered.
func BenchmarkLife(b *testing.B) {
	backend, err := embedded.Open(b.Context(), filepath.Join(b.TempDir(), "requests.db"), embedded.Options{MaxPending: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	defer backend.Close()
	b.SetParallelism(64)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			req := storetest.Pending("http://127.0.0.1:9999/1/1")
			at := req.CreatedAt
			if err := backend.Accept(b.Context(), req); err != nil {
				b.Error(err)
			}
			req.StartedAt = at
			if err := backend.Start(b.Context(), req); err != nil {
				b.Error(err)
			}
			req.Status, req.WorkedAt, req.Callback.NextAt = tandem.Completed, at, at
			req.Result = []byte(`{"sum":10.5,"product":36,"operations":4,"checksum":"9c1185a5c5e9fc54"}`)
			if err := backend.Complete(b.Context(), req); err != nil {
				b.Error(err)
			}
			req.Status, req.Callback.State, req.Callback.NextAt, req.Callback.Attempts = tandem.CallbackSent, tandem.CallbackDelivered, time.Time{}, 1
			if err := backend.RecordAttempt(b.Context(), req, tandem.Attempt{Number: 1, At: at, Status: 204}); err != nil {
				b.Error(err)
			}
		}
	})
}
