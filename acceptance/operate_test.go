package acceptance

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

func TestASecondServerOnAFileIsRefusedAndSaysWhoHasIt(t *testing.T) {
	parallel(t)
	dir := t.TempDir()
	file, link := filepath.Join(dir, "requests.db"), filepath.Join(dir, "link.db")
	s := serve(t, "--database", file)
	if err := os.Symlink(file, link); err != nil {
		link = file // no links here
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	by := []string{file, fmt.Sprintf("process %d", s.cmd.Process.Pid), host, "since 20"}
	for _, name := range []string{file, link} {
		_, stderr, code := run(t, nil, "serve", "--addr", "127.0.0.1:0", "--database", name)
		oneLine(t, stderr, code, by...)
	}
	backup := filepath.Join(dir, "copy.db")
	if stdout, stderr, code := run(t, nil, "backup", backup, "--database", file); code != 0 || !strings.Contains(stdout, backup) {
		t.Errorf("backup beside a server ends with %d: %s%s", code, stdout, stderr)
	}
	_, stderr, code := run(t, nil, "restore", backup, "--replace", "--database", file)
	oneLine(t, stderr, code, by...)
	_, stderr, code = run(t, nil, "doctor", "--repair", "--database", file)
	oneLine(t, stderr, code, by...)
	if _, stderr, code := run(t, nil, "keys", "create", "--name", "a", "--database", file); code != 0 {
		t.Errorf("keys beside a server ends with %d: %s", code, stderr)
	}
	if stdout, stderr, code := run(t, nil, "doctor", "--database", file); code != 0 || !strings.Contains(stdout, "sound") {
		t.Errorf("doctor beside a server ends with %d: %s%s", code, stdout, stderr)
	}
	s.async(quick)
	s.kill() // the lock ends with the process
	serve(t, "--database", file)
}

func TestABackupUnderLoadIsRestoredWhole(t *testing.T) {
	parallel(t)
	needSignals(t)
	dir := t.TempDir()
	file, backup := filepath.Join(dir, "requests.db"), filepath.Join(dir, "copy.db")
	s := serve(t, "--database", file, "--rounds", "1000")
	var before, during sync.Map
	var n atomic.Int64
	stop := make(chan struct{})
	var posting sync.WaitGroup
	for range 4 {
		posting.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, err := s.try("POST", "/async", quick)
				if err != nil || a.status != 202 {
					t.Errorf("beside a backup POST /async answers %d, %v", a.status, err)
					return
				}
				during.Store(strings.TrimPrefix(a.header.Get("Location"), "/requests/"), true)
				n.Add(1)
			}
		})
	}
	eventually(t, "some are accepted", func() bool { return n.Load() >= 200 })
	during.Range(func(id, _ any) bool { before.Store(id, true); return true })
	if stdout, stderr, code := run(t, nil, "backup", backup, "--database", file); code != 0 {
		t.Errorf("backup ends with %d: %s%s", code, stdout, stderr)
	}
	at := n.Load()
	eventually(t, "more are accepted", func() bool { return n.Load() >= at+50 })
	close(stop)
	posting.Wait()
	s.stop(t)

	_, stderr, code := run(t, nil, "backup", backup, "--database", file)
	oneLine(t, stderr, code, backup, "exists")
	_, stderr, code = run(t, nil, "restore", backup, "--database", file)
	oneLine(t, stderr, code, file, "--replace")
	stdout, stderr, code := run(t, nil, "restore", backup, "--replace", "--database", file)
	if code != 0 || !strings.Contains(stdout, ".replaced-") {
		t.Fatalf("restore ends with %d: %s%s", code, stdout, stderr)
	}
	s = serve(t, "--database", file, "--rounds", "1000")
	var rows []record
	eventually(t, "what was restored is worked", func() bool {
		rows = s.history("")
		for _, r := range rows {
			if !r.worked() {
				return false
			}
		}
		return true
	})
	there := make(map[string]bool)
	for _, r := range rows {
		there[r.RequestID] = true
		if _, accepted := during.Load(r.RequestID); !accepted {
			t.Errorf("%s was never accepted", r)
		}
	}
	before.Range(func(id, _ any) bool {
		if !there[id.(string)] {
			t.Errorf("%s was accepted before the backup and is not in it", id)
		}
		return true
	})
	countersFit(t, s, rows)
	s.stop(t)
	soundFile(t, file)
}

