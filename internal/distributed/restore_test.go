package distributed

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem/internal/storetest"
)

func TestALostJobIsMadeAgain(t *testing.T) {
	t.Parallel()
	b, err := Open(t.Context(), Migrated.Database(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	exec := func(text string, args ...any) {
		t.Helper()
		if _, err := b.pool.Exec(t.Context(), text, args...); err != nil {
			t.Fatal(err)
		}
	}
	// jobs returns for each request how many jobs of a kind may still run for it.
	jobs := func(kind string) map[string]int {
		t.Helper()
		rows, err := b.pool.Query(t.Context(), `SELECT args->>'id', count(*) FROM river_job WHERE kind = $1 AND finalized_at IS NULL GROUP BY 1`, kind)
		if err != nil {
			t.Fatal(err)
		}
		found := make(map[string]int)
		var id string
		var n int
		if _, err := pgx.ForEachRow(rows, []any{&id, &n}, func() error { found[id] = n; return nil }); err != nil {
			t.Fatal(err)
		}
		return found
	}
	ids := make(map[string]string)
	for _, row := range []struct {
		name string
		// what becomes of the request, by SQL, and of its jobs
		request, job string
	}{
		{"has its job", ``, ``},
		{"waits and its job was deleted", ``, `DELETE FROM river_job WHERE args->>'id' = $1`},
		{"waits and its job was cancelled", ``, `UPDATE river_job SET state = 'cancelled', finalized_at = now() WHERE args->>'id' = $1`},
		{"waits and its job was discarded", ``, `UPDATE river_job SET state = 'discarded', finalized_at = now() WHERE args->>'id' = $1`},
		{"waits and its job is said to be completed", ``, `UPDATE river_job SET state = 'completed', finalized_at = now() WHERE args->>'id' = $1`},
		{"is put off and its job was deleted", `UPDATE requests SET not_before = 4102444800000000 WHERE id = $1`, `DELETE FROM river_job WHERE args->>'id' = $1`},
		{"was begun and its job was deleted", `UPDATE requests SET status = 'processing' WHERE id = $1`, `DELETE FROM river_job WHERE args->>'id' = $1`},
		{"owes a callback and has no job", `UPDATE requests SET status = 'completed', callback_state = 'pending', next_attempt_at = 1 WHERE id = $1`, `DELETE FROM river_job WHERE args->>'id' = $1`},
		{"owes a callback and has a job of the other kind", `UPDATE requests SET status = 'failed', callback_state = 'pending', next_attempt_at = 1 WHERE id = $1`, ``},
		{"is settled and has no job", `UPDATE requests SET status = 'completed' WHERE id = $1`, `DELETE FROM river_job WHERE args->>'id' = $1`},
		{"is a sync one that runs", `UPDATE requests SET mode = 'sync', status = 'processing' WHERE id = $1`, `DELETE FROM river_job WHERE args->>'id' = $1`},
	} {
		req := storetest.Pending("")
		if err := b.Accept(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		ids[row.name] = req.ID
		for _, text := range []string{row.request, row.job} {
			if text != "" {
				exec(text, req.ID)
			}
		}
	}
	before := len(jobs("process"))
	if err := b.restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := len(jobs("process")); after != before {
		t.Errorf("a process that does not lead the queue has made %d jobs", after-before)
	}
	exec(`INSERT INTO river_leader (leader_id, elected_at, expires_at) VALUES ($1, now(), now() + interval '1 hour')`, b.name)
	for range 2 { // the second finds nothing to do
		if err := b.restore(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	process, deliver := jobs("process"), jobs("deliver")
	for _, row := range []struct {
		name             string
		process, deliver int
	}{
		{"has its job", 1, 0},
		{"waits and its job was deleted", 1, 0},
		{"waits and its job was cancelled", 1, 0},
		{"waits and its job was discarded", 1, 0},
		{"waits and its job is said to be completed", 1, 0},
		{"is put off and its job was deleted", 1, 0},
		{"was begun and its job was deleted", 1, 0},
		{"owes a callback and has no job", 0, 1},
		{"owes a callback and has a job of the other kind", 1, 1},
		{"is settled and has no job", 0, 0},
		{"is a sync one that runs", 0, 0},
	} {
		if id := ids[row.name]; process[id] != row.process || deliver[id] != row.deliver {
			t.Errorf("a request that %s: got %d jobs to process and %d to deliver, want %d and %d", row.name, process[id], deliver[id], row.process, row.deliver)
		}
	}
	var at time.Time
	err = b.pool.QueryRow(context.WithoutCancel(t.Context()), `SELECT scheduled_at FROM river_job WHERE args->>'id' = $1`, ids["is put off and its job was deleted"]).Scan(&at)
	if err != nil || at.UnixMicro() != 4102444800000000 {
		t.Errorf("the job of a request that is put off is due at %v, %v", at, err)
	}
}
