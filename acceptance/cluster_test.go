//go:build unix

package acceptance

import (
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
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

// posted is one submission as its caller saw it.
type posted struct {
	path   string
	n      int
	id     string // acknowledged; empty: nobody knows
	result string // of a sync one
}

// TestProcessesAreKilledUnderLoad runs three processes on one Postgres and
// kills one after the other, while callers and a receiver keep a ledger outside
// of them.
func TestProcessesAreKilledUnderLoad(t *testing.T) {
	patient(t)
	database := postgrestest.Database(t)
	rcv := receive(t, nil)
	go func() { // all of them are kept besides
		for {
			select {
			case <-rcv.got:
			case <-t.Context().Done():
				return
			}
		}
	}()
	begin := func() *service {
		return serve(t, "--database", database, "--work-timeout", clusterTimeout.String(), "--callback-timeout", "2s", "--log-level", "warn")
	}
	var processes [3]atomic.Pointer[service]
	for i := range processes {
		processes[i].Store(begin())
	}

	var mu sync.Mutex
	var ledger []*posted
	post := func() {
		mu.Lock()
		e := &posted{n: len(ledger), path: "/async"}
		ledger = append(ledger, e)
		mu.Unlock()
		body := submission{Workload: "wait", Complexity: 5, Data: map[string]any{"n": e.n}, CallbackURL: rcv.url}
		if e.n%5 == 0 {
			e.path, body.CallbackURL = "/sync", ""
		}
		a, err := processes[e.n%len(processes)].Load().try("POST", e.path, body)
		if err != nil {
			return // the process was killed meanwhile, or is not back
		}
		var ack acknowledgement
		switch err := json.Unmarshal(a.body, &ack); {
		case err != nil:
			t.Errorf("POST %s answers %d %q", e.path, a.status, a.body)
		case a.status == http.StatusOK || a.status == http.StatusAccepted:
			e.id, e.result = ack.RequestID, string(ack.Result)
		case a.status != http.StatusServiceUnavailable:
			t.Errorf("POST %s answers %d %s", e.path, a.status, a.body)
		}
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

	rows := make(map[int]record)
	history := s.history("")
	for _, r := range history {
		n := numberOf(&r)
		if _, twice := rows[n]; twice {
			t.Errorf("submission %d is on record twice", n)
		}
		rows[n] = r
	}
	acknowledged, crashed := 0, 0
	for _, e := range ledger {
		r, found := rows[e.n]
		delete(rows, e.n)
		crash := found && show(r.ErrorCode) == "crashed_worker"
		switch {
		case e.id == "" && !found:
		case e.id == "" && r.settled():
		case !found || r.RequestID != e.id:
			t.Errorf("submission %d was acknowledged as %s, on record is %v", e.n, e.id, r)
		case e.path == "/sync" && (r.Status != "completed" || string(r.Result) != e.result):
			t.Errorf("the caller of %s was given %s, on record is %v", e.id, e.result, r)
		case e.path == "/async" && r.Callback.State != "sent":
			t.Errorf("the callback of %s is not sent: %v", e.id, r)
		case e.path == "/async" && r.Status != "callback_sent" && !crash:
			t.Errorf("%s has failed: %v", e.id, r)
		}
		if e.id != "" {
			acknowledged++
		}
		if crash {
			crashed++
		}
	}
	for n := range rows {
		t.Errorf("number %d is on record, and nobody sent it", n)
	}
	came := make(map[string][]delivery)
	for _, d := range rcv.received() {
		d.verify(t, secret)
		came[d.id()] = append(came[d.id()], d)
	}
	repeated := 0
	for _, r := range history {
		n := len(came[r.RequestID])
		if r.Callback.State == "sent" && n == 0 {
			t.Errorf("the callback of %s is sent, and never came", r.RequestID)
		}
		if n > 1 {
			repeated += n - 1
			if orphaned[r.RequestID] == nil {
				t.Errorf("the callback of %s came %d times, and no process was killed over it", r.RequestID, n)
			}
		}
	}
	countersFit(t, s, history)

	var rescues []time.Duration
	for id, kills := range orphaned {
		if came[id] == nil || !came[id][0].at.After(kills[0]) {
			continue // it was delivered before, or owes no callback
		}
		for i, kill := range kills {
			until := came[id][0].at
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
		*clusterLength, kills, len(ledger), acknowledged, len(history), crashed, len(rcv.received()), repeated)
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
