//go:build unix

package acceptance

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	soakDuration = flag.Duration("soak.duration", 0, "how long TestSoak puts the service under load and faults; without it the test is skipped")
	soakEvery    = flag.Duration("soak.every", 3*time.Second, "the mean time between two faults of TestSoak")
	soakSeed     = flag.Uint64("soak.seed", 0, "what the load and the faults of TestSoak are drawn from; 0 picks a seed")
)

const (
	soakClients   = 8
	soakReceivers = 4
	soakRounds    = 20_000 // of compute: a tenth of a millisecond
	soakPerHost   = 10     // attempts in flight to one receiver
)

// soak is one run of TestSoak: a service under load and faults, and what its
// callers and receivers know of it.
type soak struct {
	t       *testing.T
	file    string
	service atomic.Pointer[service] // the run of the program that clients talk to
	ledger  *ledger
	hosts   []*host

	faults      map[string]int
	restarts    int // after a kill or a SIGTERM
	disruptions int // kills, ends and pauses: what can repeat a callback
	held        int // times the storage was held since the last restart
}

// TestSoak puts the service under a mixed load for -soak.duration and does
// something to it every few seconds. At the end what its callers and receivers
// wrote down has to balance with its history, it has to be as small as at its
// beginning, and no error may be in its log that the test did not cause.
//
// In the last two fifths the process is not ended any more, so that what leaks
// has the time to show.
func TestSoak(t *testing.T) {
	if *soakDuration == 0 {
		t.Skip("it takes -soak.duration, such as 10m; see make soak")
	}
	seed := *soakSeed
	for seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-soak.seed=%d", seed)
	k := &soak{t: t, file: newFile(t), ledger: newLedger(t, soakRounds), faults: make(map[string]int)}
	for range soakReceivers {
		k.hosts = append(k.hosts, newHost(t, k.ledger))
	}
	k.serve()
	before := k.smallAndQuiet()

	k.load(seed)

	k.settle()
	rows := k.service.Load().pages("/requests?limit=1000")
	k.balance(rows)
	countersFit(t, k.service.Load(), rows)
	after := k.measure()
	for deadline := time.Now().Add(patience); after.busierThan(before) && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond) // idle connections and goroutines take a while to end
		after = k.measure()
	}
	k.compare(before, after)
	s := k.service.Load()
	s.stop(t)
	k.readLog(s)
	soundFile(t, k.file)
}

// serve starts the program, on the file that all its runs share.
func (k *soak) serve() {
	k.t.Helper()
	k.held = 0
	k.service.Store(serve(k.t, "--database", k.file, "--admin-addr", "127.0.0.1:0", "--workers", "2",
		"--rounds", strconv.Itoa(soakRounds), "--drain-timeout", "2s",
		"--callback-attempts", "5", "--callback-timeout", "2s", "--callback-per-host", strconv.Itoa(soakPerHost)))
}

// load runs the clients and the faults for the time that was asked for.
func (k *soak) load(seed uint64) {
	ctx, stop := context.WithCancel(k.t.Context())
	var clients sync.WaitGroup
	for i := range soakClients {
		c := &soakClient{soak: k, rng: rand.New(rand.NewPCG(seed, uint64(i+1)))}
		clients.Go(func() { c.run(ctx) })
	}
	k.trouble(rand.New(rand.NewPCG(seed, 0)))
	stop()
	clients.Wait()
	for _, h := range k.hosts {
		h.mood.Store(int32(moodWell))
	}
}

// smallAndQuiet measures a service that has done a little of everything and
// has come to rest.
func (k *soak) smallAndQuiet() size {
	k.t.Helper()
	c := &soakClient{soak: k, rng: rand.New(rand.NewPCG(1, 1))}
	for range 200 {
		c.submit(k.t.Context())
	}
	k.settle()
	return k.measure()
}

// settle waits until nothing is owed any more: what was given up while its
// receiver was ill is asked for again.
func (k *soak) settle() {
	k.t.Helper()
	s := k.service.Load()
	began := time.Now()
	again := 0
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		st := s.stats()
		if st.Callbacks.Pending+st.Requests.ByStatus["pending"]+st.Requests.ByStatus["processing"] > 0 {
			if time.Now().After(deadline) {
				k.t.Fatalf("not settled in 5 minutes without faults: %+v", st)
			}
			continue
		}
		if st.Callbacks.Failed == 0 {
			break
		}
		var got struct {
			Redelivered []string `json:"redelivered"`
		}
		s.post("/callbacks/redeliver", `{"state":"failed"}`).decode(k.t, http.StatusOK, &got)
		again += len(got.Redelivered)
	}
	k.t.Logf("settled %v after the load; %d callbacks that were given up were delivered again", time.Since(began).Round(time.Millisecond), again)
}

