package acceptance

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var overloadLength = flag.Duration("overload.length", 5*time.Second, "how long ten times the capacity is offered")

// figures runs the lab against the service and returns the figures of its
// report; what has none is missing. They do not count if the generator was late,
// as on a busy machine.
func figures(t *testing.T, s *service, args ...string) (all map[string]float64, count bool) {
	t.Helper()
	dir := t.TempDir()
	p := start(t, dir, []string{"TANDEM_CALLBACK_SECRET=" + secret.Reveal()},
		append([]string{"load", "--url", s.url(), "--callback-port", "0", "--output", "r.json"}, args...)...)
	<-p.exited
	code := p.cmd.ProcessState.ExitCode()
	if code != 0 && code != 3 {
		t.Fatalf("tandem load ends with %d:\n%s", code, tail(p.stderr.String(), 2000))
	}
	text, _, _ := run(t, nil, "report", "--json", filepath.Join(dir, "r.json"))
	var report struct {
		Figures map[string]*float64 `json:"figures"`
	}
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	all = make(map[string]float64)
	for name, figure := range report.Figures {
		if figure != nil {
			all[name] = *figure
		}
	}
	return all, code == 0
}

// Ten times what the service can do is offered. It goes on doing what it can,
// answers those whom it takes about as soon as before, and tells the others at
// once when to come back. The work waits, so that what else this machine does
// changes neither capacity nor latency by much; go run ./bench overload does it
// with work that computes.
func TestTenTimesTheCapacityOfAsync(t *testing.T) {
	onEachAlone(t, func(t *testing.T, database string) { tenTimesTheCapacity(t, "async", database) })
}

// What admits sync requests is the same on each kind of database.
func TestTenTimesTheCapacityOfSync(t *testing.T) {
	alone(t)
	tenTimesTheCapacity(t, "sync", newFile(t))
}

func tenTimesTheCapacity(t *testing.T, mode, database string) {
	const slots, complexity, length = 4, 10, 100 * time.Millisecond
	const capacity = slots * float64(time.Second/length)
	s := serve(t, "--database", database, "--io-concurrency", fmt.Sprint(slots), "--max-pending", "100", "--callback-per-host", "64")
	ratio := map[string]string{"sync": "1", "async": "0"}[mode]
	work := submission{Workload: "wait", Complexity: complexity, Data: data}
	load, count := figures(t, s, "--sync-ratio", ratio, "--workload", "wait", "--complexity", fmt.Sprint(complexity),
		"--rate", fmt.Sprint(10*capacity), "--duration", overloadLength.String())
	ended := time.Now()
	normal := func() bool {
		began := time.Now()
		if mode == "sync" {
			return s.post("/sync", work).status == http.StatusOK && time.Since(began) < length+60*time.Millisecond
		}
		id := s.post("/async", work)
		if id.status != http.StatusAccepted {
			return false
		}
		s.worked(strings.TrimPrefix(id.header.Get("Location"), "/requests/"))
		return time.Since(began) < length+160*time.Millisecond
	}
	eventually(t, "latency is normal again", normal)
	recovered := time.Since(ended)

	goodput, tail := load[mode+".completed_per_s"], "p99"
	slowest, enough := load[mode+".response."+tail]
	if !enough {
		tail = "p95"
		slowest = load[mode+".response."+tail]
	}
	t.Logf("at ten times the capacity of %.0f/s %.1f/s (%.0f %%), %s of what is accepted %.0f ms, latency normal %v after",
		capacity, goodput, 100*goodput/capacity, tail, 1000*slowest, recovered.Round(10*time.Millisecond))
	if !raced { // looking for races, the generator alone takes all there is
		least := 0.8
		if !count { // nor can the service have had what it needs
			least = 0.4
		}
		if goodput < least*capacity {
			t.Errorf("goodput is %.1f/s under overload of a capacity of %.0f/s", goodput, capacity)
		}
		if slowest == 0 || slowest > 3 { // the queue timeout is 2 s
			t.Errorf("%s of what is accepted is %.2f s", tail, slowest)
		}
	}
	s.staysUnder(t, 300)

	if st := s.stats(); st.Requests.Failed > 0 {
		t.Errorf("%d requests failed", st.Requests.Failed)
	}
}

// Many more come in a second than can be served in it, and all of them come back
// when they are told to. They are told to come one after the other, so that
// there is room for most when they do: were all told the same, they would meet
// again and again.
func TestWhoIsRefusedIsToldWhenThereIsRoom(t *testing.T) {
	patient(t)
	const callers = 500 // of 80 a second
	s := serve(t, "--io-concurrency", "4")
	work := submission{Workload: "wait", Complexity: 5, Data: data}
	tries := make(chan int, callers)
	for i := range callers {
		time.AfterFunc(time.Duration(i)*time.Second/callers, func() { tries <- untilLetIn(s, "/sync", work) })
	}
	all, by := 0, make(map[int]int)
	for range callers {
		n := <-tries
		by[n]++
		all += n
	}
	t.Logf("%d callers, by the number of their tries: %v", callers, by)
	if mean := float64(all) / callers; mean > 3 { // it is 3.2 if all are told to come in a second
		t.Errorf("callers who obeyed Retry-After took %.1f tries each", mean)
	}
}

// untilLetIn posts until it is let in, as often as Retry-After allows, and
// returns how often that was.
func untilLetIn(s *service, path string, work submission) int {
	for try := 1; ; try++ {
		a, err := s.try("POST", path, work)
		switch {
		case err != nil:
			s.t.Errorf("POST %s: %v", path, err)
			return try
		case a.status == http.StatusOK || a.status == http.StatusAccepted:
			return try
		case a.status != http.StatusServiceUnavailable:
			s.t.Errorf("POST %s answers %d %s", path, a.status, a.body)
			return try
		}
		time.Sleep(time.Duration(a.retryAfter(s.t)) * time.Second) // as the service asks
	}
}
