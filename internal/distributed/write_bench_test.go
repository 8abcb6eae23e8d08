package distributed_test

import (
	"sync"
	"testing"

	"tandem/internal/distributed"
	"tandem/internal/postgrestest"
	"tandem/internal/storetest"
)

// BenchmarkAccept accepts requests from 256 callers at once on a Postgres of its
// own that waits for the disk.
func BenchmarkAccept(b *testing.B) {
	cluster, err := postgrestest.Start(postgrestest.Options{})
	if err != nil {
		postgrestest.Skip(b, err)
	}
	defer func() {
		if err := cluster.Stop(); err != nil {
			b.Error(err)
		}
	}()
	backend, err := distributed.Open(b.Context(), cluster.URL("postgres"), distributed.Options{MaxPending: 100_000_000})
	if err != nil {
		b.Fatal(err)
	}
	defer backend.Close()
	work := make(chan struct{}, 1024)
	var callers sync.WaitGroup
	for range 256 {
		callers.Go(func() {
			for range work {
				if err := backend.Accept(b.Context(), storetest.Pending("http://example.com/hook")); err != nil {
					b.Error(err)
				}
			}
		})
	}
	b.ResetTimer()
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	callers.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "accepts/s")
}
