package embedded

import (
	"bytes"
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// settledFile is a database with some of everything, closed.
func settledFile(t *testing.T) string {
	t.Helper()
	path := fixture(t, "schema-2.db.gz")
	if err := openAt(t, path, Options{}).Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExamineFindsWhatIsWrongAndRepairsIt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		damage   string
		finding  string // "": none
		repaired bool
	}{
		{"nothing is wrong", ``, "", false},
		{"a counter is too high", `UPDATE request_counters SET requests = requests + 1 WHERE status = 'completed' AND mode = 'sync'`, "completed, callback none: 4 requests are counted, 3 are there", true},
		{"a counter is gone", `DELETE FROM request_counters WHERE mode = 'sync' AND status = 'failed'`, "sync failed", true},
		{"a counter is of nothing", `INSERT INTO request_counters VALUES ('nobody', 'sync', 'completed', 'none', 3, 9)`, "of nobody: 3 requests are counted, 0 are there", true},
		{"the time of work is off", `UPDATE request_counters SET processing_us = processing_us + 1 WHERE status = 'callback_sent'`, "us of work", true},
		{"a count of errors is too low", `UPDATE error_counters SET errors = 0 WHERE source = 'callback'`, "callback gone: 0 are counted, 1 are there", true},
		{"more errors are counted than are kept", `UPDATE error_counters SET errors = errors + 5`, "", false},
		{"an owed callback has no time", `UPDATE requests SET next_attempt_at = NULL WHERE callback_state = 'pending'`, "have no time for it", true},
		{"a settled request has a time", `UPDATE requests SET next_attempt_at = 1 WHERE status = 'callback_sent'`, "do not owe", true},
		{"a request waits in a lane of another program", `UPDATE requests SET lane = 'gpu' WHERE status = 'pending'`, "in a lane that there is not", true},
		{"a worked request does not say when", `UPDATE requests SET worked_at = NULL WHERE status = 'callback_failed'`, "do not say when", true},
		{"a status that there is not", `UPDATE requests SET status = 'lost' WHERE seq = 1; DELETE FROM request_counters; INSERT INTO request_counters SELECT owner, mode, status, callback_state, count(*), sum(CASE WHEN status NOT IN ('pending', 'processing') THEN coalesce(worked_at - started_at, 0) ELSE 0 END) FROM requests GROUP BY 1, 2, 3, 4`, "status or mode that there is not", false},
		{"attempts of no request", `INSERT INTO attempts VALUES ('req_none', 1, 1, 1, 200, '', '', NULL)`, "attempts belong to no request", true},
		{"a key of no request", `INSERT INTO idempotency_keys VALUES ('', 'k', x'00', 'req_none', 1)`, "idempotency keys belong to no request", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := settledFile(t)
			withFile(t, path, func(db *sql.DB) { mustExec(t, db, c.damage) })
			looks := func(repair bool) *Examination {
				t.Helper()
				found, err := Examine(t.Context(), path, repair)
				if err != nil {
					t.Fatal(err)
				}
				return found
			}
			for range 2 { // looking changes nothing
				found := looks(false)
				if found.Sound() != (c.finding == "") || c.finding != "" && !strings.Contains(found.Findings[0].Problem, c.finding) {
					t.Errorf("it finds %+v, want %q", found.Findings, c.finding)
				}
				for _, f := range found.Findings {
					if f.Repaired || f.Remedy == "" {
						t.Errorf("the finding is %+v", f)
					}
				}
			}
			if found := looks(true); c.finding != "" && found.Sound() != c.repaired {
				t.Errorf("the repair ends with %+v", found.Findings)
			}
			if found := looks(false); (c.repaired || c.finding == "") && len(found.Findings) > 0 {
				t.Errorf("after the repair it finds %+v", found.Findings)
			}
		})
	}
}

func TestExamineMakesADamagedIndexAnew(t *testing.T) {
	t.Parallel()
	path := settledFile(t)
	withFile(t, path, func(db *sql.DB) {
		// The rows of one index are those of another: each row is missing from it.
		mustExec(t, db, `
			PRAGMA writable_schema = ON;
			UPDATE sqlite_schema SET sql = 'CREATE INDEX requests_given_up ON requests (seq) WHERE callback_state = ''sent''' WHERE name = 'requests_given_up'`)
	})
	found, err := Examine(t.Context(), path, false)
	if err != nil || found.Sound() || !strings.Contains(found.Findings[0].Problem, "requests_given_up") {
		t.Fatalf("it finds %+v, %v", found, err)
	}
	if _, err := Open(context.WithoutCancel(t.Context()), path, Options{}); err == nil || !strings.Contains(err.Error(), "doctor") {
		t.Errorf("a service opens it: %v", err)
	}
	if found, err = Examine(t.Context(), path, true); err != nil || !found.Sound() || len(found.Findings) == 0 {
		t.Errorf("the repair ends with %+v, %v", found, err)
	}
	if found, err = Examine(t.Context(), path, false); err != nil || len(found.Findings) > 0 {
		t.Errorf("after the repair it finds %+v, %v", found, err)
	}
}