// balance compares what callers and receivers wrote down with the history.
func (k *soak) balance(rows []record) {
	sums := k.ledger.balance(k.t, rows)
	if most := k.disruptions * soakPerHost * soakReceivers; sums.repeated > most {
		k.t.Errorf("%d callbacks came again after they had been answered, at most %d were in flight when the process was ended or stopped", sums.repeated, most)
	}
	k.t.Logf("%d submissions: %d acknowledged, %d refused, %d unknown; %d cancelled", len(k.ledger.entries), sums.acknowledged, sums.refused, sums.unknown, k.ledger.cancelled)
	k.t.Logf("%d requests on record: %v", len(rows), sums.statuses)
	k.t.Logf("%d callbacks answered by receivers, %d of them repeated, over %d kills, ends and pauses", sums.callbacks, sums.repeated, k.disruptions)
	faults := 0
	for _, n := range k.faults {
		faults += n
	}
	k.t.Logf("%d faults: %v; %d restarts", faults, k.faults, k.restarts)
}

// size is how large a process is at rest.
type size struct {
	goroutines, files int
	heap, resident    int // bytes: the live heap after a collection, and what the system gives
}

func (f size) String() string {
	return fmt.Sprintf("%d goroutines, %d files, heap %.1f MB, resident %.1f MB", f.goroutines, f.files, float64(f.heap)/1e6, float64(f.resident)/1e6)
}

// How much larger a process may be at the end. The heap keeps histograms of the
// last ten minutes, which were empty at the beginning.
const (
	goroutinesMore = 4
	filesMore      = 8
	heapMore       = 12 << 20
	residentMost   = 300 << 20
)

// busierThan reports whether more goroutines or files are left than may be.
func (f size) busierThan(before size) bool {
	return f.goroutines > before.goroutines+goroutinesMore || f.files > before.files+filesMore
}

func (k *soak) compare(before, after size) {
	k.t.Logf("at the beginning %v", before)
	k.t.Logf("at the end       %v", after)
	if after.goroutines > before.goroutines+goroutinesMore {
		k.t.Errorf("%d goroutines are left, %d were there at the beginning:\n%s", after.goroutines, before.goroutines,
			k.service.Load().operators(k.t).get("/debug/pprof/goroutine?debug=1").body)
	}
	if after.files > before.files+filesMore {
		k.t.Errorf("%d files are open, %d were at the beginning", after.files, before.files)
	}
	if after.heap > before.heap+heapMore {
		k.t.Errorf("the live heap has grown by %d bytes", after.heap-before.heap)
	}
	if after.resident > residentMost && !raced {
		k.t.Errorf("%d bytes are resident, over the limit of %d", after.resident, residentMost)
	}
}

// measure reads the figures of the service, with no connection open but the one
// that asks.
func (k *soak) measure() size {
	k.t.Helper()
	for _, h := range k.hosts {
		h.server.CloseClientConnections()
	}
	k.service.Load().client.CloseIdleConnections()
	admin := k.service.Load().operators(k.t)
	for range 2 { // the second collection frees what finalizers held
		if a := admin.get("/debug/pprof/heap?gc=1"); a.status != http.StatusOK {
			k.t.Fatalf("GET /debug/pprof/heap: %d", a.status)
		}
	}
	text := string(admin.get("/metrics").body)
	value := func(name string) int {
		found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(text)
		if found == nil {
			k.t.Fatalf("/metrics has no %s", name)
		}
		v, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			k.t.Fatal(err)
		}
		return int(v)
	}
	return size{
		goroutines: value("go_goroutines"),
		files:      value("process_open_fds"),
		heap:       value("go_memstats_heap_alloc_bytes"),
		resident:   value("process_resident_memory_bytes"),
	}
}

// readLog wants no error in the log of a process that has ended but those that
// follow from storage that could not be written.
func (k *soak) readLog(s *service) {
	k.t.Helper()
	fromHeldStorage := regexp.MustCompile(`trying again|could not be started|cannot be written`)
	unexpected := make(map[string]string)
	for line := range strings.Lines(s.stderr.String()) {
		var entry struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
		}
		switch err := json.Unmarshal([]byte(line), &entry); {
		case err != nil:
			unexpected[line] = line
		case entry.Level == "ERROR" && !(k.held > 0 && fromHeldStorage.MatchString(line)):
			unexpected[entry.Msg] = line
		}
	}
	for _, msg := range slices.Sorted(maps.Keys(unexpected)) {
		k.t.Errorf("the log has an error that the test did not cause: %s", unexpected[msg])
	}
}
