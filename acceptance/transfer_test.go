package acceptance

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"tandem/internal/postgrestest"
)

func TestAServiceMovesToPostgresAndGoesOn(t *testing.T) {
	parallel(t)
	needSignals(t)
	file := filepath.Join(t.TempDir(), "requests.db")
	database := postgrestest.Database(t)
	key, _ := newKey(t, file, "alice")
	moved := newGate()
	rcv := receive(t, func(w http.ResponseWriter, _ *http.Request, _ delivery) {
		if !moved.isOpen() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	old := serve(t, "--database", file, "--require-keys").as(key)
	done := old.async(quick)
	old.settled(done)
	owed := old.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	old.until(owed, "an attempt has failed", func(r *record) bool { return r.Callback.Attempts == 1 })
	old.stop(t)
	paused := serve(t, "--database", file, "--require-keys", "--paused").as(key)
	waiting := submission{Workload: "wait", Data: data, CallbackURL: rcv.url}
	var rec record
	paused.send("POST", "/async", waiting, "Idempotency-Key", "once").decode(t, http.StatusAccepted, &rec)
	pending := rec.RequestID
	if _, stderr, code := run(t, nil, "transfer", "--from", file, "--to", database); code != 1 || !strings.Contains(stderr, "in use by process") {
		t.Fatalf("beside a running service, transfer ends with %d: %s", code, stderr)
	}
	paused.stop(t)

	stdout, stderr, code := run(t, []string{"TANDEM_TRANSFER_TO=" + database}, "transfer", "--from", file)
	if code != 0 || !strings.Contains(stdout, "owed  1 requests to be worked, 1 callbacks to be delivered") {
		t.Fatalf("transfer ends with %d: %s%s", code, stdout, stderr)
	}
	moved.open()
	s := serve(t, "--database", database, "--require-keys").as(key)
	for _, id := range []string{owed, pending} {
		if rec := s.settled(id); rec.Status != "callback_sent" {
			t.Errorf("%s was owed, and reads %v", id, rec)
		}
	}
	if rec := s.record(done); rec.Status != "completed" {
		t.Errorf("what was done reads %v", rec)
	}
	if attempts := s.attempts(owed); len(attempts) < 2 {
		t.Errorf("the attempts before and after the move are %v", attempts)
	}
	s.send("POST", "/async", waiting, "Idempotency-Key", "once").decode(t, http.StatusAccepted, &rec)
	if rec.RequestID != pending {
		t.Errorf("the Idempotency-Key stands for %s, want %s", rec.RequestID, pending)
	}
	countersFit(t, s, s.history(""))
}

func TestTransferSaysWhatIsWrong(t *testing.T) {
	parallel(t)
	for _, c := range []struct{ from, to, says string }{
		{"postgres://127.0.0.1:1/x", "postgres://127.0.0.1:1/x", "--from"},
		{"requests.db", "other.db", "--to"},
		{filepath.Join(t.TempDir(), "none.db"), "postgres://127.0.0.1:1/x", "no such database"},
	} {
		if _, stderr, code := run(t, nil, "transfer", "--from", c.from, "--to", c.to); code != 1 || !strings.Contains(stderr, c.says) {
			t.Errorf("transfer --from %s --to %s ends with %d: %s", c.from, c.to, code, stderr)
		}
	}
}