func TestExamineSaysThatAFileIsTooDamagedToBeRead(t *testing.T) {
	t.Parallel()
	whole, err := os.ReadFile(settledFile(t))
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	damaged := 0
	for at := page; at < len(whole); at += page {
		path := filepath.Join(t.TempDir(), "requests.db")
		file := slices.Concat(whole[:at], bytes.Repeat([]byte{0xa5}, page/2), whole[at+page/2:])
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, repair := range []bool{false, true} {
			found, err := Examine(t.Context(), path, repair)
			if err != nil { // with its way out, which is not the doctor
				if !strings.Contains(err.Error(), "restore") || strings.Contains(err.Error(), "doctor") {
					t.Errorf("page %d, repair %v: %v", at/page, repair, err)
				}
				continue
			}
			if !found.Sound() && strings.Contains(found.Findings[0].Problem, "damaged") && strings.Contains(found.Findings[0].Remedy, "restore") {
				damaged++
			}
		}
	}
	if damaged < 10 {
		t.Errorf("the damage of only %d pages is found", damaged)
	}
}

func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, copied := filepath.Join(dir, "requests.db"), filepath.Join(dir, "copy.db")
	b := openAt(t, path, Options{})
	first, second := kept(b.now()), kept(b.now())
	if err := b.Accept(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if n, err := Backup(t.Context(), path, copied); n == 0 || err != nil {
		t.Fatalf("backup beside a service: %d bytes, %v", n, err)
	}
	if err := b.Accept(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, err error, words ...string) {
		t.Helper()
		for _, word := range words {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("%s gives %v, want %q", what, err, word)
			}
		}
	}
	before, err := os.ReadFile(copied)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Backup(t.Context(), path, copied)
	refused("a backup over another", err, copied, "exists")
	if after, err := os.ReadFile(copied); err != nil || string(after) != string(before) {
		t.Errorf("it was overwritten, %v", err)
	}
	_, err = Backup(t.Context(), path, path)
	refused("a backup over the database itself", err, "exists")
	_, err = Backup(t.Context(), filepath.Join(dir, "none.db"), filepath.Join(dir, "x"))
	refused("a backup of nothing", err, "none.db")
	_, err = Backup(t.Context(), path, filepath.Join(dir, "none", "x"))
	refused("a backup into a missing folder", err, "none")
	_, err = Restore(t.Context(), copied, path, true)
	refused("a restore beside a service", err, "in use by process", "stop that first")
	_, err = Examine(t.Context(), path, true)
	refused("a repair beside a service", err, "in use by process")
	if found, err := Examine(t.Context(), path, false); err != nil || !found.Sound() || found.Requests != 2 {
		t.Errorf("beside a service it finds %+v, %v", found, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}

	_, err = Restore(t.Context(), copied, path, false)
	refused("a restore over a database", err, path, "--replace")
	_, err = Restore(t.Context(), path, path, true)
	refused("a restore of itself", err, "same file")
	damaged := filepath.Join(dir, "damaged.db")
	if err := os.WriteFile(damaged, before[:len(before)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Restore(t.Context(), damaged, path, true)
	refused("a restore of half a backup", err, damaged, "damaged")
	other := filepath.Join(dir, "other.db")
	withFile(t, other, func(db *sql.DB) { mustExec(t, db, `CREATE TABLE t (a)`) })
	_, err = Restore(t.Context(), other, path, true)
	refused("a restore of another program's database", err, other, "no database of tandem")
	if found, err := Examine(t.Context(), path, false); err != nil || found.Requests != 2 {
		t.Fatalf("refused restores leave %+v, %v", found, err)
	}

	replaced, err := Restore(t.Context(), copied, path, true)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]int64{path: 1, replaced: 2, copied: 1} {
		if found, err := Examine(t.Context(), file, false); err != nil || !found.Sound() || found.Requests != want {
			t.Errorf("%s is %+v, %v; want %d requests", file, found, err, want)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		if name := entry.Name(); strings.HasSuffix(name, "-wal") || strings.Count(name, ".") > 1 && !strings.Contains(name, "replaced") && name != "requests.db.lock" {
			t.Errorf("%s is left", name)
		}
	}
	b = openAt(t, path, Options{})
	if _, err := b.Request(t.Context(), first.ID); err != nil {
		t.Error(err)
	}
	if n, oldest, err := b.Backlog(t.Context()); n != 1 || oldest.IsZero() || err != nil {
		t.Errorf("the backlog of the restored database is %d, %v", n, err)
	}
}

func TestARestoreOverADeadServicesWALDoesNotTakeItForItsOwn(t *testing.T) {
	t.Parallel()
	w := writeDatabase(t)
	dir := t.TempDir()
	path, copied := filepath.Join(dir, "requests.db"), filepath.Join(dir, "copy.db")
	b := openAt(t, path, Options{})
	if err := b.Accept(t.Context(), kept(b.now())); err != nil {
		t.Fatal(err)
	}
	if _, err := Backup(t.Context(), path, copied); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{path: w.file, path + "-wal": w.wal} { // as a kill leaves them
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	replaced, err := Restore(t.Context(), copied, path, true)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]int64{path: 1, replaced: int64(len(w.ids))} {
		if found, err := Examine(t.Context(), file, false); err != nil || !found.Sound() || found.Requests != want {
			t.Errorf("%s is %+v, %v; want %d requests", file, found, err, want)
		}
	}
}

func TestTwoNamesOfOneFileAreLockedAsOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, link := filepath.Join(dir, "requests.db"), filepath.Join(dir, "link.db")
	openAt(t, path, Options{})
	if err := os.Symlink(path, link); err != nil {
		t.Skip("no links here:", err)
	}
	if b, err := Open(context.WithoutCancel(t.Context()), link, Options{}); err == nil {
		b.Close()
		t.Error("a file was opened twice, by two names")
	} else if !strings.Contains(err.Error(), "in use by process") {
		t.Error(err)
	}
}
