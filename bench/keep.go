package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"tandem"
	"tandem/internal/embedded"
)

// counted is what a scenario reads of /stats.
type counted struct {
	Requests struct {
		Completed int `json:"completed_requests"`
		Pruned    int `json:"pruned_requests"`
	} `json:"request_statistics"`
	System struct {
		QueueDepth int `json:"queue_depth"`
	} `json:"system"`
}

// measureBacklog starts the service on a file of a million requests that wait,
// and compares the rate at which it works them off with that of a service that
// has only as many as the measurement takes.
func measureBacklog(ctx context.Context, b *bench) error {
	large, small := filepath.Join(b.dir, "backlog.db"), filepath.Join(b.dir, "few.db")
	few := int(b.length/time.Second+3) * 10_000
	for path, rows := range map[string]int{large: b.rows, small: few} {
		if err := fillBacklog(ctx, path, rows); err != nil {
			return err
		}
	}
	backlog, err := startSide(ctx, b, "large", large, "--rounds", "1000")
	if err != nil {
		return err
	}
	defer backlog.service.stop()
	rate, err := drainRate(ctx, backlog.service.url, b.length)
	if err != nil {
		return err
	}
	resident, err := backlog.service.residentMB()
	if err != nil {
		return err
	}
	backlog.service.stop()
	control, err := startSide(ctx, b, "small", small, "--rounds", "1000")
	if err != nil {
		return err
	}
	defer control.service.stop()
	plain, err := drainRate(ctx, control.service.url, b.length)
	if err != nil {
		return err
	}
	fmt.Printf("       worked off: %.0f/s of %d, %.0f/s of %d\n", rate, b.rows, plain, few)
	b.atMost("ready after start", backlog.ready, 2*time.Second)
	b.verdict(resident < 200, "%-44s %.0f MB (under 200 MB)", "resident memory", resident)
	b.atLeast("rate with a large backlog / a small one", rate/plain, 0.9)
	return nil
}

// drainRate is how many requests a service works in a second.
func drainRate(ctx context.Context, url string, length time.Duration) (float64, error) {
	var before, after counted
	if err := getJSON(ctx, url+"/stats", &before); err != nil {
		return 0, err
	}
	began := time.Now()
	select {
	case <-time.After(length):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if err := getJSON(ctx, url+"/stats", &after); err != nil {
		return 0, err
	}
	took := time.Since(began)
	if after.System.QueueDepth == 0 {
		return 0, fmt.Errorf("the backlog was worked off before the end: the rate cannot be told")
	}
	return float64(after.Requests.Completed-before.Requests.Completed) / took.Seconds(), nil
}

// fillBacklog accepts requests that are not worked.
func fillBacklog(ctx context.Context, path string, rows int) error {
	return fill(ctx, path, rows, func(ctx context.Context, backend *embedded.Backend, _ int) error {
		now := time.Now().UTC().Truncate(time.Microsecond)
		return backend.Accept(ctx, &tandem.Request{
			ID: tandem.NewID(now), Mode: tandem.Async, Status: tandem.Pending, Workload: "compute", Lane: "cpu", Complexity: 1,
			Data: []byte(`{"a":1.5,"b":2}`), Callback: tandem.Callback{State: tandem.CallbackNone}, CreatedAt: now,
		})
	})
}

// measureRetention compares the p99 of the 202 while old requests are deleted
// with its p99 on a service that keeps them, both on files of as many.
func measureRetention(ctx context.Context, b *bench) error {
	const probe = `{"data":{"a":1},"workload":"wait"}`
	const perSecond = 200
	rows := b.rows / 5
	var ratios []float64
	for round := range b.rounds {
		p99 := make(map[bool]time.Duration)
		for _, prune := range []bool{round%2 == 0, round%2 != 0} {
			path := filepath.Join(b.dir, fmt.Sprintf("retain-%d-%v.db", round, prune))
			if err := fillHistory(ctx, path, rows); err != nil {
				return err
			}
			var args []string
			if prune {
				args = []string{"--retain", "1s"}
			}
			service, err := b.serve(ctx, path, args...)
			if err != nil {
				return err
			}
			var before, after counted
			err = getJSON(ctx, service.url+"/stats", &before)
			var latencies []time.Duration
			began := time.Now()
			if err == nil {
				latencies, err = atRate(ctx, service.url+"/async", probe, perSecond, 2*b.length, http.StatusAccepted)
			}
			took := time.Since(began)
			if err == nil {
				err = getJSON(ctx, service.url+"/stats", &after)
			}
			service.stop()
			if err != nil {
				return err
			}
			p99[prune] = quantile(latencies, .99)
			deleted := after.Requests.Pruned - before.Requests.Pruned
			if prune && (deleted == 0 || after.Requests.Pruned >= rows) {
				return fmt.Errorf("%d of %d were deleted by the end, so deleting did not go on throughout", after.Requests.Pruned, rows)
			}
			fmt.Printf("       round %d: p50/p99 %v/%v, %.0f deleted/s\n", round+1,
				quantile(latencies, .5).Round(10*time.Microsecond), p99[prune].Round(10*time.Microsecond), float64(deleted)/took.Seconds())
		}
		ratios = append(ratios, float64(p99[true])/float64(p99[false]))
	}
	b.verdict(median(ratios) <= 1.5, "%-44s %.2fx (at most 1.50x)", "p99 of the 202 while deleting / keeping", median(ratios))
	return nil
}
