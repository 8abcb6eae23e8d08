package acceptance

import (
	"database/sql"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"
)

// countersFit wants the counters of /stats to equal the rows of a history that
// has come to rest.
func countersFit(t *testing.T, s *service, rows []record) {
	t.Helper()
	modes, statuses := make(map[string]int), make(map[string]int)
	seen := make(map[string]bool)
	sent, failed, owed := 0, 0, 0
	for _, r := range rows {
		if seen[r.RequestID] {
			t.Errorf("%s comes twice in the history", r.RequestID)
		}
		seen[r.RequestID] = true
		modes[r.Mode]++
		statuses[r.Status]++
		switch {
		case r.Callback.State == "sent":
			sent++
		case r.Callback.State == "failed":
			failed++
		case r.Callback.State == "pending" && r.worked():
			owed++
		}
	}
	st := s.stats()
	if st.Requests.Total != len(rows) || st.Requests.Sync != modes["sync"] || st.Requests.Async != modes["async"] {
		t.Errorf("/stats counts %+v, the history has %d requests by mode %v", st.Requests, len(rows), modes)
	}
	if len(st.Requests.ByStatus) != 6 {
		t.Errorf("by_status is %v, want all six", st.Requests.ByStatus)
	}
	for name, n := range st.Requests.ByStatus {
		if n != statuses[name] {
			t.Errorf("/stats counts %d %s, the history %d", n, name, statuses[name])
		}
	}
	if completed := statuses["completed"] + statuses["callback_sent"] + statuses["callback_failed"]; st.Requests.Completed != completed || st.Requests.Failed != statuses["failed"] {
		t.Errorf("/stats counts %+v, the history %v", st.Requests, statuses)
	}
	if st.Callbacks.Delivered != sent || st.Callbacks.Failed != failed || st.Callbacks.Pending != owed {
		t.Errorf("/stats counts the callbacks %+v, the history %d sent, %d failed, %d pending", st.Callbacks, sent, failed, owed)
	}
}

// onPostgres reports whether a database is not a file.
func onPostgres(database string) bool { return strings.HasPrefix(database, "postgres:") }

// openDatabase opens the database of a service behind its back.
func openDatabase(t *testing.T, database string) *sql.DB {
	t.Helper()
	if onPostgres(database) {
		return openPostgres(t, database)
	}
	return openFile(t, database)
}

