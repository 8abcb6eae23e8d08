package distributed_test

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"testing"
	"time"

	"tandem"
	"tandem/internal/distributed"
	"tandem/internal/postgrestest"
	"tandem/work"
)

// Work that is long beside what it takes to fetch a job begins in the order in
// which it was accepted, or nearly so: as many places apart as jobs are on their
// way at once.
func TestLongWorkBeginsInOrder(t *testing.T) {
	t.Parallel()
	const (
		slots    = 2
		requests = 100
	)
	database := postgrestest.Database(t)
	api := open(t, database, distributed.Options{NoSteps: true})
	for i := range requests {
		at := time.Now().UTC().Truncate(time.Microsecond)
		req := &tandem.Request{ID: tandem.NewID(at), Mode: tandem.Async, Status: tandem.Pending, Workload: "test", Lane: "io",
			Complexity: 1, Data: json.RawMessage(strconv.Itoa(i)), CreatedAt: at, Callback: tandem.Callback{State: tandem.CallbackNone}}
		if err := api.Accept(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	var begun []int
	startSized(t, database, testWork(t, func(_ context.Context, in work.Input) (json.RawMessage, error) {
		i, err := strconv.Atoi(string(in.Data))
		if err != nil {
			return nil, err
		}
		mu.Lock()
		begun = append(begun, i)
		mu.Unlock()
		time.Sleep(100 * time.Millisecond) // the work
		return json.RawMessage(`1`), nil
	}), slots)
	eventually(t, "all have begun", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(begun) == requests
	})
	overtaken, worst := 0, 0 // by how many later ones
	for at, i := range begun {
		by := 0
		for _, before := range begun[:at] {
			if before > i {
				by++
			}
		}
		if by > overtaken {
			overtaken, worst = by, i
		}
	}
	if overtaken > 5*slots {
		t.Errorf("request %d was overtaken by %d that were accepted after it: %v", worst, overtaken, begun)
	}
	t.Logf("overtaken by at most %d", overtaken)
}

func TestAJobThatIsGivenBackKeepsItsPlace(t *testing.T) {
	t.Parallel()
	database := postgrestest.Database(t)
	db := openSQL(t, database)
	api := open(t, database, distributed.Options{NoSteps: true})
	suspect := accepted(t, api, "")
	for range 3 {
		accepted(t, api, "")
	}
	// All have waited for an hour, and one has been interrupted before.
	if _, err := db.Exec(`UPDATE river_job SET scheduled_at = scheduled_at - interval '1 h'`); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`UPDATE requests SET starts = 1 WHERE id = $1`, suspect.ID); err != nil {
		t.Fatal(err)
	}
	p := startSized(t, database, testWork(t, func(ctx context.Context, _ work.Input) (json.RawMessage, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}), 1)
	eventually(t, "one is worked, and another waits for its slot", func() bool {
		return count(t, db, `SELECT count(*) FROM river_job WHERE state = 'running'`) > 1 &&
			count(t, db, `SELECT count(*) FROM requests WHERE status = 'processing'`) > 0
	})
	p.stop()
	if n := count(t, db, `SELECT count(*) FROM river_job WHERE state = 'available' AND scheduled_at < now() - interval '50 m'`); n != 4 {
		t.Errorf("%d of 4 jobs have the place in the queue that they had", n)
	}
}
