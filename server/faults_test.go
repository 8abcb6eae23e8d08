package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"tandem/internal/postgrestest"
	"tandem/server"
	"tandem/work"
)

// badWork is work that does what it must not: it panics, it never returns, or it
// ignores its context and returns late.
type badWork struct {
	release chan struct{} // closed: what was stuck returns
	entered chan struct{}
}

func newBadWork() *badWork {
	return &badWork{release: make(chan struct{}), entered: make(chan struct{}, 1000)}
}

func (b *badWork) kinds() []work.Kind {
	kind := func(name string, f work.Func) work.Kind {
		return work.Kind{Name: name, Class: work.Waits, Func: f}
	}
	return []work.Kind{
		kind("panics", func(context.Context, work.Input) (json.RawMessage, error) { panic("out of order") }),
		kind("panics-late", func(ctx context.Context, _ work.Input) (json.RawMessage, error) {
			<-ctx.Done()
			panic("out of order, and late")
		}),
		kind("never-returns", func(context.Context, work.Input) (json.RawMessage, error) {
			b.entered <- struct{}{}
			<-b.release
			return json.RawMessage(`"at last"`), nil
		}),
		kind("ends-its-goroutine", func(context.Context, work.Input) (json.RawMessage, error) {
			runtime.Goexit()
			return nil, nil
		}),
		kind("is-well", func(context.Context, work.Input) (json.RawMessage, error) { return json.RawMessage(`"well"`), nil }),
	}
}

// onEach runs a test in memory and on an empty Postgres.
func onEach(t *testing.T, test func(t *testing.T, database string)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) { test(t, server.Memory) })
	t.Run("postgres", func(t *testing.T) { test(t, postgrestest.Database(t)) })
}

// record is as much of a request as these tests look at.
type record struct {
	RequestID string  `json:"request_id"`
	Status    string  `json:"status"`
	ErrorCode *string `json:"error_code"`
}

func fetch[T any](t *testing.T, s *server.Server, path string) (v T) {
	t.Helper()
	answer, err := http.Get("http://" + s.Addr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// metric returns a figure of /metrics as it is written there.
func metric(t *testing.T, s *server.Server, name string) string {
	t.Helper()
	answer, err := http.Get("http://" + s.Addr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return value
		}
	}
	return ""
}

func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !yes(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain waited until %s", what)
		}
	}
}

// Work that breaks its contract fails its request and nothing else: the only
// slot goes on with the next.
func TestWorkThatBreaksItsContractFailsAlone(t *testing.T) {
	onEach(t, workThatBreaksItsContractFailsAlone)
}

func workThatBreaksItsContractFailsAlone(t *testing.T, database string) {
	bad := newBadWork()
	defer close(bad.release)
	s := start(t, server.Options{Database: database, Workloads: bad.kinds(), IOConcurrency: 1, WorkTimeout: 100 * time.Millisecond})
	for _, row := range []struct {
		workload string
		status   int
		code     string
	}{
		{"panics", http.StatusInternalServerError, "panic"},
		{"panics-late", http.StatusGatewayTimeout, "timeout"},
		{"never-returns", http.StatusGatewayTimeout, "timeout"},
		{"ends-its-goroutine", http.StatusInternalServerError, "panic"},
		{"is-well", http.StatusOK, ""},
	} {
		body := fmt.Sprintf(`{"data":{"a":1},"workload":%q}`, row.workload)
		began := time.Now()
		if answer := post(t, s, "/sync", body); answer.StatusCode != row.status {
			t.Errorf("%s: POST /sync answers %d, want %d", row.workload, answer.StatusCode, row.status)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: it took %v to answer", row.workload, took)
		}
		answer := post(t, s, "/async", body)
		got := fetch[record](t, s, answer.Header.Get("Location")+"?wait=20s")
		code := ""
		if got.ErrorCode != nil {
			code = *got.ErrorCode
		}
		if code != row.code {
			t.Errorf("%s: the request is %s with %q, want %q", row.workload, got.Status, code, row.code)
		}
		if busy := metric(t, s, `tandem_slots_busy{lane="io"}`); busy != "0" && row.workload == "is-well" {
			t.Errorf("%s slots are busy when all has ended", busy)
		}
	}
	if n := metric(t, s, `tandem_abandoned_work{lane="io"}`); n != "2" {
		t.Errorf("%s abandoned, want the two that never return", n)
	}
}

// Past twice the slots of abandoned work the slots are held, and /readyz says
// so; when the work returns after all, everything is as it was.
func TestTooMuchAbandonedWorkHoldsItsSlots(t *testing.T) {
	onEach(t, tooMuchAbandonedWorkHoldsItsSlots)
}

