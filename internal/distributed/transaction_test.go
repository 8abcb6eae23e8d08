package distributed

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/postgrestest"
)

// pending puts so many requests on record that wait to be started.
func pending(t *testing.T, b *Backend, n int) []*tandem.Request {
	t.Helper()
	requests := make([]*tandem.Request, n)
	faults := make(chan error, n)
	for i := range requests {
		at := b.now()
		requests[i] = &tandem.Request{ID: tandem.NewID(at), Mode: tandem.Async, Status: tandem.Pending, Workload: "wait", Lane: "io",
			Complexity: 1, Data: []byte(`{}`), Callback: tandem.Callback{State: tandem.CallbackNone}, CreatedAt: at}
		go func() { faults <- b.Accept(t.Context(), requests[i]) }()
	}
	for range requests {
		if err := <-faults; err != nil {
			t.Fatal(err)
		}
	}
	return requests
}

// openTwo opens two backends on one database, as two processes do, and a plain
// connection to it.
func openTwo(t *testing.T, opts Options) (first, second *Backend, conn *pgx.Conn) {
	t.Helper()
	database := postgrestest.Database(t)
	both := make([]*Backend, 2)
	for i := range both {
		b, err := Open(t.Context(), database, opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		both[i] = b
	}
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	return both[0], both[1], conn
}

// waitingForLocks is how many sessions of the database wait for others.
func waitingForLocks(t *testing.T, b *Backend) (n int) {
	t.Helper()
	err := b.queue.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Two processes fail the same requests, which each has found in an order of its
// own. Both come to a row that a third has locked, so that they have their
// locks up to there: they must not wait for each other's.
func TestProcessesThatWriteTheSameRowsDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	first, second, conn := openTwo(t, Options{})
	// Beside a history rows are found one by one, in the order in which they are
	// asked for.
	if _, err := conn.Exec(t.Context(), `
		INSERT INTO requests (id, owner, mode, status, lane, workload, complexity, created_at, callback_state, data)
		SELECT 'req_' || i, '', 'async', 'completed', 'io', 'wait', 1, i, 'none', '{}' FROM generate_series(1, 20000) AS i;
		ANALYZE requests`, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	requests := pending(t, first, 50)
	slices.SortFunc(requests, func(a, b *tandem.Request) int { return strings.Compare(a.ID, b.ID) })
	third, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := third.Exec(t.Context(), `SELECT FROM requests WHERE id = $1 FOR UPDATE`, requests[25].ID); err != nil {
		t.Fatal(err)
	}
	failing := func(requests []*tandem.Request) []*write {
		var batch []*write
		for _, req := range requests {
			failed := *req
			engine.Expire(&failed, first.now())
			batch = append(batch, &write{kind: failing, req: failed})
		}
		return batch
	}
	forth := failing(requests)
	slices.Reverse(requests)
	back := failing(requests)
	faults := make([]error, 2)
	var both sync.WaitGroup
	both.Go(func() { faults[0] = first.writer.try(forth, 1) })
	both.Go(func() { faults[1] = second.writer.try(back, 2) })
	poll(t, "both wait for a lock", func() bool { return waitingForLocks(t, first) == 2 })
	if err := third.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	both.Wait()
	for i, err := range faults {
		if err != nil {
			t.Errorf("process %d: %v", i+1, err)
		}
	}
	for i, wr := range forth {
		if twin := back[len(back)-1-i]; wr.made == twin.made {
			t.Errorf("%s was failed by both processes, or by none: %v", wr.req.ID, wr.made)
		}
	}
}

// A deadlock is no fault of the writes, which would be tried one by one if it
// were, and the innocent with them.
func TestABatchThatMeetsADeadlockIsCommittedTogether(t *testing.T) {
	t.Parallel()
	b, _, conn := openTwo(t, Options{})
	requests := pending(t, b, 2)
	started, failed := requests[0], requests[1]
	other, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The other has all the time in the world: so it is the batch that gives way.
	if _, err := other.Exec(t.Context(), `SET LOCAL deadlock_timeout = '1h'`); err != nil {
		t.Fatal(err)
	}
	lock := func(req *tandem.Request) error {
		_, err := other.Exec(t.Context(), `SELECT FROM requests WHERE id = $1 FOR UPDATE`, req.ID)
		return err
	}
	if err := lock(failed); err != nil {
		t.Fatal(err)
	}
	begun, ended := *started, *failed
	begun.StartedAt = b.now()
	engine.Expire(&ended, b.now())
	batch := []*write{{kind: starting, req: begun}, {kind: failing, req: ended}}
	answers := make([]error, len(batch))
	committed := make(chan error, 1)
	go func() { committed <- b.writer.commit(batch, answers, 1) }()
	poll(t, "the batch waits for the other's row", func() bool { return waitingForLocks(t, b) == 1 })
	if err := lock(started); err != nil { // which the batch has: each waits for the other now
		t.Fatal(err)
	}
	if err := other.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-committed:
		if err != nil || answers[0] != nil || answers[1] != nil {
			t.Errorf("the batch that met a deadlock: %v, answers %v", err, answers)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the batch does not end")
	}
}
