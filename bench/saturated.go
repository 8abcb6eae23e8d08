package main

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// measureSaturated compares the p99 of the 202 at 100 posts/s while the workers
// are busy with 5 ms units and 10,000 more wait, with its p99 on the same
// service when idle. The posts measured ask for waiting work, so that they add
// no load to the processors of their own.
func measureSaturated(ctx context.Context, b *bench) error {
	const probe = `{"data":{"a":1},"workload":"wait"}`
	const perSecond, length = 100, 8 * time.Second
	var excess []time.Duration
	for round := range b.rounds {
		service, err := b.tandem(ctx)
		if err != nil {
			return err
		}
		idle, err := atRate(ctx, service.url+"/async", probe, perSecond, length, http.StatusAccepted)
		if err == nil {
			err = sendAll(ctx, service.url+"/async", func(int) string { return smallBody }, 64, 10_000+int(length/(5*time.Millisecond))*4, http.StatusAccepted)
		}
		var busy []time.Duration
		if err == nil {
			busy, err = atRate(ctx, service.url+"/async", probe, perSecond, length, http.StatusAccepted)
		}
		var left struct {
			System struct {
				QueueDepth int `json:"queue_depth"`
			}
		}
		if err == nil {
			err = getJSON(ctx, service.url+"/stats", &left)
		}
		service.stop()
		if err != nil {
			return err
		}
		if left.System.QueueDepth < 10_000 {
			return fmt.Errorf("only %d requests waited at the end: the workers were not kept busy", left.System.QueueDepth)
		}
		p99 := quantile(busy, .99) - quantile(idle, .99)
		fmt.Printf("       round %d: p50/p99 idle %v/%v   saturated %v/%v   %d waiting\n", round+1,
			quantile(idle, .5).Round(10*time.Microsecond), quantile(idle, .99).Round(10*time.Microsecond),
			quantile(busy, .5).Round(10*time.Microsecond), quantile(busy, .99).Round(10*time.Microsecond), left.System.QueueDepth)
		excess = append(excess, p99)
	}
	b.atMost("p99 of the 202, saturated less idle", median(excess), 5*time.Millisecond)
	return nil
}
