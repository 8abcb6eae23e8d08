package distributed

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"tandem"
	"tandem/internal/postgrestest"
)

// schemaFiles are the migrations of this version.
func schemaFiles(t *testing.T) fstest.MapFS {
	t.Helper()
	files := make(fstest.MapFS)
	entries, err := schema.ReadDir("schema")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		text, err := schema.ReadFile("schema/" + entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = &fstest.MapFile{Data: text}
	}
	return files
}

// A migration that cannot have its table lets go of it, so that those who came
// after it are served, and is tried again until it can.
func TestAMigrationHoldsUpNobody(t *testing.T) {
	t.Parallel()
	database := postgrestest.Database(t)
	b, err := Open(t.Context(), database, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	files := schemaFiles(t)
	files["90000_next.sql"] = &fstest.MapFile{Data: []byte(
		"-- +goose Up\nSET LOCAL lock_timeout = '100ms';\nALTER TABLE requests ADD COLUMN next_note TEXT;\n")}
	pool, err := pgxpool.New(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	reading, err := pool.Begin(t.Context()) // as a long report or a dump does
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Rollback(context.WithoutCancel(t.Context())) // does nothing the second time
	if _, err := reading.Exec(t.Context(), `LOCK TABLE requests IN ACCESS SHARE MODE`); err != nil {
		t.Fatal(err)
	}
	migrated := make(chan error, 1)
	refused := make(chan struct{}, migrationTries)
	log := slog.New(warnings{refused})
	go func() { migrated <- migrateTo(t.Context(), pool, log, files) }()
	// Accepting does not stop while the migration is refused several times.
	deadline := time.Now().Add(20 * time.Second)
	for times := 0; times < 3; {
		if time.Now().After(deadline) {
			t.Fatalf("the migration was refused %d times, want three", times)
		}
		select {
		case <-refused:
			times++
		default:
		}
		at := b.now()
		req := &tandem.Request{ID: tandem.NewID(at), Mode: tandem.Async, Status: tandem.Pending, Workload: "wait", Lane: "io",
			Complexity: 1, Data: []byte(`{}`), Callback: tandem.Callback{State: tandem.CallbackNone}, CreatedAt: at}
		if err := b.Accept(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-migrated:
		t.Fatalf("the migration has its table while it is read: %v", err)
	default:
	}
	if err := reading.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-migrated:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the migration does not end")
	}
	if _, err := pool.Exec(t.Context(), `SELECT next_note FROM requests LIMIT 1`); err != nil {
		t.Error(err)
	}
}

// warnings is a log of nothing but that a migration waits for a table.
type warnings struct{ of chan<- struct{} }

func (w warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (w warnings) WithAttrs([]slog.Attr) slog.Handler               { return w }
func (w warnings) WithGroup(string) slog.Handler                    { return w }

func (w warnings) Handle(_ context.Context, record slog.Record) error {
	if strings.Contains(record.Message, "waits for a table") {
		w.of <- struct{}{}
	}
	return nil
}

// How many requests wait is right whichever version has changed the counters:
// before the migration, while it waits for one that changes them, and after.
func TestWhatWaitsIsCountedWhoeverCounts(t *testing.T) {
	t.Parallel()
	database := postgrestest.Database(t)
	pool, err := pgxpool.New(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	before := schemaFiles(t)
	delete(before, "00005_pending.sql")
	if err := migrateTo(t.Context(), pool, slog.New(slog.DiscardHandler), before); err != nil {
		t.Fatal(err)
	}
	// As the version before does: some standings of several owners in one statement.
	count := func(in interface {
		Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	}, shard, n int) {
		t.Helper()
		_, err := in.Exec(t.Context(), `
			INSERT INTO request_counters AS c (owner, mode, status, callback_state, requests, processing_us, shard)
			SELECT owner, mode, status, state, $2, 0, $1 FROM unnest(ARRAY['', 'ann', 'bob']) AS owner, unnest(ARRAY['async', 'sync']) AS mode,
				unnest(ARRAY['pending', 'processing', 'completed']) AS status, unnest(ARRAY['none', 'pending']) AS state
			ON CONFLICT (owner, mode, status, callback_state, shard) DO UPDATE SET requests = c.requests + excluded.requests`, shard, n)
		if err != nil {
			t.Fatal(err)
		}
	}
	waiting := func() (known, counted int) {
		t.Helper()
		err := pool.QueryRow(t.Context(), `SELECT (`+pendingQuery+`),
			(SELECT sum(requests) FROM request_counters WHERE mode = 'async' AND status = 'pending')`).Scan(&known, &counted)
		if err != nil {
			t.Fatal(err)
		}
		return known, counted
	}
	count(pool, 1, 5)
	count(pool, 2, -3) // they were accepted in another shard
	counting, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer counting.Rollback(context.WithoutCancel(t.Context())) // does nothing after the commit
	count(counting, 1, 10)
	migrated := make(chan error, 1)
	go func() { migrated <- migrateTo(t.Context(), pool, slog.New(slog.DiscardHandler), schemaFiles(t)) }()
	poll(t, "the migration waits for the counters", func() bool {
		var waits bool
		err := pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'request_counters'::regclass)`).Scan(&waits)
		if err != nil {
			t.Fatal(err)
		}
		return waits
	})
	if err := counting.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-migrated; err != nil {
		t.Fatal(err)
	}
	if known, counted := waiting(); known != counted || counted != 6*(5-3+10) {
		t.Errorf("after the migration %d are known to wait, want the %d that are counted", known, counted)
	}
	count(pool, 1, 7)
	count(pool, 3, 1)
	if known, counted := waiting(); known != counted || counted != 6*(5-3+10+7+1) {
		t.Errorf("then %d are known to wait, want the %d that are counted", known, counted)
	}
}

// What a later version has added is let be, to our tables and to River's.
func TestASchemaOfALaterVersionIsRefusedOnlyIfItSaysSo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, change string
		refused      bool
	}{
		{"a later version that this one can read", `INSERT INTO tandem_schema_version (version_id, is_applied) VALUES (90000, true)`, false},
		{"a later version of the queue", `INSERT INTO river_migration (line, version) VALUES ('main', 90000)`, false},
		{"one that asks for this reader", fmt.Sprintf(`UPDATE schema_meta SET min_reader_version = %d`, readerVersion), false},
		{"one that asks for the next reader", fmt.Sprintf(`UPDATE schema_meta SET min_reader_version = %d`, readerVersion+1), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			database := postgrestest.Database(t)
			log := slog.New(slog.DiscardHandler)
			if err := Migrate(t.Context(), database, log); err != nil {
				t.Fatal(err)
			}
			conn, err := pgx.Connect(t.Context(), database)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			if _, err := conn.Exec(t.Context(), c.change); err != nil {
				t.Fatal(err)
			}
			if err := Migrate(t.Context(), database, log); (err != nil) != c.refused || c.refused && !strings.Contains(err.Error(), "newer version") {
				t.Errorf("migrate: %v", err)
			}
			b, err := Open(t.Context(), database, Options{})
			if (err != nil) != c.refused {
				t.Errorf("open: %v", err)
			}
			if err == nil {
				b.Close()
			}
		})
	}
}

// The rules of migrateTo, as far as a machine can tell.
func TestMigrationsGoByTheRules(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		ok         bool
	}{
		{"a column", "-- +goose Up\nSET LOCAL lock_timeout = '2s';\nALTER TABLE requests ADD COLUMN a TEXT;\n", true},
		{"a table", "-- +goose Up\nCREATE TABLE things (id TEXT PRIMARY KEY);\nCREATE INDEX ON things (id);\n", true},
		{"an index", "-- +goose NO TRANSACTION\n-- +goose Up\nDROP INDEX CONCURRENTLY IF EXISTS i;\nCREATE INDEX CONCURRENTLY i ON requests (a);\n", true},
		{"a column without a limit", "-- +goose Up\nALTER TABLE requests ADD COLUMN a TEXT;\n", false},
		{"a trigger", "-- +goose Up\nSET LOCAL lock_timeout = '2s';\nCREATE TRIGGER a AFTER INSERT ON requests EXECUTE FUNCTION f();\n", true},
		{"a trigger without a limit", "-- +goose Up\nCREATE TRIGGER a AFTER INSERT ON requests EXECUTE FUNCTION f();\n", false},
		{"two tables", "-- +goose Up\nSET LOCAL lock_timeout = '2s';\nALTER TABLE requests ADD COLUMN a TEXT;\nALTER TABLE attempts ADD COLUMN a TEXT;\n", false},
		{"an index that locks", "-- +goose Up\nSET LOCAL lock_timeout = '2s';\nCREATE INDEX i ON requests (a);\n", false},
		{"an index less", "-- +goose Up\nDROP INDEX i;\n", false},
		{"an index in the place of another", "-- +goose NO TRANSACTION\n-- +goose Up\nDROP INDEX CONCURRENTLY IF EXISTS i;\nCREATE INDEX i ON requests (a);\n", false},
		{"an index that can be half made", "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY i ON requests (a);\n", false},
		{"a column less", "-- +goose Up\nSET LOCAL lock_timeout = '2s';\nALTER TABLE requests DROP COLUMN a;\n", false},
		{"another name", "-- +goose Up\nSET LOCAL lock_timeout = '2s';\nALTER TABLE requests RENAME COLUMN a TO b;\n", false},
	} {
		if fault := ruleBroken(c.text); (fault == "") != c.ok {
			t.Errorf("%s: %q", c.name, fault)
		}
	}
	files, err := schema.ReadDir("schema")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files[1:] {
		text, err := schema.ReadFile("schema/" + file.Name())
		if err != nil {
			t.Fatal(err)
		}
		if fault := ruleBroken(string(text)); fault != "" {
			t.Errorf("%s %s", file.Name(), fault)
		}
	}
}

var (
	createsTable = regexp.MustCompile(`(?i)CREATE TABLE (\w+)`)
	altersTable  = regexp.MustCompile(`(?i)(?:ALTER TABLE|CREATE (?:UNIQUE )?INDEX.* ON|CREATE TRIGGER.* ON) (\w+)`)
	takesAway    = regexp.MustCompile(`(?i)\b(?:DROP|RENAME) (?:TABLE|COLUMN|TO)\b`)
	makesIndex   = regexp.MustCompile(`(?i)CREATE (?:UNIQUE )?INDEX`)
	besideOthers = regexp.MustCompile(`(?i)CREATE (?:UNIQUE )?INDEX CONCURRENTLY`)
	dropsIndex   = regexp.MustCompile(`(?i)DROP INDEX`)
	dropsBeside  = regexp.MustCompile(`(?i)DROP INDEX CONCURRENTLY IF EXISTS`)
)

// ruleBroken says which of the rules a migration does not go by, "" if there is
// none.
func ruleBroken(text string) string {
	created, altered := make(map[string]bool), make(map[string]bool)
	for _, m := range createsTable.FindAllStringSubmatch(text, -1) {
		created[m[1]] = true
	}
	for _, m := range altersTable.FindAllStringSubmatch(text, -1) {
		if !created[m[1]] {
			altered[m[1]] = true
		}
	}
	count := func(re *regexp.Regexp) int { return len(re.FindAllString(text, -1)) }
	concurrently := strings.Contains(text, "NO TRANSACTION")
	switch {
	case takesAway.MatchString(text):
		return "takes away what the version before uses"
	case len(altered) > 1:
		return "changes more than one table"
	case len(altered) == 1 && count(makesIndex) > 0 && (!concurrently || count(makesIndex) > count(besideOthers)):
		return "makes an index that others have to wait for"
	case count(dropsIndex) > count(dropsBeside):
		return "drops an index that others have to wait for"
	case count(besideOthers) > count(dropsBeside):
		return "may be left half made, and fail from then on"
	case len(altered) == 1 && !concurrently && !strings.Contains(text, "SET LOCAL lock_timeout"):
		return "may hold others up: it does not SET LOCAL lock_timeout"
	}
	return ""
}
