package work

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// WaitUnit is how long wait takes for each unit of complexity.
const WaitUnit = 10 * time.Millisecond

// Wait is work that waits and needs no CPU, as a call to something slow does.
// Its result is {"waited_ms": the time that was asked for}, so it is the same
// every time.
func Wait() Kind {
	return Kind{
		Name:    "wait",
		Summary: "waits 10 ms for each unit of complexity, without CPU",
		Class:   Waits,
		Func: func(ctx context.Context, in Input) (json.RawMessage, error) {
			d := time.Duration(in.Complexity) * WaitUnit
			if err := wait(ctx, d); err != nil {
				return nil, err
			}
			return fmt.Appendf(nil, `{"waited_ms":%d}`, d.Milliseconds()), nil
		},
	}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
