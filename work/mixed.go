package work

import (
	"context"
	"encoding/json"
)

// Mixed is wait and then compute, as an endpoint that asks a database and then
// renders. Its result is compute's.
//
// It counts as waiting work: with the default rounds two thirds of its time
// are waiting, and in slots as few as cores those would stand idle meanwhile,
// so a comparison would show the slots and not the work. The price is that
// more of it computes at once than there are cores. They share the cores then,
// in both patterns alike, as the handlers of any server of that kind do.
func Mixed(rounds int) Kind {
	waiting, computing := Wait(), Compute(rounds)
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
