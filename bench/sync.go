package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"tandem/internal/embedded"
)

// measureSync compares POST /sync with a bare handler that runs the same work
// of about 5 ms: the rate with several connections, and the latency with one.
func measureSync(ctx context.Context, b *bench) error {
	bare, err := b.bare(ctx)
	if err != nil {
		return err
	}
	defer bare.stop()
	service, err := b.tandem(ctx)
	if err != nil {
		return err
	}
	defer service.stop()

	backend, err := embedded.Open(ctx, filepath.Join(b.dir, "commit.db"), embedded.Options{})
	if err != nil {
		return err
	}
	defer backend.Close()

	const conns, single = 8, 300
	var ratios []float64
	var plainLatency, ourLatency, commits []time.Duration
	for round := range b.rounds {
		_, plain, err := flood(ctx, bare.url+"/sync", smallBody, conns, b.length, http.StatusOK)
		if err != nil {
			return err
		}
		_, ours, err := flood(ctx, service.url+"/sync", smallBody, conns, b.length, http.StatusOK)
		if err != nil {
			return err
		}
		fmt.Printf("       round %d: bare %5.0f/s   tandem %5.0f/s   %.3fx\n", round+1, plain, ours, ours/plain)
		ratios = append(ratios, ours/plain)
		one := client(1)
		for i := range max(1, single/b.rounds) { // in turn, so that all meet the same machine
			p, err := post(one, bare.url+"/sync", smallBody, http.StatusOK)
			if err != nil {
				return err
			}
			o, err := post(one, service.url+"/sync", smallBody, http.StatusOK)
			if err != nil {
				return err
			}
			// A disk that has slept for some milliseconds is slower than one
			// that is kept busy, so the commit is measured here as well.
			time.Sleep(5 * time.Millisecond)
			start := time.Now()
			if err := writeOne(ctx, backend, 2*i+1); err != nil { // odd ones are sync
				return err
			}
			plainLatency, ourLatency, commits = append(plainLatency, p), append(ourLatency, o), append(commits, time.Since(start))
		}
	}
	commit := median(commits)
	fmt.Printf("       median latency: bare %v   tandem %v   one commit %v\n", median(plainLatency), median(ourLatency), commit)
	b.atLeast("sync throughput / bare handler", median(ratios), 0.90)
	b.atMost("median sync overhead (0.5 ms and a commit)", median(ourLatency)-median(plainLatency), 500*time.Microsecond+commit)
	return nil
}
