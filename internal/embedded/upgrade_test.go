package embedded

import (
	"compress/gzip"
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tandem"
)

// fixture unpacks a database from testdata. Each was written by the program of
// its schema version, which was killed over it: requests of every kind that
// had ended, one owed a callback, several interrupted and several waiting.
func fixture(t *testing.T, name string) string {
	t.Helper()
	packed, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	content, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "requests.db")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(file, content); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// withFile gives f a connection to a database behind everybody's back.
func withFile(t *testing.T, path string, f func(*sql.DB)) {
	t.Helper()
	db, err := openPlain(path, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	f(db)
}

func mustExec(t *testing.T, db *sql.DB, text string) {
	t.Helper()
	if _, err := db.Exec(text); err != nil {
		t.Fatal(err)
	}
}

func TestAFileOfEveryOlderSchemaMigratesForward(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"schema-1.db.gz", "schema-2.db.gz"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := fixture(t, name)
			const settled = `
				SELECT id, status, callback_state, data, coalesce(result, ''), attempts FROM requests
				WHERE status NOT IN ('pending', 'processing') ORDER BY seq`
			read := func(db *sql.DB, text string) (rows []string) {
				t.Helper()
				found, err := db.Query(text)
				if err != nil {
					t.Fatal(err)
				}
				defer found.Close()
				for found.Next() {
					var id, status, state, data, result string
					var attempts int
					if err := found.Scan(&id, &status, &state, &data, &result, &attempts); err != nil {
						t.Fatal(err)
					}
					rows = append(rows, fmt.Sprint(id, status, state, data, result, attempts))
				}
				return rows
			}
			var before, ids []string
			withFile(t, path, func(db *sql.DB) {
				before = read(db, settled)
				for _, row := range read(db, strings.Replace(settled, "NOT IN", "IN", 1)) {
					ids = append(ids, row[:len("req_")+32])
				}
			})
			if len(before) < 12 || len(ids) < 5 {
				t.Fatalf("the fixture has %d settled and %d other requests, which shows too little", len(before), len(ids))
			}

			b := openAt(t, path, Options{})
			after := read(b.read, settled)
			for _, row := range before {
				if !slices.Contains(after, row) {
					t.Errorf("it was on record and is not: %s", row)
				}
			}
			for _, id := range ids { // what no process works any more is pending again, or was sync and failed
				req, err := b.Request(t.Context(), id)
				if err != nil || req.Status != tandem.Pending && (req.Mode != tandem.Sync || req.Failure == nil || req.Failure.Code != tandem.FailureInterrupted) {
					t.Errorf("request %s is %+v, %v", id, req, err)
				}
			}
			soundCounters(t, b)
			if err := b.Accept(t.Context(), kept(b.now())); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAFileIsRefusedOnlyIfItSaysThatItIsTooNew(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		change  string
		refused bool
	}{
		{"a schema of a later version that this one can read", `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)`, false},
		{"one that asks for a later reader", `UPDATE schema_meta SET min_reader_version = 2`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "requests.db")
			if err := openAt(t, path, Options{}).Close(); err != nil {
				t.Fatal(err)
			}
			withFile(t, path, func(db *sql.DB) { mustExec(t, db, c.change) })
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b, err := Open(context.WithoutCancel(t.Context()), path, Options{})
			if err == nil {
				b.Close()
			}
			if refused := err != nil; refused != c.refused {
				t.Fatalf("opening it gives %v", err)
			}
			if !c.refused {
				return
			}
			if text := err.Error(); !strings.Contains(text, path) || !strings.Contains(text, "newer version") {
				t.Errorf("it says %q", text)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
				t.Errorf("the file was changed, %v", err)
			}
		})
	}
}
