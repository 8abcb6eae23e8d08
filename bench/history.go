package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"tandem"
	"tandem/internal/embedded"
)

// measureHistory starts the service on a file of a million requests and looks
// at its memory, its start, and the time of /stats and of pages by cursor.
func measureHistory(ctx context.Context, b *bench) error {
	path := filepath.Join(b.dir, "history.db")
	began := time.Now()
	if err := fillHistory(ctx, path, b.rows); err != nil {
		return err
	}
	fmt.Printf("       wrote %d requests in %v\n", b.rows, time.Since(began).Round(time.Second))

	began = time.Now()
	service, err := start(ctx, b.dir, b.program, "serve", "--mode", "demo", "--addr", "127.0.0.1:0", "--database", path)
	if err != nil {
		return err
	}
	defer service.stop()
	if err := getJSON(ctx, service.url+"/readyz", &struct{}{}); err != nil {
		return err
	}
	ready := time.Since(began)

	worst := time.Duration(0)
	for _, query := range []string{
		"/stats",
		"/requests?limit=100",
		"/requests?limit=100&mode=async",
		"/requests?limit=100&status=failed",
		"/requests?limit=100&mode=sync&status=completed",
	} {
		typical, err := timePages(ctx, service.url, query)
		if err != nil {
			return err
		}
		fmt.Printf("       %-48s median %v\n", query, typical.Round(10*time.Microsecond))
		worst = max(worst, typical)
	}
	resident, err := service.residentMB()
	if err != nil {
		return err
	}
	b.atMost("slowest median of /stats and pages", worst, 5*time.Millisecond)
	b.atMost("ready after start", ready, time.Second)
	b.verdict(resident < 200, "%-44s %.0f MB (under 200 MB)", "resident memory", resident)
	return nil
}

// timePages follows a query's cursor deep into the history and returns the
// median time of a page.
func timePages(ctx context.Context, url, query string) (time.Duration, error) {
	var times []time.Duration
	for next := query; next != "" && len(times) < 300; {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+next, nil)
		if err != nil {
			return 0, err
		}
		began := time.Now()
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, err
		}
		_, err = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("GET %s: %s %w", next, answer.Status, err)
		}
		times = append(times, time.Since(began))
		if link := answer.Header.Get("Link"); link != "" {
			next, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
		}
	}
	return median(times), nil
}

// fillHistory writes requests of every kind that has ended, through the
// backend itself.
func fillHistory(ctx context.Context, path string, rows int) error {
	backend, err := embedded.Open(ctx, path, embedded.Options{MaxPending: rows + 1})
	if err != nil {
		return err
	}
	defer backend.Close()
	var next atomic.Int64
	return inParallel(512, func(int) error {
		for {
			i := int(next.Add(1)) - 1
			if i >= rows {
				return nil
			}
			if err := writeOne(ctx, backend, i); err != nil {
				return err
			}
		}
	})
}

func writeOne(ctx context.Context, backend *embedded.Backend, i int) error {
	now := time.Now().UTC().Truncate(time.Microsecond)
	req := &tandem.Request{
		ID: tandem.NewID(now), Mode: tandem.Sync, Status: tandem.Completed, Workload: "compute", Lane: "cpu", Complexity: 1,
		Data:      []byte(fmt.Sprintf(`{"customer":%d,"items":[1.5,2.25,3.125],"note":"a small order"}`, i)),
		Callback:  tandem.Callback{State: tandem.CallbackNone},
		CreatedAt: now, StartedAt: now, WorkedAt: now.Add(5 * time.Millisecond), Starts: 1, Epoch: 1,
	}
	result := []byte(`{"sum":6.875,"product":10.546875,"operations":4,"checksum":"9c1185a5c5e9fc54"}`)
	if i%2 == 0 {
		req.Mode, req.Status, req.Starts, req.Epoch = tandem.Async, tandem.Pending, 0, 0
		if err := backend.Accept(ctx, req); err != nil {
			return err
		}
		if err := backend.Start(ctx, req); err != nil {
			return err
		}
		req.WorkedAt = now.Add(5 * time.Millisecond)
	}
	req.Status, req.Result = tandem.Completed, result
	if i%20 == 0 {
		req.Status, req.Result = tandem.Failed, nil
		req.Failure = &tandem.Failure{Code: tandem.FailureWork, Message: "an order without a total"}
	}
	return backend.Complete(ctx, req)
}
