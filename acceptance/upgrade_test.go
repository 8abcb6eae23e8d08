package acceptance

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"tandem/internal/postgrestest"
)

// nextSchema is what a next version of the program might add to the schema, by
// the rules for that: the version before does not have to know of it.
var nextSchema = map[string]string{
	"90000_requests.sql": `-- +goose Up
SET LOCAL lock_timeout = '2s';
ALTER TABLE requests ADD COLUMN next_note TEXT NOT NULL DEFAULT '', ADD COLUMN next_number BIGINT;
`,
	"90001_counters.sql": `-- +goose Up
SET LOCAL lock_timeout = '2s';
ALTER TABLE request_counters ADD COLUMN next_number BIGINT NOT NULL DEFAULT 0;
`,
	"90002_attempts.sql": `-- +goose Up
SET LOCAL lock_timeout = '2s';
ALTER TABLE attempts ADD COLUMN next_note TEXT;
`,
	"90003_index.sql": `-- +goose NO TRANSACTION
-- +goose Up
DROP INDEX CONCURRENTLY IF EXISTS requests_by_next_note;
CREATE INDEX CONCURRENTLY requests_by_next_note ON requests (next_note) WHERE next_note <> '';
`,
	"90004_things.sql": `-- +goose Up
CREATE TABLE next_things (id TEXT PRIMARY KEY, note TEXT NOT NULL);
`,
}

// nextProgram builds the program with nextSchema as its last migrations. It does
// not look for races: what has to bear with it is the program that is tested.
func nextProgram(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	folder, err := filepath.Abs("../internal/distributed/schema")
	if err != nil {
		t.Fatal(err)
	}
	replace := make(map[string]string)
	for name, text := range nextSchema {
		replace[filepath.Join(folder, name)] = write(name, text)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(dir, filepath.Base(program))
	build := exec.Command("go", "build", "-buildvcs=false", "-overlay", write("overlay.json", string(overlay)), "-o", next, "tandem/cmd/tandem")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the next version: %v\n%s", err, text)
	}
	return next
}

// A process goes on, under load, while one of the next version migrates the
// database and runs beside it; and one of the version before can be started
// again after that.
func TestAProcessGoesOnWhileTheNextVersionMigrates(t *testing.T) {
	parallel(t)
	needSignals(t)
	next := nextProgram(t)
	database := postgrestest.Database(t)
	rcv := receive(t, nil)
	flags := []string{"--database", database, "--callback-per-host", "64"}
	old := serve(t, flags...)
	pollingOld := serve(t, append(flags, "--database-poll-only")...)

	stop := make(chan struct{})
	var posting sync.WaitGroup
	var accepted atomic.Int64
	for _, s := range []*service{old, pollingOld} {
		for range 2 {
			posting.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if a, err := s.try("POST", "/sync", quick); err != nil || a.status != http.StatusOK {
						t.Errorf("POST /sync: %d %s, %v", a.status, a.body, err)
						return
					}
					a, err := s.try("POST", "/async", submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
					if err != nil || a.status != http.StatusAccepted {
						t.Errorf("POST /async: %d %s, %v", a.status, a.body, err)
						return
					}
					accepted.Add(1)
					for _, path := range []string{"/stats", "/requests?limit=20", a.header.Get("Location"), a.header.Get("Location") + "/attempts"} {
						if a, err := s.try("GET", path, nil); err != nil || a.status != http.StatusOK {
							t.Errorf("GET %s: %d %s, %v", path, a.status, a.body, err)
							return
						}
					}
				}
			})
		}
	}
	more := func(n int64) {
		t.Helper()
		from := accepted.Load()
		eventually(t, "more are accepted", func() bool { return accepted.Load() > from+n })
	}
	more(10)
	young := serveProgram(t, next, t.TempDir(), []string{"TANDEM_CALLBACK_SECRET=" + secret.Reveal()}, flags...)
	var there bool
	err := openPostgres(t, database).QueryRow(`SELECT to_regclass('next_things') IS NOT NULL`).Scan(&there)
	if err != nil || !there {
		t.Fatalf("the next version has not migrated, %v", err)
	}
	more(20)
	again := serve(t, flags...) // of the version before, on a schema that it does not know all of
	for _, pair := range [][2]*service{{old, young}, {young, pollingOld}, {pollingOld, again}, {again, old}} {
		id := pair[0].async(quick)
		if rec := pair[1].worked(id); rec.Status != "completed" {
			t.Errorf("what one version accepted reads in the other %v", rec)
		}
	}
	close(stop)
	posting.Wait()
	old.stop(t) // as a rolling upgrade ends it
	eventually(t, "all is settled", func() bool {
		st := young.stats()
		return st.Requests.ByStatus["pending"]+st.Requests.ByStatus["processing"]+st.Callbacks.Pending == 0
	})
	countersFit(t, young, again.history(""))
	if _, stderr, code := run(t, nil, "migrate", "--database", database); code != 0 {
		t.Errorf("migrate of the version before ends with %d: %s", code, stderr)
	}
	for _, s := range []*service{old, pollingOld, young, again} {
		s.kill() // so that its log is complete
		s.hadNoErrors()
	}
	soundFile(t, database)
}

