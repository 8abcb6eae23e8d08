package distributed_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tandem"
	"tandem/internal/distributed"
	"tandem/internal/postgrestest"
	"tandem/work"
)

// accepted is a request as a caller hands it in.
func accepted(t *testing.T, b *distributed.Backend, callbackURL string) *tandem.Request {
	t.Helper()
	at := time.Now().UTC().Truncate(time.Microsecond)
	req := &tandem.Request{ID: tandem.NewID(at), Mode: tandem.Async, Status: tandem.Pending, Workload: "test", Lane: "io",
		Complexity: 1, Data: json.RawMessage(`{}`), CreatedAt: at,
		Callback: tandem.Callback{URL: callbackURL, State: tandem.CallbackPending, MaxAttempts: 3}}
	if err := b.Accept(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	return req
}

// testWork is a registry of one kind of work.
func testWork(t *testing.T, do work.Func) *work.Registry {
	t.Helper()
	registry := &work.Registry{}
	if err := registry.Register(work.Kind{Name: "test", Class: work.Waits, Func: do}); err != nil {
		t.Fatal(err)
	}
	return registry
}

func TestAStepTakenAtOnceLeavesNoJob(t *testing.T) {
	t.Parallel()
	database := postgrestest.Database(t)
	db := openSQL(t, database)
	var posts atomic.Int32
	second, answer := make(chan struct{}), make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch posts.Add(1) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			close(second)
			<-answer
		}
	}))
	t.Cleanup(receiver.Close)
	answered := sync.OnceFunc(func() { close(answer) })
	t.Cleanup(answered)
	release := make(chan struct{})
	p := startProcess(t, database, testWork(t, func(context.Context, work.Input) (json.RawMessage, error) {
		<-release
		return json.RawMessage(`1`), nil
	}))
	eventually(t, "the queue is served", func() bool {
		return count(t, db, `SELECT count(*) FROM river_leader`) == 1
	})
	req := accepted(t, p.backend, receiver.URL)
	if n := count(t, db, `SELECT count(*) FROM requests WHERE id = $1 AND status = 'processing' AND starts = 1 AND epoch = 1`, req.ID); n != 1 {
		t.Error("it was not started by the transaction that accepted it")
	}
	if n := count(t, db, `SELECT count(*) FROM river_job WHERE kind = 'process' AND state = 'scheduled' AND scheduled_at > now() + interval '30 s'`); n != 1 {
		t.Error("its job is not held for the case that the process dies")
	}
	close(release)
	select {
	case <-second:
	case <-time.After(30 * time.Second):
		t.Fatal("the callback is not tried again")
	}
	if n := count(t, db, `SELECT count(*) FROM requests WHERE attempts = 1 AND attempt_by IS NOT NULL AND attempt_till IS NOT NULL`); n != 1 {
		t.Error("the second attempt is made without a lease of it")
	}
	if n := count(t, db, `SELECT count(*) FROM river_job WHERE kind = 'deliver' AND state = 'running'`); n != 1 {
		t.Error("the second attempt is not made by a job that was due")
	}
	if n := count(t, db, `SELECT count(*) FROM river_job`); n != 1 {
		t.Errorf("there are %d jobs, want the one of the second attempt", n)
	}
	answered()
	eventually(t, "the callback is sent", func() bool {
		row, err := p.backend.Request(t.Context(), req.ID)
		return err == nil && row.Status == tandem.CallbackSent
	})
	if n := count(t, db, `SELECT count(*) FROM river_job`); n != 0 {
		t.Errorf("%d jobs are left of a request that is settled", n)
	}
	if n := count(t, db, `SELECT count(*) FROM attempts WHERE request_id = $1 AND (number, status) IN ((1, 503), (2, 200))`, req.ID); n != 2 {
		t.Errorf("%d of the two attempts are on record", n)
	}
	if n := posts.Load(); n != 2 {
		t.Errorf("the receiver was asked %d times, want twice", n)
	}
}

func TestAStepTakenAtOnceGoesToAnotherProcessWhenItsOwnStops(t *testing.T) {
	t.Parallel()
	database := postgrestest.Database(t)
	db := openSQL(t, database)
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(receiver.Close)
	first := startProcess(t, database, testWork(t, func(ctx context.Context, _ work.Input) (json.RawMessage, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	eventually(t, "the queue is served", func() bool {
		return count(t, db, `SELECT count(*) FROM river_leader`) == 1
	})
	req := accepted(t, first.backend, receiver.URL)
	if n := count(t, db, `SELECT count(*) FROM requests WHERE status = 'processing'`); n != 1 {
		t.Fatal("it was not started by the transaction that accepted it")
	}
	first.stop()
	second := startProcess(t, database, testWork(t, func(context.Context, work.Input) (json.RawMessage, error) {
		return json.RawMessage(`2`), nil
	}))
	eventually(t, "another process has worked and delivered it", func() bool {
		row, err := second.backend.Request(t.Context(), req.ID)
		return err == nil && row.Status == tandem.CallbackSent && row.Starts == 1
	})
}

func TestNoStepOfAPausedQueueIsTakenAtOnce(t *testing.T) {
	t.Parallel()
	database := postgrestest.Database(t)
	if err := distributed.Migrate(t.Context(), database, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	db := openSQL(t, database)
	if _, err := db.Exec(`INSERT INTO river_queue (name, updated_at, paused_at) VALUES ('process_io', now(), now())`); err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	defer close(release)
	p := startProcess(t, database, testWork(t, func(context.Context, work.Input) (json.RawMessage, error) {
		<-release
		return json.RawMessage(`1`), nil
	}))
	status := func(req *tandem.Request) tandem.Status {
		row, err := p.backend.Request(t.Context(), req.ID)
		if err != nil {
			t.Fatal(err)
		}
		return row.Status
	}
	eventually(t, "the queue is served", func() bool {
		return count(t, db, `SELECT count(*) FROM river_leader`) == 1
	})
	if got := status(accepted(t, p.backend, "http://127.0.0.1:1/")); got != tandem.Pending {
		t.Errorf("a request of a paused queue is %s, want it pending", got)
	}
	if _, err := db.Exec(`UPDATE river_queue SET paused_at = NULL`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "requests are started at once again", func() bool {
		return status(accepted(t, p.backend, "http://127.0.0.1:1/")) == tandem.Processing
	})
}
