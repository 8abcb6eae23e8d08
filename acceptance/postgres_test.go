package acceptance

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tandem/internal/postgrestest"
)

// hasty is flags of a process that others on its Postgres may take for dead soon:
// that is 15 s after the longer of the two timeouts.
func hasty(flags ...string) []string {
	return append(flags, "--work-timeout", "8s", "--callback-timeout", "8s")
}

// hastier is hasty, of a process whose work takes next to no time.
func hastier(flags ...string) []string {
	return append(flags, "--work-timeout", "3s", "--callback-timeout", "2s")
}

// outlived waits until a request is worked that a dead process may have begun:
// on a file its next process takes it up, on Postgres another, in time.
func (s *service) outlived(id string) record {
	s.t.Helper()
	var r record
	eventually(s.t, "request "+id+" is worked", func() bool {
		r = s.record(id)
		return r.worked()
	})
	return r
}

func TestTwoProcessesAreOneService(t *testing.T) {
	parallel(t)
	database := postgrestest.Database(t)
	u := newUpstream(t)
	rcv := receive(t, nil)
	api := serve(t, "--database", database, "--roles", "api", u.flag())
	worker := serve(t, "--database", database, "--roles", "worker", u.flag())

	id := api.async(u.work("a", rcv.url))
	u.await()
	waited := api.later("GET", "/requests/"+id+"?wait=30s", nil)
	api.get("/requests/" + id + "?wait=100ms") // by its end the other is under way
	began := time.Now()
	u.open()
	var rec record
	(<-waited).decode(t, http.StatusOK, &rec)
	if took := time.Since(began); rec.Status != "completed" && rec.Status != "callback_sent" || took > 10*time.Second {
		t.Errorf("?wait in the other process ended after %v with %v", took, rec)
	}
	rcv.next().verify(t, secret)
	if rec := worker.settled(id); rec.Status != "callback_sent" {
		t.Errorf("the worker's process reads %v", rec)
	}
	if p := worker.post("/async", quick).problem(t, http.StatusServiceUnavailable); p.ErrorCode != "not_here" {
		t.Errorf("a process without the role api answers %+v", p)
	}
	syncID, _ := api.sync(quick)
	if rec := worker.record(syncID); rec.Status != "completed" {
		t.Errorf("a sync request of the other process reads %v", rec)
	}
	countersFit(t, worker, api.history(""))
}

func TestWorkIsCancelledThroughAnotherProcess(t *testing.T) {
	parallel(t)
	database := postgrestest.Database(t)
	u := newUpstream(t)
	api := serve(t, "--database", database, "--roles", "api", u.flag())
	serve(t, "--database", database, "--roles", "worker", u.flag())
	id := api.async(u.work("a", ""))
	u.await()
	var rec record
	api.cancel(id).decode(t, http.StatusOK, &rec)
	if rec.Status != "failed" || show(rec.ErrorCode) != "cancelled" {
		t.Errorf("the cancelled request reads %v", rec)
	}

	other := serve(t, "--database", database, "--roles", "api")
	held := api.later("POST", "/sync", u.work("sync", "")) // worked where it was asked for
	u.await()
	syncID := other.onlyOne("&mode=sync").RequestID
	other.cancel(syncID).decode(t, http.StatusOK, &rec)
	if p := (<-held).problem(t, http.StatusConflict); p.ErrorCode != "cancelled" || p.RequestID != syncID || show(rec.ErrorCode) != "cancelled" {
		t.Errorf("the sync caller is told %+v, the record is %v", p, rec)
	}
}

func TestAnotherProcessFinishesWhatAKilledOneLeft(t *testing.T) {
	patient(t)
	database := postgrestest.Database(t)
	u := newUpstream(t)
	rcv := receive(t, nil)
	doomed := serve(t, hasty("--database", database, u.flag(), "--roles", "api,worker")...)
	id := doomed.async(u.work("a", rcv.url))
	u.await()
	held := make(chan error, 1)
	go func() {
		_, err := doomed.try("POST", "/sync", u.work("sync", ""))
		held <- err
	}()
	u.await()
	syncID := doomed.onlyOne("&mode=sync").RequestID
	other := serve(t, hasty("--database", database, u.flag())...)
	doomed.kill()
	if err := <-held; err == nil {
		t.Error("the sync caller of the killed process has an answer")
	}
	began := time.Now()
	u.open()
	eventually(t, "the work is done by the other process", func() bool { r := other.record(id); return r.settled() })
	t.Logf("done %v after the kill", time.Since(began))
	rcv.next().verify(t, secret)
	if rec := other.record(id); rec.Status != "callback_sent" || string(rec.Result) != `{"hello":"a"}` || u.called("a") != 2 {
		t.Errorf("the record is %v; the work was started %d times", rec, u.called("a"))
	}
	eventually(t, "the sync request has an outcome", func() bool { r := other.record(syncID); return r.worked() })
	if rec := other.record(syncID); rec.Status != "failed" || show(rec.ErrorCode) != "interrupted" {
		t.Errorf("the sync request of the killed process reads %v", rec)
	}
	countersFit(t, other, other.history(""))
}

