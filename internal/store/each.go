package store

import (
	"fmt"
	"slices"
	"sync"

	"tandem"
)

// Each makes a write about every request, side by side so that they share
// commits: at most MaxBatch of them at once. One that has moved on meanwhile
// (CodeConflict) needs it no more. The others are tried, whatever becomes of one;
// the error tells how many have failed, and why the first of them did.
func Each(reqs []*tandem.Request, write func(*tandem.Request) error) error {
	failed, first := 0, error(nil)
	for batch := range slices.Chunk(reqs, MaxBatch) {
		faults := make([]error, len(batch))
		var all sync.WaitGroup
		for i, req := range batch {
			all.Go(func() { faults[i] = write(req) })
		}
		all.Wait()
		for i, err := range faults {
			if err == nil || tandem.CodeOf(err) == tandem.CodeConflict {
				continue
			}
			if failed++; failed == 1 {
				first = fmt.Errorf("%s: %w", batch[i].ID, err)
			}
		}
	}
	if failed > 1 {
		return fmt.Errorf("%d of %d requests, the first of them %w", failed, len(reqs), first)
	}
	return first
}
