package acceptance

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Both patterns ask for all the computing they can get, once with long work
// async and short work sync, once the other way. Neither starves.
func TestEachPatternKeepsItsShareOfTheCPU(t *testing.T) {
	for _, load := range []bothPatterns{
		{"many short sync callers, a backlog of long work", 1, 10, 500},
		{"sync callers with long work, a backlog of short work", 10, 1, 3000},
	} {
		t.Run(load.name, func(t *testing.T) {
			onEach(t, func(t *testing.T, database string) { eachPatternKeepsItsShareOfTheCPU(t, load, database) })
		})
	}
}

// bothPatterns is a load of computing.
type bothPatterns struct {
	name        string
	sync, async int // complexity
	backlog     int
}

func eachPatternKeepsItsShareOfTheCPU(t *testing.T, load bothPatterns, database string) {
	s := serve(t, "--database", database, "--workers", "2")
	enough := newGate()
	var posting sync.WaitGroup
	for range 8 {
		posting.Go(func() {
			for range load.backlog / 8 {
				if a, err := s.try("POST", "/async", submission{Workload: "compute", Complexity: load.async, Data: data}); err != nil || a.status != http.StatusAccepted {
					t.Errorf("POST /async: %d %s, %v", a.status, a.body, err)
				}
			}
		})
	}
	posting.Wait()
	var calling sync.WaitGroup
	for range 8 {
		calling.Go(func() {
			for !enough.isOpen() {
				a, err := s.try("POST", "/sync", submission{Workload: "compute", Complexity: load.sync, Data: data})
				if err != nil || a.status != http.StatusOK && a.status != http.StatusServiceUnavailable {
					t.Errorf("POST /sync: %d %s, %v", a.status, a.body, err)
					return
				}
			}
		})
	}
	eventually(t, "callers are served", func() bool { sync, _ := s.slotSeconds(); return sync > 0.1 })
	sync0, async0 := s.slotSeconds()
	var sync1, async1 float64
	eventually(t, "the slots have worked 4 s more", func() bool {
		sync1, async1 = s.slotSeconds()
		return sync1-sync0+async1-async0 > 4
	})
	if left := s.stats().System.QueueDepth; left == 0 {
		t.Error("the backlog was used up: nothing is shown")
	}
	enough.open()
	calling.Wait()
	sync, async := sync1-sync0, async1-async0
	t.Logf("of the slots' time sync work had %.0f %%, async work %.0f %%", 100*sync/(sync+async), 100*async/(sync+async))
	if sync < 0.3*(sync+async) || async < 0.3*(sync+async) {
		t.Error("one starves the other")
	}
}

// slotSeconds is how long work has held slots, by mode, since the start.
func (s *service) slotSeconds() (sync, async float64) {
	s.t.Helper()
	seconds := map[string]*float64{`mode="sync"`: &sync, `mode="async"`: &async}
	for line := range strings.Lines(string(s.get("/metrics").body)) {
		labels, ok := strings.CutPrefix(line, "tandem_processing_seconds_sum{")
		if !ok {
			continue
		}
		labels, value, _ := strings.Cut(labels, "} ")
		mode, _, _ := strings.Cut(labels, ",")
		n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			s.t.Fatal(err)
		}
		*seconds[mode] += n
	}
	return sync, async
}
