//go:build unix

package acceptance

import (
	"database/sql"
	"flag"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tandem/internal/postgrestest"
)

var (
	clusterLength  = flag.Duration("cluster.length", 10*time.Second, "how long processes on one Postgres are killed under load")
	clusterTimeout = flag.Duration("cluster.timeout", 3*time.Second, "the work timeout of these processes")
)

// killEvery is how often one of the processes is killed.
const killEvery = 3 * time.Second

// TestProcessesAreKilledUnderLoad runs three processes on one Postgres and
// kills one after the other, while callers and a receiver keep a ledger outside
// of them.
func TestProcessesAreKilledUnderLoad(t *testing.T) {
	patient(t)
	database := postgrestest.Database(t)
	l := newLedger(t, 1) // nothing is computed
	hook := newHost(t, l).url
	begin := func() *service {
		return serve(t, "--database", database, "--work-timeout", clusterTimeout.String(), "--callback-timeout", "2s", "--log-level", "warn")
	}
	var processes [3]atomic.Pointer[service]
	for i := range processes {
		processes[i].Store(begin())
	}

	post := func() {
		e := l.submission()
		path, body := "/async", submission{Workload: "wait", Complexity: 5, Data: map[string]any{"n": e.n}, CallbackURL: hook}
		if e.n%5 == 0 {
			path, body.CallbackURL = "/sync", ""
		}
		e.callback = path == "/async"
		l.post(processes[e.n%len(processes)].Load(), e, path, body) // unanswered if the process is killed meanwhile, or is not back
	}
	stop := make(chan struct{})
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(30 * time.Millisecond):
					post()
				}
			}
		})
	}

	db := openPostgres(t, database)
	orphaned := make(map[string][]time.Time) // kills of the process that had a job of the request, by id
	kills := 0
	for deadline := time.Now().Add(*clusterLength); time.Now().Before(deadline); kills++ {
		<-time.After(killEvery)
		p := &processes[kills%len(processes)]
		dead := p.Load()
		dead.kill()
		at := time.Now()
		p.Store(begin())
		for _, id := range jobsOf(t, db, dead) {
			orphaned[id] = append(orphaned[id], at)
		}
	}
	close(stop)
	callers.Wait()
	ended := time.Now()
	s := processes[0].Load()
	eventually(t, "all that was accepted is settled", func() bool {
		st := s.stats()
		by := st.Requests.ByStatus
		return by["pending"]+by["processing"]+st.Callbacks.Pending == 0
	})
	settled := time.Since(ended)

	history := s.pages("/requests?limit=1000")
	sums := l.balance(t, history)
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, came := range l.came {
		if len(came.at) > 1 && orphaned[id] == nil {
			t.Errorf("the callback of %s came %d times, and no process was killed over it", id, len(came.at))
		}
	}
	countersFit(t, s, history)

	var rescues []time.Duration
	for id, kills := range orphaned {
		came := l.came[id]
		if came == nil || !came.at[0].After(kills[0]) {
			continue // it was delivered before, or owes no callback
		}
		for i, kill := range kills {
			until := came.at[0]
			if i+1 < len(kills) && kills[i+1].Before(until) {
				until = kills[i+1]
			}
			if until.After(kill) {
				rescues = append(rescues, until.Sub(kill))
			}
		}
	}
	if len(rescues) == 0 {
		t.Fatal("no killed process left anything to rescue")
	}
	// A job is taken for stuck after the longest step and 15 s, looked for every
	// 30 s, and then has to be taken.
	if slowest, most := slices.Max(rescues), *clusterTimeout+60*time.Second; slowest > most {
		t.Errorf("the slowest rescue took %v, over %v", slowest, most)
	}
	t.Logf("%v, %d kills: %d submissions, %d acknowledged, %d on record, %d crashed_worker; %d callbacks, %d of them repeated",
		*clusterLength, kills, len(l.entries), sums.acknowledged, len(history), sums.crashed, sums.callbacks, sums.repeated)
	t.Logf("%d rescues, done %v to %v after the kill; all settled %v after the load", len(rescues),
		slices.Min(rescues).Round(100*time.Millisecond), slices.Max(rescues).Round(100*time.Millisecond), settled.Round(100*time.Millisecond))
}

// jobsOf returns the requests of which a dead process has jobs: given to it by
// River, or held for it by their rows.
func jobsOf(t *testing.T, db *sql.DB, dead *service) (ids []string) {
	t.Helper()
	rows, err := db.Query(`SELECT args->>'id' FROM river_job WHERE state = 'running' AND attempted_by[array_upper(attempted_by, 1)] LIKE $1
		UNION SELECT id FROM requests WHERE status = 'processing' AND started_by LIKE $1 OR next_attempt_at IS NOT NULL AND attempt_by LIKE $1`,
		fmt.Sprintf("%%-%d-%%", dead.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return ids
}
