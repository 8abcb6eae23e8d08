package acceptance

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/work"
)

// Both patterns ask for all the computing they can get: many short sync callers
// come to a backlog of long work. Neither starves. It needs the machine: computing
// beside others takes several times as long, for both of them.
func TestEachPatternKeepsItsShareOfTheCPUBesideLongAsyncWork(t *testing.T) {
	onEachAlone(t, func(t *testing.T, database string) {
		eachPatternKeepsItsShareOfTheCPU(t, bothPatterns{sync: 1, async: 10, backlog: 200}, database)
	})
}

// The other way, sync callers with long work come to a backlog of shorter work.
// That is still long beside what a request costs a Postgres.
func TestEachPatternKeepsItsShareOfTheCPUBesideLongSyncWork(t *testing.T) {
	onEachAlone(t, func(t *testing.T, database string) {
		eachPatternKeepsItsShareOfTheCPU(t, bothPatterns{sync: 10, async: 3, backlog: 800}, database)
	})
}

// bothPatterns is a load of computing.
type bothPatterns struct {
	sync, async int // complexity
	backlog     int
}

func eachPatternKeepsItsShareOfTheCPU(t *testing.T, load bothPatterns, database string) {
	rounds := work.DefaultRounds // about 5 ms a unit
	if raced {
		rounds /= 4 // still more than that
	}
	s := serve(t, "--database", database, "--workers", "2", "--rounds", strconv.Itoa(rounds))
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
	for range 32 { // while long work holds the slots, as many short calls must come as fill them afterwards
		calling.Go(func() {
			for !enough.isOpen() {
				a, err := s.try("POST", "/sync", submission{Workload: "compute", Complexity: load.sync, Data: data})
				if err != nil || a.status != http.StatusOK && a.status != http.StatusServiceUnavailable {
					t.Errorf("POST /sync: %d %s, %v", a.status, a.body, err)
					return
				}
				if a.status == http.StatusServiceUnavailable { // at once: to ask again at once would leave nothing of the processors to anybody
					time.Sleep(50 * time.Millisecond)
				}
			}
		})
	}
	var before map[string]slotTime
	eventually(t, "callers are served, and how long work takes is known", func() bool {
		before = s.slotTimes()
		return before["sync"].count > 0 && before["async"].count >= 20
	})
	var syncTime, asyncTime float64
	eventually(t, "enough of both is worked", func() bool {
		after := s.slotTimes()
		syncTime, asyncTime = after["sync"].seconds-before["sync"].seconds, after["async"].seconds-before["async"].seconds
		return after["sync"].count-before["sync"].count >= 40 && after["async"].count-before["async"].count >= 40
	})
	if left := s.stats().System.QueueDepth; left == 0 {
		t.Error("the backlog was used up: nothing is shown")
	}
	enough.open()
	calling.Wait()
	all := syncTime + asyncTime
	t.Logf("of the slots' time sync work had %.0f %%, async work %.0f %%", 100*syncTime/all, 100*asyncTime/all)
	if min(syncTime, asyncTime) < 0.3*all {
		t.Error("one starves the other")
	}
}

// slotTime is how often work has held a slot and for how long in all.
type slotTime struct{ count, seconds float64 }

// slotTimes is the time that work has held slots, by mode, since the start.
func (s *service) slotTimes() map[string]slotTime {
	s.t.Helper()
	of := map[string]slotTime{}
	for line := range strings.Lines(string(s.get("/metrics").body)) {
		name, labels, ok := strings.Cut(line, `{mode="`)
		if !ok || !strings.HasPrefix(name, "tandem_processing_seconds_") {
			continue
		}
		mode, rest, _ := strings.Cut(labels, `"`)
		_, value, _ := strings.Cut(rest, "} ")
		n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil {
			s.t.Fatal(err)
		}
		time := of[mode]
		switch name {
		case "tandem_processing_seconds_sum":
			time.seconds += n
		case "tandem_processing_seconds_count":
			time.count += n
		}
		of[mode] = time
	}
	return of
}
