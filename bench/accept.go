package main

import (
	"context"
	"fmt"
	"net/http"
)

const smallBody = `{"data":{"a":1.5,"b":2,"c":[3,4]},"complexity":1,"workload":"compute"}`

// measureAccept compares durable accepts with a bare handler's.
func measureAccept(ctx context.Context, b *bench) error {
	bare, err := b.bare(ctx)
	if err != nil {
		return err
	}
	defer bare.stop()
	service, err := b.tandem(ctx, "--paused", "--max-pending", "100000000")
	if err != nil {
		return err
	}
	defer service.stop()

	const conns = 256
	var ratios []float64
	for round := range b.rounds {
		_, plain, err := flood(ctx, bare.url+"/async", smallBody, conns, b.length, http.StatusAccepted)
		if err != nil {
			return err
		}
		_, durable, err := flood(ctx, service.url+"/async", smallBody, conns, b.length, http.StatusAccepted)
		if err != nil {
			return err
		}
		fmt.Printf("       round %d: bare %6.0f/s   tandem %6.0f/s   %.2fx\n", round+1, plain, durable, durable/plain)
		ratios = append(ratios, durable/plain)
	}
	b.atLeast("durable accepts / bare handler", median(ratios), 0.50)
	return nil
}