func openPostgres(t *testing.T, database string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", database)
	if err != nil {
		t.Fatal("the database cannot be opened") // the error shows the password
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func openFile(t *testing.T, file string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: filepath.ToSlash(file)}).EscapedPath()+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// soundFile wants a database to be whole, and its counters to equal its rows.
func soundFile(t *testing.T, file string) {
	t.Helper()
	db := openDatabase(t, file)
	defer db.Close()
	if !onPostgres(file) {
		var verdict string
		if err := db.QueryRow(`PRAGMA integrity_check`).Scan(&verdict); err != nil || verdict != "ok" {
			t.Errorf("integrity_check says %q, %v", verdict, err)
		}
	}
	var apart int
	err := db.QueryRow(`
		WITH counted AS (
			SELECT owner, mode, status, callback_state, count(*) AS n FROM requests GROUP BY 1, 2, 3, 4
		), kept AS (
			SELECT owner, mode, status, callback_state, sum(requests) AS n FROM request_counters GROUP BY 1, 2, 3, 4 HAVING sum(requests) != 0
		)
		SELECT (SELECT count(*) FROM (SELECT * FROM counted EXCEPT SELECT * FROM kept) AS a)
			+ (SELECT count(*) FROM (SELECT * FROM kept EXCEPT SELECT * FROM counted) AS b)`).Scan(&apart)
	if err != nil || apart != 0 {
		t.Errorf("%d counters do not equal the rows, %v", apart, err)
	}
}

// contents is all that a database keeps, of a service that has ended.
func contents(t *testing.T, database string) string {
	t.Helper()
	if !onPostgres(database) {
		text, err := os.ReadFile(database)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	db := openPostgres(t, database)
	var tables []string
	rows, err := db.Query(`SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range tables {
		var text string
		if err := db.QueryRow(`SELECT coalesce(string_agg(t::text, ' '), '') FROM ` + name + ` t`).Scan(&text); err != nil {
			t.Fatal(err)
		}
		all.WriteString(text)
	}
	return all.String()
}

func TestARestartKeepsTheHistory(t *testing.T) {
	onEach(t, aRestartKeepsTheHistory)
}

func aRestartKeepsTheHistory(t *testing.T, file string) {
	needSignals(t)
	rcv := receive(t, nil)
	s := serve(t, "--database", file)
	sync, result := s.sync(submission{Data: data})
	async := s.async(submission{Data: data, CallbackURL: rcv.url})
	rcv.next()
	before := s.settled(async)
	s.stop(t)

	s = serve(t, "--database", file)
	if rec := s.record(sync); rec.Status != "completed" || string(rec.Result) != result {
		t.Errorf("the sync request is %+v", rec)
	}
	if rec := s.record(async); rec.Status != "callback_sent" || !rec.CompletedAt.Equal(*before.CompletedAt) || string(rec.Result) != string(before.Result) {
		t.Errorf("the async request is %+v, was %+v", rec, before)
	}
	if len(s.attempts(async)) != 1 {
		t.Error("its attempts are not on record any more")
	}
	s.sync(submission{Data: data})
	rows := s.history("")
	if len(rows) != 3 || rows[1].RequestID != async || rows[2].RequestID != sync {
		t.Errorf("the history is %+v", rows)
	}
	countersFit(t, s, rows)
	s.stop(t)
	soundFile(t, file)
}

func TestDeletingTheFileResetsTheDatabase(t *testing.T) {
	parallel(t)
	needSignals(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "requests.db")
	s := serve(t, "--database", file)
	id, _ := s.sync(submission{Data: data})
	s.stop(t)
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left { // nothing else holds the history
		if name := entry.Name(); name != "requests.db" && name != "requests.db.lock" {
			t.Errorf("a stopped service leaves %s", name)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}

	s = serve(t, "--database", file)
	s.get("/requests/"+id).problem(t, 404)
	if st := s.stats(); st.Requests.Total != 0 {
		t.Errorf("a new database counts %d requests", st.Requests.Total)
	}
	s.sync(submission{Data: data})
}

func TestAFileOfANewerVersionIsRefused(t *testing.T) {
	parallel(t)
	needSignals(t)
	file := newFile(t)
	s := serve(t, "--database", file)
	s.sync(submission{Data: data})
	s.stop(t)
	db := openFile(t, file)
	if _, err := db.Exec(`UPDATE schema_meta SET min_reader_version = 1000`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	_, stderr, code := run(t, nil, "serve", "--addr", "127.0.0.1:0", "--database", file)
	oneLine(t, stderr, code, file, "newer version")
}

func TestAPathWithOddCharactersIsOneFile(t *testing.T) {
	parallel(t)
	needSignals(t)
	dir := t.TempDir()
	name := "a b%20c#d&e=f'.db"
	s := serve(t, "--database", filepath.Join(dir, name))
	id, _ := s.sync(submission{Data: data})
	s.stop(t)
	if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
		t.Error(err)
	}
	s = serve(t, "--database", filepath.Join(dir, name))
	s.record(id)
}

func TestProductionKeepsItsRequestsInTheFolderItIsStartedIn(t *testing.T) {
	parallel(t)
	needSignals(t)
	dir := t.TempDir()
	s := serveIn(t, dir, nil, "--mode", "production", "--insecure-no-auth")
	id, _ := s.sync(submission{Data: data})
	if h := s.health(); !h.Durable {
		t.Errorf("/healthz says %+v", h)
	}
	s.stop(t)
	if _, err := os.Stat(filepath.Join(dir, "requests.db")); err != nil {
		t.Error(err)
	}
	s = serveIn(t, dir, nil, "--mode", "production", "--insecure-no-auth")
	s.record(id)
}

// health is what GET /healthz answers.
type health struct {
	Status  string   `json:"status"`
	Backend string   `json:"backend"`
	Durable bool     `json:"durable"`
	Notices []string `json:"notices"`
}

func (s *service) health() health {
	s.t.Helper()
	var h health
	s.get("/healthz").decode(s.t, 200, &h)
	return h
}

func TestTheServiceSaysWhetherItIsDurable(t *testing.T) {
	parallel(t)
	const notice = "not durable"
	memory := serve(t, "--mode", "demo")
	if h := memory.health(); h.Durable || !strings.Contains(strings.Join(h.Notices, "\n"), notice) || memory.stats().System.Durable {
		t.Errorf("in memory /healthz says %+v", h)
	}
	memory.says(t, notice)
	onDisk := func(name, database string) {
		s := serve(t, "--mode", "demo", "--database", database)
		if h := s.health(); !h.Durable || strings.Contains(strings.Join(h.Notices, "\n"), notice) || !s.stats().System.Durable {
			t.Errorf("on %s /healthz says %+v", name, h)
		}
		s.kill() // so that its log is complete
		if strings.Contains(s.stderr.String(), notice) {
			t.Errorf("on %s the log says that it is not durable", name)
		}
	}
	onDisk("a file", newFile(t))
	database := migrated.Database(t)
	onDisk("a Postgres", database)
	// Without settings of its own, the service has those of the database.
	if _, err := openPostgres(t, database).Exec(`DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || ' SET synchronous_commit = off'; END $$`); err != nil {
		t.Fatal(err)
	}
	careless := serve(t, "--mode", "demo", "--database", database, "--database-poll-only")
	if h := careless.health(); h.Durable || !strings.Contains(strings.Join(h.Notices, "\n"), notice) || careless.stats().System.Durable {
		t.Errorf("on a Postgres that does not wait for the disk /healthz says %+v", h)
	}
	careless.says(t, notice)
}
