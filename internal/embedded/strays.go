package embedded

import (
	"context"
	"sync"
	"time"

	"tandem"
)

// strays are sync requests on record as processing whose outcome could not be
// written when it came. Their callers were told that storage cannot be written;
// the outcome is written once it can be, so that none of them reads processing
// for ever.
type strays struct {
	mu   sync.Mutex
	reqs []*tandem.Request
}

// maxStrays bounds them. While nothing can be written no row is added, so there
// are as many as ran when that began; a restart fails those beyond.
const maxStrays = 4096

// strayed keeps a sync request whose Complete failed, if it is on record.
func (b *Backend) strayed(req *tandem.Request) {
	found, err := b.Request(context.Background(), req.ID)
	if tandem.CodeOf(err) == tandem.CodeNotFound || err == nil && found.Status.Worked() {
		return
	}
	row := *req
	b.strays.mu.Lock()
	defer b.strays.mu.Unlock()
	if len(b.strays.reqs) < maxStrays {
		b.strays.reqs = append(b.strays.reqs, &row)
	}
}

// take hands over all of them.
func (s *strays) take() []*tandem.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.reqs
	s.reqs = nil
	return all
}

// completeStrays writes the outcomes that could not be written, until ctx ends.
func (r *runner) completeStrays(ctx context.Context) {
	for ; ctx.Err() == nil; pause(ctx, time.Second) {
		for _, req := range r.backend.strays.take() {
			// One that fails again is kept again.
			if err := r.backend.Complete(ctx, req); err == nil {
				r.backend.log.Info("the outcome of a sync request was written late", "request_id", req.ID)
			}
		}
	}
}
