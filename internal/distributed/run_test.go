package distributed

import (
	"testing"
	"time"

	"tandem"
	"tandem/internal/postgrestest"
)

// What expires is failed by the process that leads the queue, at once, and by the
// others if it was not.
func TestTheLeaderFailsWhatExpiresAndTheOthersStandIn(t *testing.T) {
	t.Parallel()
	at := time.Now().UTC().Truncate(time.Microsecond)
	now := at
	b, err := Open(t.Context(), postgrestest.Database(t), Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	r := &runner{b: b}
	for _, row := range []struct {
		name  string
		leads bool
		after time.Duration
		want  tandem.Status
	}{
		{"another leads, and may be about to fail it", false, standIn, tandem.Pending},
		{"another leads, and has not failed it", false, standIn + time.Second, tandem.Failed},
		{"this process leads", true, time.Second, tandem.Failed},
		{"this process leads, and it has not expired", true, 0, tandem.Pending},
	} {
		leader := "another"
		if row.leads {
			leader = b.name
		}
		if _, err := b.pool.Exec(t.Context(), `
			INSERT INTO river_leader (elected_at, expires_at, leader_id) VALUES (now(), now() + interval '1 h', $1)
			ON CONFLICT (name) DO UPDATE SET leader_id = excluded.leader_id`, leader); err != nil {
			t.Fatal(err)
		}
		req := &tandem.Request{ID: tandem.NewID(at), Mode: tandem.Async, Status: tandem.Pending, Workload: "wait", Lane: "io",
			Complexity: 1, Data: []byte(`{}`), Callback: tandem.Callback{State: tandem.CallbackNone}, CreatedAt: at,
			ExpiresAt: at.Add(time.Millisecond)}
		now = at
		if err := b.Accept(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		now = at.Add(row.after)
		if err := r.expire(t.Context()); err != nil {
			t.Fatal(err)
		}
		kept, err := b.Request(t.Context(), req.ID)
		if err != nil {
			t.Fatal(err)
		}
		if kept.Status != row.want {
			t.Errorf("%s: %v after it was accepted it is %s, want %s", row.name, row.after, kept.Status, row.want)
		}
	}
}
