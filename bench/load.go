package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// post sends one body and returns how long the answer took to be read. Any
// status but want is an error.
func post(c *http.Client, url, body string, want int) (time.Duration, error) {
	start := time.Now()
	answer, err := c.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != want {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		return 0, fmt.Errorf("POST %s: %s: %s", url, answer.Status, text)
	}
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

// flood posts from so many connections for so long, each sending again as soon
// as it is answered, and returns how many good answers there were, and their rate.
func flood(ctx context.Context, url, body string, conns int, length time.Duration, want int) (answers int, perSecond float64, err error) {
	c := client(conns)
	defer c.CloseIdleConnections()
	var n atomic.Int64
	start := time.Now()
	until := start.Add(length)
	err = inParallel(conns, func(int) error {
		for time.Now().Before(until) && ctx.Err() == nil {
			if _, err := post(c, url, body, want); err != nil {
				return err
			}
			n.Add(1)
		}
		return ctx.Err()
	})
	return int(n.Load()), float64(n.Load()) / time.Since(start).Seconds(), err
}

// sendAll posts count bodies from so many connections.
func sendAll(ctx context.Context, url string, body func(i int) string, conns, count, want int) error {
	c := client(conns)
	defer c.CloseIdleConnections()
	var next atomic.Int64
	return inParallel(conns, func(int) error {
		for ctx.Err() == nil {
			i := int(next.Add(1)) - 1
			if i >= count {
				return nil
			}
			if _, err := post(c, url, body(i), want); err != nil {
				return err
			}
		}
		return ctx.Err()
	})
}

// atRate posts at a constant rate and returns every latency, counted from when
// the post was due.
func atRate(ctx context.Context, url, body string, perSecond int, length time.Duration, want int) ([]time.Duration, error) {
	c := client(perSecond)
	defer c.CloseIdleConnections()
	count := int(length.Seconds() * float64(perSecond))
	latencies := make([]time.Duration, count)
	errs := make(chan error, count)
	start := time.Now()
	var posts sync.WaitGroup
	for i := range count {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		posts.Go(func() {
			if _, err := post(c, url, body, want); err != nil {
				errs <- err
			}
			latencies[i] = time.Since(due)
		})
	}
	posts.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
		return latencies, nil
	}
}

// inParallel runs n of f and returns the first error.
func inParallel(n int, f func(i int) error) error {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- f(i) }()
	}
	var first error
	for range n {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}
