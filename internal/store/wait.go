package store

import (
	"context"
	"time"
)

// Pause waits a moment, or until ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// PruneEvery is how often old requests are looked for.
func PruneEvery(retain time.Duration) time.Duration {
	return min(max(retain/10, 100*time.Millisecond), time.Minute)
}

// AtOnce is a context that has ended: to ask for a slot without waiting.
var AtOnce = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()
