package acceptance

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"tandem/internal/postgrestest"
)

// Three processes share a PgBouncer in transaction mode, which has fewer
// connections to Postgres than they have to it: every transaction goes by
// whichever is free.
func TestManyProcessesBehindPgBouncer(t *testing.T) {
	parallel(t)
	needSignals(t)
	const connections = 5
	database := postgrestest.Database(t)
	bouncer := postgrestest.PgBouncer(t, database, "pool_mode = transaction", fmt.Sprintf("default_pool_size = %d", connections))
	annKey, annSecret := newKey(t, bouncer.URL, "ann")
	u := newUpstream(t)
	rcv := receive(t, nil)
	behind := func(args ...string) *service {
		return serve(t, append(args, "--database", bouncer.URL, "--database-poll-only", "--require-keys", u.flag())...).as(annKey)
	}
	api, worker, both := behind("--roles", "api"), behind("--roles", "worker"), behind()

	// What one process works, another is asked about.
	held := api.async(u.work("held", rcv.url))
	u.await()
	waited := api.later("GET", "/requests/"+held+"?wait=20s", nil)
	both.get("/requests/" + held + "?wait=100ms") // by its end the other is under way
	stopped := both.async(u.work("stopped", rcv.url))
	u.await()
	var rec record
	api.cancel(stopped).decode(t, http.StatusOK, &rec)
	if rec.Status != "failed" || show(rec.ErrorCode) != "cancelled" {
		t.Errorf("work that is cancelled through another process reads %v", rec)
	}
	asked := api.later("POST", "/sync", u.work("sync", ""))
	u.await()
	both.cancel(both.onlyOne("&mode=sync").RequestID)
	if p := (<-asked).problem(t, http.StatusConflict); p.ErrorCode != "cancelled" {
		t.Errorf("the caller of work that is cancelled through another process is told %+v", p)
	}
	u.open()
	(<-waited).decode(t, http.StatusOK, &rec)
	if !rec.worked() || show(rec.ErrorCode) != "null" {
		t.Errorf("?wait ends with %v", rec)
	}
	for range 2 {
		rcv.next().verify(t, annSecret)
	}

	// Many at once, under keys and without, of both kinds.
	const posters, posts = 8, 10
	var posting sync.WaitGroup
	for i := range posters {
		s := []*service{api, both}[i%2]
		posting.Go(func() {
			for n := range posts {
				if a, err := s.try("POST", "/sync", quick); err != nil || a.status != http.StatusOK {
					t.Errorf("POST /sync: %d %s, %v", a.status, a.body, err)
				}
				keyed := s.with("Idempotency-Key", fmt.Sprint(n)) // of all posters
				a, err := keyed.try("POST", "/async", submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
				if err != nil || a.status != http.StatusAccepted {
					t.Errorf("POST /async: %d %s, %v", a.status, a.body, err)
				}
			}
		})
	}
	posting.Wait()
	for range posts {
		rcv.next().verify(t, annSecret)
	}
	eventually(t, "all is settled", func() bool {
		st := worker.stats()
		return st.Requests.Total == 3+posters*posts+posts && st.Requests.ByStatus["pending"]+st.Requests.ByStatus["processing"]+st.Callbacks.Pending == 0
	})
	if n := len(rcv.received()); n != 2+posts {
		t.Errorf("%d callbacks came, want %d", n, 2+posts)
	}
	countersFit(t, worker, both.history(""))
	clients, servers := console(t, bouncer, "SHOW CLIENTS"), console(t, bouncer, "SHOW SERVERS")
	if clients <= connections || servers > connections {
		t.Errorf("%d connections were shared by %d clients: nothing is shown", servers, clients)
	}

	if _, stderr, code := run(t, nil, "keys", "revoke", "--database", bouncer.URL, "--name", "ann"); code != 0 {
		t.Fatalf("revoke: %d %s", code, stderr)
	}
	for _, s := range []*service{api, worker, both} {
		eventually(t, "the revoked key is turned away", func() bool { return s.get("/requests").status == http.StatusUnauthorized })
		s.stop(t)
		s.hadNoErrors()
	}
	soundFile(t, database)
}

// console asks a PgBouncer and returns how many rows it answers of the database.
func console(t *testing.T, b postgrestest.Bouncer, ask string) (rows int) {
	t.Helper()
	config, err := pgx.ParseConfig(b.Admin)
	if err != nil {
		t.Fatal("the console has no URL")
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	answer, err := conn.Query(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(answer, pgx.RowToMap)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range all {
		if row["database"] != "pgbouncer" {
			rows++
		}
	}
	return rows
}

// In session mode nothing is needed but that PgBouncer takes the settings with
// which the service connects.
func TestAProcessBehindPgBouncerInSessionMode(t *testing.T) {
	parallel(t)
	bouncer := postgrestest.PgBouncer(t, migrated.Database(t), "pool_mode = session", "default_pool_size = 40",
		"ignore_startup_parameters = enable_seqscan, enable_hashjoin, enable_mergejoin, jit, synchronous_commit")
	rcv := receive(t, nil)
	u := newUpstream(t)
	api := serve(t, "--database", bouncer.URL, "--roles", "api", u.flag())
	worker := serve(t, "--database", bouncer.URL, u.flag())
	api.sync(quick)
	id := api.async(u.work("a", rcv.url))
	u.await()
	waited := api.later("GET", "/requests/"+id+"?wait=20s", nil)
	worker.get("/requests/" + id + "?wait=100ms") // by its end the other is under way
	u.open()
	var rec record
	if (<-waited).decode(t, http.StatusOK, &rec); !rec.worked() {
		t.Errorf("?wait ends with %v", rec)
	}
	rcv.next().verify(t, secret)
	api.settled(id)
	countersFit(t, worker, api.history(""))
}

func TestPgBouncerThatTakesNoSettingsIsRefusedInOneLine(t *testing.T) {
	parallel(t)
	bouncer := postgrestest.PgBouncer(t, migrated.Database(t), "pool_mode = transaction")
	_, stderr, code := run(t, nil, "serve", "--addr", "127.0.0.1:0", "--database", bouncer.URL)
	oneLine(t, stderr, code, "PgBouncer", "--database-poll-only")
}

// More processes start than there are connections for: none keeps one from the
// one that migrates.
func TestManyProcessesStartAtOnceBehindPgBouncer(t *testing.T) {
	parallel(t)
	bouncer := postgrestest.PgBouncer(t, postgrestest.Database(t), "pool_mode = transaction", "default_pool_size = 3")
	startAtOnce(t, 6, "--database", bouncer.URL, "--database-poll-only")
}
