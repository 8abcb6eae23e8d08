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

// Mixed is wait and then compute, as an endpoint that asks a database and then
// renders. It counts as waiting work: it spends most of its time there, and
// slots for CPU-bound work would stand idle meanwhile. So more of it computes
// at once than there are cores, and shares them, as in any server of that kind.
func Mixed(rounds int) Kind {
	computing, waiting := Compute(rounds), Wait()
	return Kind{
		Name:    "mixed",
		Summary: "waits, then burns CPU",
		Class:   Waits,
		Func: func(ctx context.Context, in Input) (json.RawMessage, error) {
			if _, err := waiting.Func(ctx, in); err != nil {
				return nil, err
			}
			return computing.Func(ctx, in)
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
