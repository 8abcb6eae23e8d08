package engine

import (
	"context"
	"sync"
)

// running knows the work and the attempts in progress, so that they can be
// stopped from outside.
type running struct {
	mu      sync.Mutex
	cancels map[*context.CancelCauseFunc]string // value: the request's id
	halted  error
}

func newRunning() running {
	return running{cancels: make(map[*context.CancelCauseFunc]string)}
}

// add returns a context that ends with ctx or when the request is cancelled.
// The caller calls done when the step is over.
func (r *running) add(ctx context.Context, id string) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.halted != nil {
		cancel(r.halted)
	}
	r.cancels[&cancel] = id
	return ctx, func() {
		r.mu.Lock()
		delete(r.cancels, &cancel)
		r.mu.Unlock()
		cancel(nil)
	}
}

// cancel ends what is in progress for a request with the cause, and reports
// whether there was anything.
func (r *running) cancel(id string, cause error) (found bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for cancel, of := range r.cancels {
		if of == id {
			(*cancel)(cause)
			found = true
		}
	}
	return found
}

// cancelAll ends everything in progress, and whatever is added later, with the
// cause.
func (r *running) cancelAll(cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.halted = cause
	for cancel := range r.cancels {
		(*cancel)(cause)
	}
}

// count returns how many steps are in progress.
func (r *running) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.cancels)
}
