package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"tandem"
	"tandem/internal/embedded"
	"tandem/internal/postgrestest"
	"tandem/internal/transfer"
)

// measureHistory starts the service on a file of a million requests, and on a
// Postgres that these were moved to, and looks at its memory, its start, and the
// time of /stats and of pages.
func measureHistory(ctx context.Context, b *bench) (err error) {
	path := filepath.Join(b.dir, "history.db")
	began := time.Now()
	if err := fillHistory(ctx, path, b.rows); err != nil {
		return err
	}
	fmt.Printf("       wrote %d requests in %v\n", b.rows, time.Since(began).Round(time.Second))
	databases := []string{path}
	cluster, err := postgrestest.Start(postgrestest.Options{})
	switch {
	case errors.Is(err, postgrestest.ErrNoPrograms):
		b.unmeasured("history on Postgres", "Postgres: %v; install the Postgres programs (apt-get install postgresql), or put initdb and postgres on the PATH", err)
	case err != nil:
		return err
	default:
		defer func() { err = errors.Join(err, cluster.Stop()) }()
		moved, err := transfer.Run(ctx, path, cluster.URL("postgres"), slog.New(slog.DiscardHandler), func(transfer.Progress) {})
		if err != nil {
			return err
		}
		fmt.Printf("       moved them to Postgres in %v\n", moved.Duration.Round(time.Second))
		databases = append(databases, cluster.URL("postgres"))
	}
	var sides []*side
	for i, database := range databases {
		s, err := startSide(ctx, b, []string{"SQLite", "Postgres"}[i], database)
		if err != nil {
			return err
		}
		defer s.service.stop()
		sides = append(sides, s)
	}
	if err := compareLooks(ctx, b, sides); err != nil {
		return err
	}
	for _, s := range sides {
		resident, err := s.service.residentMB()
		if err != nil {
			return err
		}
		b.atMost(s.name+": slowest median", s.worst, 5*time.Millisecond)
		b.atMost(s.name+": ready after start", s.ready, time.Second)
		b.verdict(resident < 200, "%-44s %.0f MB (under 200 MB)", s.name+": resident memory", resident)
	}
	return nil
}

// side is a service on one of the two databases.
type side struct {
	name    string
	service *process
	ready   time.Duration
	worst   time.Duration // of the medians
	next    string        // what it is asked next
	times   []time.Duration
}

// startSide starts a service, and waits until it is ready.
func startSide(ctx context.Context, b *bench, name, database string, args ...string) (*side, error) {
	began := time.Now()
	service, err := b.serve(ctx, database, args...)
	if err != nil {
		return nil, err
	}
	if err := getJSON(ctx, service.url+"/readyz", &struct{}{}); err != nil {
		service.stop()
		return nil, err
	}
	return &side{name: name, service: service, ready: time.Since(began)}, nil
}

// looks is how often each look at the history is taken.
const looks = 300

// compareLooks asks the sides in turn, and prints how long each took to answer.
func compareLooks(ctx context.Context, b *bench, sides []*side) error {
	middle := "/requests?limit=100&cursor=" + strconv.FormatInt(int64(b.rows/2), 36)
	var some []struct {
		ID string `json:"request_id"`
	}
	if err := getJSON(ctx, sides[0].service.url+strings.Replace(middle, "100", "300", 1), &some); err != nil {
		return err
	}
	if len(some) == 0 {
		return errors.New("there is nothing in the middle of the history")
	}
	fmt.Printf("       %-44s", "")
	for _, s := range sides {
		fmt.Printf(" %20s", s.name)
	}
	fmt.Println()
	for _, look := range []struct {
		name    string
		path    func(i int) string
		follows bool // the next page, by its cursor
	}{
		{"the first page", func(int) string { return "/requests?limit=100" }, false},
		{"pages from the middle on", func(int) string { return middle }, true},
		{"pages of mode=async", func(int) string { return "/requests?limit=100&mode=async" }, true},
		{"pages of status=failed", func(int) string { return "/requests?limit=100&status=failed" }, true},
		{"pages of mode=sync&status=completed", func(int) string { return "/requests?limit=100&mode=sync&status=completed" }, true},
		{"an empty page, of status=callback_sent", func(int) string { return "/requests?limit=100&status=callback_sent" }, false},
		{"callbacks that were given up: none", func(int) string { return "/callbacks" }, false},
		{"a request by its id", func(i int) string { return "/requests/" + some[i%len(some)].ID }, false},
		{"/stats", func(int) string { return "/stats" }, false},
	} {
		for _, s := range sides {
			s.next, s.times = "", nil
		}
		for i := range looks {
			for _, s := range sides {
				if s.next == "" || !look.follows {
					s.next = look.path(i)
				}
				if err := s.look(ctx); err != nil {
					return err
				}
			}
		}
		fmt.Printf("       %-44s", look.name)
		for _, s := range sides {
			typical := median(s.times)
			s.worst = max(s.worst, typical)
			fmt.Printf(" %8s, most %6s", inMilliseconds(typical), inMilliseconds(slices.Max(s.times)))
		}
		if len(sides) == 2 {
			fmt.Printf("   %.2fx", float64(median(sides[1].times))/float64(median(sides[0].times)))
		}
		fmt.Println()
	}
	return nil
}

// look gets what is next, and finds out what comes after it.
func (s *side) look(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.service.url+s.next, nil)
	if err != nil {
		return err
	}
	began := time.Now()
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
	if err != nil {
		return fmt.Errorf("GET %s: %w", s.next, err)
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", s.next, answer.Status)
	}
	s.times = append(s.times, time.Since(began))
	s.next = ""
	if link := answer.Header.Get("Link"); link != "" {
		s.next, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
	}
	return nil
}

func inMilliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000)
}

// fillHistory writes requests of every kind that has ended.
func fillHistory(ctx context.Context, path string, rows int) error {
	return fill(ctx, path, rows, writeOne)
}

// fill writes so many requests to a file, through the backend itself.
func fill(ctx context.Context, path string, rows int, write func(ctx context.Context, backend *embedded.Backend, i int) error) error {
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
			if err := write(ctx, backend, i); err != nil {
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
