package distributed_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"tandem"
	"tandem/internal/callback"
	"tandem/internal/distributed"
	"tandem/internal/egress"
	"tandem/internal/engine"
	"tandem/internal/postgrestest"
	"tandem/webhook"
	"tandem/work"
)

// process is a whole engine on a database, as one more process would run it.
type process struct {
	backend *distributed.Backend
	stop    func() // takes up no more, and stops what runs
}

func startProcess(t *testing.T, database string, registry *work.Registry) process {
	t.Helper()
	return startSized(t, database, registry, 512)
}

// startSized starts one with so many slots for work that waits.
func startSized(t *testing.T, database string, registry *work.Registry, slots int) process {
	t.Helper()
	backend := open(t, database, distributed.Options{Slots: map[string]int{work.Waits.String(): slots}})
	guard, err := egress.New(egress.Options{LoopbackAnyPort: true})
	if err != nil {
		t.Fatal(err)
	}
	sender := callback.NewSender(guard.Dial, callback.Options{})
	t.Cleanup(sender.Close)
	secrets := []webhook.Secret{webhook.NewSecret()}
	e, err := engine.New(backend, registry, guard, sender, func(string) []webhook.Secret { return secrets }, engine.Options{
		IOConcurrency: slots, Policy: callback.Policy{Base: 50 * time.Millisecond, Cap: 50 * time.Millisecond, Attempts: 3, MaxAge: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		e.Halt()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return process{backend, stop}
}

// owing puts a request on record that owes its first attempt, with the deliver
// job for it.
func owing(t *testing.T, b *distributed.Backend, callbackURL string) *tandem.Request {
	t.Helper()
	at := time.Now().UTC().Truncate(time.Microsecond)
	req := &tandem.Request{ID: tandem.NewID(at), Mode: tandem.Async, Status: tandem.Pending, Workload: "compute", Lane: "cpu",
		Complexity: 1, Data: json.RawMessage(`{}`), CreatedAt: at, StartedAt: at,
		Callback: tandem.Callback{URL: callbackURL, State: tandem.CallbackPending, MaxAttempts: 3}}
	for _, step := range []func(context.Context, *tandem.Request) error{b.Accept, b.Start, func(ctx context.Context, req *tandem.Request) error {
		req.Status, req.Result, req.WorkedAt = tandem.Completed, json.RawMessage(`1`), at
		return b.Complete(ctx, req)
	}} {
		if err := step(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	return req
}

func openSQL(t *testing.T, database string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// eventually polls until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func count(t *testing.T, db *sql.DB, query string, args ...any) (n int) {
	t.Helper()
	if err := db.QueryRow(query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestJobsOfOneRequestInTwoProcessesMakeOneAttempt(t *testing.T) {
	t.Parallel()
	database := postgrestest.Database(t)
	db := openSQL(t, database)
	var posts atomic.Int32
	released := make(chan struct{})
	release := sync.OnceFunc(func() { close(released) })
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		posts.Add(1)
		select {
		case <-released:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(receiver.Close)
	api := open(t, database, distributed.Options{NoSteps: true})
	req := owing(t, api, receiver.URL)

	startProcess(t, database, &work.Registry{})
	startProcess(t, database, &work.Registry{})
	t.Cleanup(release)
	const jobsThatRan = `SELECT count(DISTINCT attempted_by[1]) FROM river_job WHERE kind = 'deliver' AND attempted_by IS NOT NULL`
	eventually(t, "both processes have had a job of the request", func() bool {
		if _, err := db.Exec(`INSERT INTO river_job (args, kind, queue, max_attempts)
			SELECT jsonb_build_object('id', $1::text), 'deliver', 'deliver', 1000`, req.ID); err != nil {
			t.Fatal(err)
		}
		return count(t, db, jobsThatRan) == 2
	})
	eventually(t, "all jobs but the one that delivers are put off", func() bool {
		return count(t, db, `SELECT count(*) FROM river_job WHERE kind = 'deliver'
			AND (state = 'running' OR state = 'available' AND scheduled_at <= now())`) == 1
	})
	release()
	eventually(t, "the callback is sent", func() bool {
		row, err := api.Request(t.Context(), req.ID)
		return err == nil && row.Callback.State == tandem.CallbackDelivered
	})
	if n := posts.Load(); n != 1 {
		t.Errorf("the receiver was sent the attempt %d times, want once", n)
	}
}

func TestTheLeaseOfADeadProcessEndsWithItsTime(t *testing.T) {
	t.Parallel()
	database := postgrestest.Database(t)
	db := openSQL(t, database)
	arrived := make(chan time.Time, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived <- time.Now() }))
	t.Cleanup(receiver.Close)
	api := open(t, database, distributed.Options{NoSteps: true})
	req := owing(t, api, receiver.URL)
	till := time.Now().Add(time.Second)
	if _, err := db.Exec(`UPDATE requests SET attempt_by = 'gone', attempt_till = $1`, till.UnixMicro()); err != nil {
		t.Fatal(err)
	}
	late := *req
	late.Status, late.Callback.State, late.Callback.NextAt, late.Callback.Attempts = tandem.CallbackSent, tandem.CallbackDelivered, time.Time{}, 1
	err := api.RecordAttempt(t.Context(), &late, tandem.Attempt{Number: 1, At: late.WorkedAt, Status: 200})
	if tandem.CodeOf(err) != tandem.CodeConflict {
		t.Errorf("recording an attempt that another process has a lease of: %v, want a conflict", err)
	}
	startProcess(t, database, &work.Registry{})
	select {
	case at := <-arrived:
		if at.Before(till) {
			t.Errorf("the callback came %v before the lease of it had ended", till.Sub(at))
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the callback did not come after the lease of it had ended")
	}
	eventually(t, "the attempt is recorded and leased to nobody", func() bool {
		return count(t, db, `SELECT count(*) FROM requests WHERE status = 'callback_sent' AND attempts = 1 AND attempt_by IS NULL AND attempt_till IS NULL`) == 1
	})
}
