package acceptance

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// mount gives the test a file system of its own, of so many megabytes.
func mount(t *testing.T, megabytes string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+megabytes+"m"); err != nil {
		t.Skip("no file system can be mounted here; internal/embedded tests a full disk by a limit of pages:", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestAFullDiskRefusesAcceptsAndRecoversByItself(t *testing.T) {
	parallel(t)
	dir := mount(t, "24")
	rcv := receive(t, nil)
	file, ballast := filepath.Join(dir, "requests.db"), filepath.Join(dir, "ballast")
	s := serve(t, "--database", file, "--rounds", "1000")
	sub := submission{Workload: "wait", Data: map[string]any{"text": strings.Repeat("x", 4000)}, CallbackURL: rcv.url}
	accepted := make(map[string]bool)
	post := func() answer {
		a := s.post("/async", sub)
		if a.status == http.StatusAccepted {
			accepted[strings.TrimPrefix(a.header.Get("Location"), "/requests/")] = true
		}
		return a
	}
	for range 100 {
		post()
	}
	fillDisk(t, ballast)
	var full answer
	eventually(t, "accepts are refused", func() bool { full = post(); return full.status != http.StatusAccepted })
	if p := full.problem(t, http.StatusServiceUnavailable); p.ErrorCode != "unavailable" {
		t.Errorf("on a full disk POST /async answers %s", full.body)
	}
	full.retryAfter(t)
	s.post("/sync", submission{Workload: sub.Workload, Data: sub.Data}).problem(t, http.StatusServiceUnavailable)
	s.get("/readyz").problem(t, http.StatusServiceUnavailable)
	for id := range accepted { // reads go on
		if a := s.get("/requests/" + id); a.status != http.StatusOK {
			t.Errorf("on a full disk %s reads %d", id, a.status)
			break
		}
	}
	s.history("")
	s.stats()

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, "accepts go on", func() bool { return post().status == http.StatusAccepted })
	eventually(t, "it is ready", func() bool { return s.get("/readyz").status == http.StatusOK })
	eventually(t, "the outcome of the sync request is on record too", func() bool { return len(s.history("&mode=sync&status=completed")) == 1 })
	var rows []record
	eventually(t, "all requests are settled", func() bool {
		rows = s.history("")
		return !slices.ContainsFunc(rows, func(r record) bool { return !r.settled() })
	})
	came := rcv.byID()
	again := 0
	for _, r := range rows {
		delete(accepted, r.RequestID)
		if r.Mode == "async" && (r.Status != "callback_sent" || came[r.RequestID] == 0) {
			t.Errorf("%s, and %d callbacks came", r, came[r.RequestID])
		}
		again += max(0, came[r.RequestID]-1)
	}
	if len(accepted) > 0 {
		t.Errorf("%d were accepted and are gone", len(accepted))
	}
	if again > 0 {
		t.Errorf("%d callbacks came again: an attempt is recorded before the next is made", again)
	}
	countersFit(t, s, rows)
	t.Logf("%d requests over a full disk, all settled", len(rows))
	s.stop(t)
	soundFile(t, file)
}

// fillDisk writes a file until there is no room.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for chunk := make([]byte, 4096); ; {
		if _, err := file.Write(chunk); err != nil {
			return
		}
	}
}

func TestAFileThatCannotBeWrittenIsRefusedAtStart(t *testing.T) {
	parallel(t)
	needSignals(t)
	made := newFile(t)
	serve(t, "--database", made).stop(t)
	content, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	dir := mount(t, "4") // even root cannot write to what is mounted read-only
	file := filepath.Join(dir, "requests.db")
	for _, name := range []string{file, file + ".lock"} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := run(t, nil, "serve", "--addr", "127.0.0.1:0", "--database", file)
	oneLine(t, stderr, code, file, "read-only")
	_, stderr, code = run(t, nil, "serve", "--addr", "127.0.0.1:0", "--database", filepath.Join(dir, "other.db"))
	oneLine(t, stderr, code, "other.db", "read-only")
}
