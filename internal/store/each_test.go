package store_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

func someRequests(n int) []*tandem.Request {
	reqs := make([]*tandem.Request, n)
	for i := range reqs {
		reqs[i] = &tandem.Request{ID: fmt.Sprint("req_", i)}
	}
	return reqs
}

func TestWritesAboutEachAreMadeSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var underWay atomic.Int32
		batches := make(chan chan struct{}, 3)
		for range 3 {
			batches <- make(chan struct{})
		}
		var mu sync.Mutex
		begun := make(map[string]bool)
		goOn := <-batches
		done := make(chan error, 1)
		go func() {
			done <- store.Each(someRequests(2*store.MaxBatch+1), func(req *tandem.Request) error {
				mu.Lock()
				begun[req.ID] = true
				wait := goOn
				mu.Unlock()
				underWay.Add(1)
				<-wait
				underWay.Add(-1)
				return nil
			})
		}()
		for _, want := range []int32{store.MaxBatch, store.MaxBatch, 1} {
			synctest.Wait()
			if got := underWay.Load(); got != want {
				t.Errorf("%d writes are under way at once, want %d", got, want)
			}
			mu.Lock()
			last := goOn
			if len(batches) > 0 {
				goOn = <-batches
			}
			mu.Unlock()
			close(last)
		}
		if err := <-done; err != nil || len(begun) != 2*store.MaxBatch+1 {
			t.Errorf("%d writes were made, %v, want all", len(begun), err)
		}
	})
}

func TestAWriteAboutOneThatFailsKeepsNoOtherFromItsOwn(t *testing.T) {
	broken := errors.New("the disk is full")
	for _, c := range []struct {
		name  string
		fails map[string]error
		want  string // "" for none
	}{
		{"all are made", nil, ""},
		{"one has moved on", map[string]error{"req_1": engine.ErrMovedOn}, ""},
		{"one fails", map[string]error{"req_3": broken}, "req_3: the disk is full"},
		{"some fail", map[string]error{"req_3": broken, "req_2": engine.ErrMovedOn, "req_599": broken}, "2 of 600 requests, the first of them req_3: the disk is full"},
	} {
		var mu sync.Mutex
		var made []string
		err := store.Each(someRequests(600), func(req *tandem.Request) error {
			if err := c.fails[req.ID]; err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			made = append(made, req.ID)
			return nil
		})
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want || c.want != "" && !errors.Is(err, broken) {
			t.Errorf("%s: the error is %q, want %q", c.name, got, c.want)
		}
		slices.Sort(made)
		if made = slices.Compact(made); len(made) != 600-len(c.fails) {
			t.Errorf("%s: %d writes were made, want %d", c.name, len(made), 600-len(c.fails))
		}
	}
}
