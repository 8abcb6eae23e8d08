package acceptance

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var overloadLength = flag.Duration("overload.length", 10*time.Second, "how long ten times the capacity is offered")

// figures runs the lab against the service and returns the figures of its
// report; what has none is missing.
func figures(t *testing.T, s *service, args ...string) map[string]float64 {
	t.Helper()
	dir := t.TempDir()
	p := start(t, dir, []string{"TANDEM_CALLBACK_SECRET=" + secret.Reveal()},
		append([]string{"load", "--url", s.url(), "--callback-port", "0", "--output", "r.json"}, args...)...)
	<-p.exited // 3 if the generator was late, as on a busy machine
	if code := p.cmd.ProcessState.ExitCode(); code != 0 && code != 3 {
		t.Fatalf("tandem load ends with %d:\n%s", code, tail(p.stderr.String(), 2000))
	}
	text, _, _ := run(t, nil, "report", "--json", filepath.Join(dir, "r.json"))
	var report struct {
		Figures map[string]*float64 `json:"figures"`
	}
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	all := make(map[string]float64)
	for name, figure := range report.Figures {
		if figure != nil {
			all[name] = *figure
		}
	}
	return all
}

// Ten times what the service can do is offered. It goes on doing what it can,
// answers those whom it takes about as soon as before, and tells the others at
// once when to come back. The work waits, so that what else this machine does
// changes neither capacity nor latency by much; go run ./bench overload does it
// with work that computes.
func TestTenTimesTheCapacity(t *testing.T) {
	for _, mode := range []string{"sync", "async"} {
		t.Run(mode, func(t *testing.T) {
			onEach(t, func(t *testing.T, database string) { tenTimesTheCapacity(t, mode, database) })
		})
	}
}

func tenTimesTheCapacity(t *testing.T, mode, database string) {
	const slots = 4
	complexity, posts, tail := 4, "300", "p99" // of 40 ms: 100 a second
	if onPostgres(database) {                  // which takes its part of the same cores
		complexity, posts, tail = 10, "120", "p95"
	}
	length := time.Duration(complexity) * 10 * time.Millisecond
	capacity := slots * int(time.Second/length)
	s := serve(t, "--database", database, "--io-concurrency", fmt.Sprint(slots), "--max-pending", "200", "--callback-per-host", "64")
	ratio := map[string]string{"sync": "1", "async": "0"}[mode]
	work := submission{Workload: "wait", Complexity: complexity, Data: data}
	common := []string{"--sync-ratio", ratio, "--workload", "wait", "--complexity", fmt.Sprint(complexity)}
	peak := figures(t, s, append(common, "-n", posts, "-c", "16")...)[mode+".completed_per_s"]

	// Among the load there are some who come back when they are told to.
	// They first come when it has gone on for about a second.
	const polite = 10
	tries := make(chan int, polite)
	for i := range polite {
		time.AfterFunc(2500*time.Millisecond+time.Duration(i)*50*time.Millisecond, func() { tries <- untilLetIn(s, "/"+mode, work) })
	}
	load := figures(t, s, append(common, "--rate", fmt.Sprint(10*capacity), "--duration", overloadLength.String())...)
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

	goodput, slowest := load[mode+".completed_per_s"], load[mode+".response."+tail]
	t.Logf("peak %.1f/s; at ten times the capacity %.1f/s (%.0f %%), %s of what is accepted %.0f ms, latency normal %v after",
		peak, goodput, 100*goodput/peak, tail, 1000*slowest, recovered.Round(10*time.Millisecond))
	if !raced { // looking for races, the generator alone takes all there is
		if goodput < 0.8*peak {
			t.Errorf("goodput is %.1f/s under overload and %.1f/s at its peak", goodput, peak)
		}
		if slowest == 0 || slowest > 3 { // the queue timeout is 2 s
			t.Errorf("%s of what is accepted is %.2f s", tail, slowest)
		}
	}
	s.staysUnder(t, 300)

	var took []int
	for range polite {
		took = append(took, <-tries)
	}
	slices.Sort(took)
	t.Logf("who obeyed Retry-After got in at try number %v", took)
	if took[polite-1] > 5 {
		t.Error("Retry-After is not long enough")
	}
	if st := s.stats(); st.Requests.Failed > 0 {
		t.Errorf("%d requests failed", st.Requests.Failed)
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