func TestTheDoctorRepairsCounters(t *testing.T) {
	parallel(t)
	needSignals(t)
	file := newFile(t)
	s := serve(t, "--database", file)
	for range 3 {
		s.sync(quick)
	}
	s.stop(t)
	db := openFile(t, file)
	if _, err := db.Exec(`UPDATE request_counters SET requests = 7`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	stdout, stderr, code := run(t, nil, "doctor", "--database", file)
	oneLine(t, stderr, code, "not sound")
	if !strings.Contains(stdout, "7 requests are counted, 3 are there") || !strings.Contains(stdout, "--repair") {
		t.Errorf("the doctor says %s", stdout)
	}
	if stdout, stderr, code := run(t, nil, "doctor", "--repair", "--database", file); code != 0 || !strings.Contains(stdout, "repaired") {
		t.Errorf("the repair ends with %d: %s%s", code, stdout, stderr)
	}
	if stdout, _, code := run(t, nil, "doctor", "--database", file); code != 0 || !strings.Contains(stdout, "sound") {
		t.Errorf("after the repair it says %d: %s", code, stdout)
	}
	s = serve(t, "--database", file)
	countersFit(t, s, s.history(""))

	for _, args := range [][]string{
		{"doctor", "--database", filepath.Join(t.TempDir(), "none.db")},
		{"doctor", "--database", ":memory:"},
		{"backup", filepath.Join(t.TempDir(), "none", "copy.db"), "--database", file},
		{"restore", filepath.Join(t.TempDir(), "none.db"), "--database", newFile(t)},
	} {
		_, stderr, code := run(t, nil, args...)
		oneLine(t, stderr, code)
	}
}

func TestRetainDeletesWhatIsSettledAndOld(t *testing.T) {
	onEach(t, retainDeletesWhatIsSettledAndOld)
}

func retainDeletesWhatIsSettledAndOld(t *testing.T, file string) {
	needSignals(t)
	rcv := receive(t, func(w http.ResponseWriter, _ *http.Request, d delivery) {
		if strings.Contains(d.path, "refused") {
			w.WriteHeader(503)
		}
	})
	s := serve(t, "--database", file, "--retain", "1s", "--callback-attempts", "20")
	owed := s.async(submission{Data: data, CallbackURL: rcv.url + "?refused"})
	sent := s.async(submission{Data: data, CallbackURL: rcv.url})
	plain, _ := s.sync(quick)
	eventually(t, "what is settled is deleted", func() bool {
		return s.get("/requests/"+sent).status == 404 && s.get("/requests/"+plain).status == 404
	})
	if rec := s.record(owed); rec.settled() || len(s.attempts(owed)) == 0 {
		t.Errorf("what still owes a callback is %s", rec)
	}
	rows := s.history("")
	countersFit(t, s, rows)
	if len(rows) != 1 || s.stats().Requests.Pruned != 2 {
		t.Errorf("/stats counts %d as deleted, the history has %v", s.stats().Requests.Pruned, rows)
	}
	s.stop(t)
	soundFile(t, file)
	if !onPostgres(file) {
		if stdout, _, code := run(t, nil, "doctor", "--database", file); code != 0 {
			t.Errorf("the doctor says %s", stdout)
		}
	}
	_, stderr, code := run(t, nil, "serve", "--retain", "1ms")
	oneLine(t, stderr, code, "--retain")
}

// A backlog is paged in: memory does not grow with it, and each request is
// worked once, in the order of acceptance.
func TestABacklogLeftByARunIsDrained(t *testing.T) {
	onEach(t, aBacklogLeftByARunIsDrained)
}

func aBacklogLeftByARunIsDrained(t *testing.T, file string) {
	needSignals(t)
	backlog := 5000 // several times what is held in memory
	if onPostgres(file) {
		backlog = 1000
	} else if raced {
		backlog = 2500
	}
	s := serve(t, "--database", file, "--paused")
	var next atomic.Int64
	var posting sync.WaitGroup
	for range 16 {
		posting.Go(func() {
			for next.Add(1) <= int64(backlog) {
				if a, err := s.try("POST", "/async", quick); err != nil || a.status != 202 {
					t.Errorf("POST /async answers %d, %v", a.status, err)
					return
				}
			}
		})
	}
	posting.Wait()
	s.signal(t, syscall.SIGTERM)
	s.wait(t)

	s = serve(t, "--database", file, "--rounds", "1000")
	eventually(t, "all is worked", func() bool { return s.stats().Requests.Completed == backlog })
	s.stop(t)
	var rows, twice int
	if err := openDatabase(t, file).QueryRow(`SELECT count(*), count(*) FILTER (WHERE starts <> 1) FROM requests`).Scan(&rows, &twice); err != nil || rows != backlog || twice != 0 {
		t.Errorf("%d requests are on record, %d not started once, %v", rows, twice, err)
	}
	soundFile(t, file)
}