// hadNoErrors wants the log of a process to tell of none.
func (s *service) hadNoErrors() {
	s.t.Helper()
	for line := range strings.Lines(s.stderr.String()) {
		if strings.Contains(line, `"level":"ERROR"`) || strings.Contains(line, `"status":50`) {
			s.t.Errorf("the log says %s", line)
		}
	}
}

func TestAPostgresOfANewerVersionIsRefused(t *testing.T) {
	parallel(t)
	database := migrated.Database(t)
	db := openPostgres(t, database)
	if _, err := db.Exec(`UPDATE schema_meta SET min_reader_version = 1000`); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"serve", "--addr", "127.0.0.1:0"},
		{"serve", "--addr", "127.0.0.1:0", "--database-poll-only"},
		{"migrate"},
		{"keys", "create", "--name", "ann"},
		{"keys", "list"},
	} {
		_, stderr, code := run(t, nil, append(args, "--database", database)...)
		oneLine(t, stderr, code, "newer version", "reader version 1000", "postgres://")
		if code != 1 {
			t.Errorf("tandem %s ends with %d, want 1", args[0], code)
		}
	}
	file := newFile(t)
	s := serve(t, "--database", file)
	s.kill()
	_, stderr, code := run(t, nil, "transfer", "--from", file, "--to", database)
	oneLine(t, stderr, code, "newer version")
	var keys, requests int
	if err := db.QueryRow(`SELECT (SELECT count(*) FROM api_keys), (SELECT count(*) FROM requests)`).Scan(&keys, &requests); err != nil || keys+requests != 0 {
		t.Errorf("what was refused has left %d keys and %d requests, %v", keys, requests, err)
	}
}

func TestProcessesThatStartAtOnceMakeOneSchema(t *testing.T) {
	parallel(t)
	database := postgrestest.Database(t)
	startAtOnce(t, 4, "--database", database)
	var versions, twice int
	err := openPostgres(t, database).QueryRow(`
		SELECT count(DISTINCT version_id), count(*) - count(DISTINCT version_id) FROM tandem_schema_version WHERE is_applied`).Scan(&versions, &twice)
	if err != nil || versions < 2 || twice != 0 {
		t.Errorf("%d versions are applied, %d of them more than once, %v", versions, twice, err)
	}
}

// startAtOnce starts processes on a database that is empty, and wants each to
// serve.
func startAtOnce(t *testing.T, n int, args ...string) {
	t.Helper()
	processes, files := make([]*process, n), make([]string, n)
	for i := range processes {
		files[i] = filepath.Join(t.TempDir(), "address")
		processes[i] = start(t, t.TempDir(), nil, append([]string{"serve", "--addr", "127.0.0.1:0", "--address-file", files[i]}, args...)...)
	}
	for i, p := range processes {
		s := connect(t, p, files[i])
		s.sync(quick)
		s.worked(s.async(quick))
	}
}
