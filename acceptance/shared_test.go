package acceptance

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"tandem/webhook"
)

// A breaker that one process has opened holds for another, which has met no
// failure of the host. Once it is half-open one of them finds out, and what that
// one finds holds for both.
func TestABreakerIsSharedByProcesses(t *testing.T) {
	parallel(t)
	needSignals(t)
	database := migrated.Database(t)
	secrets := map[string]webhook.Secret{"one": webhook.NewSecret(), "two": webhook.NewSecret()}
	process := func(name string) *service {
		return serveIn(t, t.TempDir(), []string{"TANDEM_CALLBACK_SECRET=" + secrets[name].Reveal()}, "--database", database, "--callback-per-host", "1")
	}
	probing, answer := newGate(), newGate()
	t.Cleanup(answer.open)
	rcv := receive(t, func(w http.ResponseWriter, r *http.Request, _ delivery) {
		if !probing.isOpen() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		answer.pass(r)
	})
	host := strings.TrimSuffix(strings.TrimPrefix(rcv.url, "http://"), "/hook")
	breaker := func(s *service) string {
		for _, h := range s.stats().Callbacks.Hosts {
			if h.Host == host {
				return h.Breaker
			}
		}
		return ""
	}
	submit := func(n int, among ...*service) (ids []string) {
		for i := range n {
			ids = append(ids, among[i%len(among)].async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url}))
		}
		return ids
	}
	db := openPostgres(t, database)
	putOff := func(ids []string) (n int) {
		err := db.QueryRow(`SELECT count(*) FROM river_job WHERE kind = 'deliver' AND args->>'id' = ANY($1) AND (metadata->>'snoozes')::int > 0`,
			pgtype.FlatArray[string](ids)).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	one := process("one")
	submit(5, one)
	for range 5 {
		rcv.next().verify(t, secrets["one"])
	}
	eventually(t, "the breaker is open", func() bool { return breaker(one) == "open" })
	two := process("two")
	eventually(t, "the other process knows", func() bool { return breaker(two) == "open" })
	one.stop(t)
	owed := submit(4, two)
	eventually(t, "they are put off", func() bool { return putOff(owed) == 4 })
	for _, id := range owed {
		if rec := two.record(id); rec.Status != "completed" || rec.Callback.State != "pending" || rec.Callback.Attempts != 0 {
			t.Errorf("a callback that is put off reads %v", rec)
		}
	}
	if n := len(rcv.received()); n != 5 {
		t.Fatalf("the other process made %d attempts while the breaker was open", n-5)
	}

	two.stop(t)
	probing.open()
	// As if a minute had passed.
	if _, err := db.Exec(`UPDATE breakers SET open_till = (extract(epoch FROM now()) * 1000000)::bigint WHERE host = $1`, host); err != nil {
		t.Fatal(err)
	}
	one, two = process("one"), process("two")
	for _, s := range []*service{one, two} {
		eventually(t, "the breaker is half-open", func() bool { return breaker(s) == "half_open" })
	}
	owed = submit(6, one, two) // the first five are due again, too
	eventually(t, "all but the probe are put off", func() bool { return len(rcv.received()) == 6 && putOff(owed) >= 5 })
	if n := len(rcv.received()); n != 6 {
		t.Errorf("%d attempts were made to find out, want 1", n-5)
	}
	answer.open()
	for _, id := range owed {
		if rec := one.settled(id); rec.Status != "callback_sent" || rec.Callback.Attempts != 1 {
			t.Errorf("a callback after the probe reads %v", rec)
		}
	}
	for _, s := range []*service{one, two} {
		eventually(t, "the breaker is closed", func() bool { b := breaker(s); return b == "" || b == "closed" })
	}
	for _, d := range rcv.received()[5:] {
		d.verify(t, secrets["one"], secrets["two"])
	}
	var left int
	if err := db.QueryRow(`SELECT count(*) FROM breakers`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d hosts are still known to be ill, %v", left, err)
	}
}

// Callers ask several processes at once, and get no more in all than one of
// them may give. A process may keep a twentieth of the rate for a moment, for
// requests that do not come.
func TestARateLimitIsSharedByProcesses(t *testing.T) {
	parallel(t)
	database := migrated.Database(t)
	key, _ := newKey(t, database, "ann", "--rate", "40/1h")
	other, _ := newKey(t, database, "bob")
	var processes []*service
	for range 2 {
		processes = append(processes, serve(t, "--database", database, "--require-keys", "--rate-limit", "60/1h"))
	}
	for _, caller := range []struct {
		key  string
		rate int64
	}{{key, 40}, {other, 60}} {
		var accepted, refused atomic.Int64
		var posting sync.WaitGroup
		for _, s := range processes {
			who := s.as(caller.key)
			for range 4 {
				posting.Go(func() {
					for range 25 {
						a, err := who.try("POST", "/async", quick)
						switch {
						case err != nil:
							t.Error(err)
						case a.status == http.StatusAccepted:
							accepted.Add(1)
						case a.status == http.StatusTooManyRequests && a.header.Get("Retry-After") != "":
							refused.Add(1)
						default:
							t.Errorf("POST /async: %d %v %s", a.status, a.header, a.body)
						}
					}
				})
			}
		}
		posting.Wait()
		if n, kept := accepted.Load(), 2*caller.rate/20; n > caller.rate || n < caller.rate-kept || n+refused.Load() != 200 {
			t.Errorf("of 200 requests %d were accepted and %d refused, want %d or at most %d less", n, refused.Load(), caller.rate, kept)
		}
	}
}

func TestARevokedKeyIsTurnedAwayByAllProcesses(t *testing.T) {
	parallel(t)
	database := migrated.Database(t)
	key, _ := newKey(t, database, "ann")
	processes := []*service{
		serve(t, "--database", database, "--require-keys"),
		serve(t, "--database", database, "--require-keys", "--roles", "api"),
		serve(t, "--database", database, "--require-keys", "--database-poll-only"),
	}
	for _, s := range processes {
		s.as(key).async(quick)
	}
	young, _ := newKey(t, database, "bob") // while they run
	for _, s := range processes {
		bob := s.as(young)
		eventually(t, "the new key is let in", func() bool { return bob.get("/requests").status == http.StatusOK })
	}
	if _, stderr, code := run(t, nil, "keys", "revoke", "--database", database, "--name", "ann"); code != 0 {
		t.Fatalf("revoke: %d %s", code, stderr)
	}
	revoked := time.Now()
	for _, s := range processes {
		eventually(t, "the revoked key is turned away", func() bool { return s.as(key).get("/requests").status != http.StatusOK })
	}
	wantSoon(t, "the revoked key was good for", time.Since(revoked), time.Second)
}