func TestPostgresRestartsUnderLoad(t *testing.T) {
	patient(t)
	cluster, err := postgrestest.Start(postgrestest.Options{})
	if err != nil {
		postgrestest.Skip(t, err)
	}
	defer func() {
		if err := cluster.Stop(); err != nil {
			t.Error(err)
		}
	}()
	rcv := receive(t, nil)
	s := serve(t, hastier("--database", cluster.URL("postgres"))...)
	s.t = t
	var mu sync.Mutex
	accepted := make(map[string]bool)
	var refused, others atomic.Int64
	post := func() (status int) {
		a, err := s.try("POST", "/async", submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
		switch {
		case err != nil:
			others.Add(1)
		case a.status == http.StatusAccepted:
			mu.Lock()
			defer mu.Unlock()
			accepted[strings.TrimPrefix(a.header.Get("Location"), "/requests/")] = true
		case a.status == http.StatusServiceUnavailable:
			refused.Add(1)
			if a.header.Get("Retry-After") == "" {
				t.Errorf("a 503 says not when to come back: %s", a.body)
			}
		default:
			others.Add(1)
			t.Errorf("POST /async answers %d %s", a.status, a.body)
		}
		return a.status
	}
	stop := make(chan struct{})
	var posting sync.WaitGroup
	for range 4 {
		posting.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
					post()
				}
			}
		})
	}
	for range 20 {
		rcv.next()
	}
	if err := cluster.Halt(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "requests are refused while Postgres is away", func() bool { return refused.Load() > 3 })
	if err := cluster.Run(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "requests are accepted again", func() bool { return post() == http.StatusAccepted })
	wantSoon(t, "after Postgres was back the service took", time.Since(began), 5*time.Second)
	eventually(t, "callbacks are delivered again", func() bool { return len(rcv.received()) > 60 })
	close(stop)
	posting.Wait()
	eventually(t, "all that was accepted is settled", func() bool {
		st := s.stats().Requests
		return st.ByStatus["callback_sent"] == st.Total
	})
	t.Logf("%d accepted, %d refused, all settled %v after Postgres was back", len(accepted), refused.Load(), time.Since(began))
	came := rcv.byID()
	for id := range accepted {
		if came[id] == 0 {
			t.Errorf("%s was accepted, and its callback never came", id)
		}
	}
	rows := s.history("")
	if len(rows) < len(accepted) {
		t.Errorf("%d requests are on record, %d were accepted", len(rows), len(accepted))
	}
	countersFit(t, s, rows)
}

func TestThePasswordOfADatabaseIsShownNowhere(t *testing.T) {
	parallel(t)
	database := postgrestest.Database(t)
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	password, given := u.User.Password()
	if !given {
		t.Skip("the server of " + postgrestest.URLVariable + " asks for no password")
	}
	s := serveIn(t, t.TempDir(), []string{"TANDEM_DATABASE=" + database}, "--log-level", "debug")
	s.sync(quick)
	shown := s.stderr.String()
	for _, path := range []string{"/healthz", "/readyz", "/stats", "/metrics"} {
		shown += string(s.get(path).body)
	}
	wrong := *u
	wrong.Path = "/there-is-no-such-database"
	nowhere := *u
	nowhere.Host = "127.0.0.1:1"
	odd := strings.Replace(database, "sslmode=disable", "sslmode=odd", 1)
	broken := strings.Replace(database, "@", "@%zz", 1)
	for _, c := range []struct{ name, database string }{
		{"a database that is not there", wrong.String()},
		{"a server that is not there", nowhere.String()},
		{"a parameter that is wrong", odd},
		{"a URL that is none", broken},
	} {
		for _, args := range [][]string{{"serve", "--addr", "127.0.0.1:0"}, {"migrate"}, {"keys", "list"}, {"secret", "show"}} {
			stdout, stderr, code := run(t, []string{"TANDEM_DATABASE=" + c.database, "TANDEM_KEYS_DATABASE=" + c.database}, append(args, "--database", c.database)...)
			if code != 1 || !strings.Contains(stderr, "database") {
				t.Errorf("tandem %s with %s: exit code %d, %s", args[0], c.name, code, stderr)
			}
			shown += stdout + stderr
		}
	}
	if strings.Contains(shown, password) {
		t.Errorf("the password is shown in:\n%s", shown)
	}
}

func TestMigrateMakesTheSchemaAndLeavesTheServiceAlone(t *testing.T) {
	parallel(t)
	database := postgrestest.Database(t)
	for range 2 {
		stdout, stderr, code := run(t, nil, "migrate", "--database", database)
		if code != 0 || !strings.HasPrefix(stdout, "up to date  postgres://") {
			t.Fatalf("migrate ends with %d: %s%s", code, stdout, stderr)
		}
	}
	s := serve(t, "--database", database)
	id, _ := s.sync(quick)
	if _, stderr, code := run(t, nil, "migrate", "--database", database); code != 0 {
		t.Fatalf("migrate beside a service ends with %d: %s", code, stderr)
	}
	s.record(id)
	s.sync(quick)
	_, stderr, code := run(t, nil, "migrate", "--database", "requests.db")
	if code != 1 || !strings.Contains(stderr, "postgres://") {
		t.Errorf("migrate of a file: exit code %d, %s", code, stderr)
	}
}

func TestFilesOnlyCommandsRefuseAPostgres(t *testing.T) {
	parallel(t)
	const url = "postgres://tandem:pass-word@127.0.0.1:1/tandem"
	for _, args := range [][]string{{"backup", "copy.db"}, {"restore", "copy.db"}, {"doctor"}, {"doctor", "--repair"}} {
		_, stderr, code := run(t, nil, append(args, "--database", url)...)
		oneLine(t, stderr, code, "for SQLite files", "its own tools")
		if strings.Contains(stderr, "pass-word") {
			t.Errorf("%v shows the password: %s", args, stderr)
		}
	}
}
