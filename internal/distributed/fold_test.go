package distributed

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"tandem"
	"tandem/internal/engine"
)

// Counters are the same before and after, and right if others count meanwhile.
func TestCountersAreFoldedWhileOthersCount(t *testing.T) {
	t.Parallel()
	b, other, conn := openTwo(t, Options{})
	if _, err := conn.Exec(t.Context(), `
		INSERT INTO request_counters SELECT 'owner' || i, 'async', s, 'none', shard, shard - 30, shard
			FROM generate_series(1, 10) AS i, unnest(ARRAY['pending', 'completed']) AS s, generate_series(0, 63) AS shard;
		INSERT INTO error_counters SELECT 'owner' || i, 'work', 'timeout', shard, 1 FROM generate_series(1, 10) AS i, generate_series(0, 63) AS shard;
		INSERT INTO pruned_counters SELECT 'owner' || i, shard, 1 FROM generate_series(1, 10) AS i, generate_series(0, 63) AS shard;
		INSERT INTO river_leader (elected_at, expires_at, leader_id) VALUES (now(), now() + interval '1 h', '`+b.name+`')`); err != nil {
		t.Fatal(err)
	}
	counts := func() (engine.Counts, int) {
		t.Helper()
		c, err := b.Counts(t.Context(), tandem.Anyone)
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(c.Requests, func(a, b engine.RequestCount) int {
			return slices.Compare([]string{string(a.Status), string(a.Callback)}, []string{string(b.Status), string(b.Callback)})
		})
		n, _, err := b.Backlog(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return c, n
	}
	rows := func() (n int) {
		t.Helper()
		err := conn.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM request_counters) + (SELECT count(*) FROM error_counters) + (SELECT count(*) FROM pruned_counters)`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before, waiting := counts()
	if n := rows(); n != 4*64*10 {
		t.Fatalf("there are %d rows", n)
	}
	if err := other.fold(t.Context()); err != nil || rows() != 4*64*10 {
		t.Errorf("a process that does not lead has folded: %v", err)
	}
	if err := b.fold(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := rows(); n != 4*10 {
		t.Errorf("%d rows are left, want one of each counter", n)
	}
	after, stillWaiting := counts()
	if !slices.Equal(before.Requests, after.Requests) || !slices.Equal(before.Errors, after.Errors) || before.Pruned != after.Pruned || waiting != stillWaiting {
		t.Errorf("the counters were %+v, %d waiting, and are %+v, %d", before, waiting, after, stillWaiting)
	}

	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil {
			if err := b.fold(context.WithoutCancel(ctx)); err != nil {
				t.Error(err)
			}
		}
	})
	const accepted = 600
	var accepting sync.WaitGroup
	for _, to := range []*Backend{b, other} {
		for range 3 {
			accepting.Go(func() {
				for range accepted / 6 {
					at := to.now()
					req := &tandem.Request{ID: tandem.NewID(at), Mode: tandem.Async, Status: tandem.Pending, Workload: "wait", Lane: "io",
						Complexity: 1, Data: []byte(`{}`), Callback: tandem.Callback{State: tandem.CallbackNone}, CreatedAt: at.Add(-time.Second)}
					if err := to.Accept(t.Context(), req); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	accepting.Wait()
	stop()
	all.Wait()
	last, nowWaiting := counts()
	if nowWaiting != stillWaiting+accepted {
		t.Errorf("%d wait, want %d", nowWaiting, stillWaiting+accepted)
	}
	for i, c := range last.Requests {
		want := after.Requests[i].N
		if c.Status == tandem.Pending {
			want += accepted
		}
		if c.N != want {
			t.Errorf("%d are %s, want %d", c.N, c.Status, want)
		}
	}
}