func tooMuchAbandonedWorkHoldsItsSlots(t *testing.T, database string) {
	const slots = 2
	bad := newBadWork()
	s := start(t, server.Options{Database: database, Workloads: bad.kinds(), IOConcurrency: slots, WorkTimeout: 50 * time.Millisecond, SyncQueueTimeout: 100 * time.Millisecond})
	ready := func() int { return getStatus(t, "http://"+s.Addr()+"/readyz") }
	const stuck, well = `{"data":{"a":1},"workload":"never-returns"}`, `{"data":{"a":1},"workload":"is-well"}`
	for range 2 * slots {
		if answer := post(t, s, "/sync", stuck); answer.StatusCode != http.StatusGatewayTimeout {
			t.Fatalf("stuck work is answered with %d", answer.StatusCode)
		}
	}
	if answer := post(t, s, "/sync", well); answer.StatusCode != http.StatusOK || ready() != http.StatusOK {
		t.Fatalf("with %d abandoned Funcs: %d, ready %d", 2*slots, answer.StatusCode, ready())
	}
	for range slots {
		if answer := post(t, s, "/sync", stuck); answer.StatusCode != http.StatusGatewayTimeout {
			t.Fatalf("stuck work is answered with %d", answer.StatusCode)
		}
	}
	if answer := post(t, s, "/sync", well); answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" {
		t.Errorf("with every slot held: %d", answer.StatusCode)
	}
	if ready() != http.StatusServiceUnavailable {
		t.Error("/readyz does not fail while slots are held")
	}
	if got := metric(t, s, `tandem_abandoned_work{lane="io"}`); got != fmt.Sprint(3*slots) {
		t.Errorf("%s abandoned, want %d", got, 3*slots)
	}
	if getStatus(t, "http://"+s.Addr()+"/healthz") != http.StatusOK {
		t.Error("/healthz fails")
	}
	close(bad.release)
	eventually(t, "the slots are free again", func() bool { return ready() == http.StatusOK })
	if answer := post(t, s, "/sync", well); answer.StatusCode != http.StatusOK {
		t.Errorf("after all returned: %d", answer.StatusCode)
	}
	if got := metric(t, s, `tandem_abandoned_work{lane="io"}`); got != "0" {
		t.Errorf("%s abandoned after all returned", got)
	}
}

// A hundred callers leave, some while they wait for the only slot and one while
// its work runs. No work is done for those who are gone, and the slot is free.
func TestWorkOfCallersWhoLeftIsNotDone(t *testing.T) {
	onEach(t, workOfCallersWhoLeftIsNotDone)
}

func workOfCallersWhoLeftIsNotDone(t *testing.T, database string) {
	const callers = 100
	var began, ended = make(chan struct{}, callers), make(chan error, callers)
	s := start(t, server.Options{Database: database, IOConcurrency: 1, SyncQueueTimeout: time.Minute, Workloads: []work.Kind{{
		Name: "watched", Class: work.Waits,
		Func: func(ctx context.Context, _ work.Input) (json.RawMessage, error) {
			began <- struct{}{}
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return nil, ctx.Err()
		},
	}}})
	const body = `{"data":{"a":1},"workload":"watched"}`
	var conns []net.Conn
	for range callers {
		c, err := net.Dial("tcp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := fmt.Fprintf(c, "POST /sync HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	<-began
	type lanes struct {
		System struct {
			Lanes []struct {
				Lane         string `json:"lane"`
				Busy         int    `json:"busy"`
				SyncInFlight int    `json:"sync_in_flight"`
				SyncRefused  int    `json:"sync_refused"`
			} `json:"lanes"`
		} `json:"system"`
	}
	admitted := 0
	eventually(t, "all have come", func() bool {
		io := fetch[lanes](t, s, "/stats").System.Lanes[1]
		admitted = io.SyncInFlight
		return io.SyncInFlight+io.SyncRefused == callers
	})
	for _, c := range conns {
		c.Close()
	}
	if err := <-ended; err == nil {
		t.Error("the work was not told why")
	}
	eventually(t, "nobody waits any more", func() bool {
		io := fetch[lanes](t, s, "/stats").System.Lanes[1]
		return io.SyncInFlight == 0 && io.Busy == 0
	})
	if n := 1 + len(began); n > admitted/2 { // one ran; others get the slot before they are known to have left
		t.Errorf("work was begun for %d of %d callers", n, callers)
	}
	for _, r := range fetch[[]record](t, s, "/requests?mode=sync") {
		if r.Status != "failed" || r.ErrorCode == nil || *r.ErrorCode != "client_gone" {
			t.Errorf("on record is %+v", r)
		}
	}
	t.Logf("%d callers, %d admitted, work begun for %d", callers, admitted, 1+len(began))
	answer, err := http.Post("http://"+s.Addr()+"/sync", "application/json", strings.NewReader(`{"data":{"a":1},"workload":"wait"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, _ := io.ReadAll(answer.Body); answer.StatusCode != http.StatusOK {
		t.Errorf("the next caller gets %d %s", answer.StatusCode, text)
	}
}
