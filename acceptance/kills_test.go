package acceptance

import (
	"encoding/json"
	"flag"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"syscall"
	"testing"
	"time"

	"tandem/webhook"
	"tandem/work"
)

var (
	crashRounds = flag.Int("crash.rounds", 30, "how often the service is killed under load")
	crashSeed   = flag.Uint64("crash.seed", uint64(time.Now().UnixNano()), "seed of the moments of the kills")
)

// killLedger is what the clients of a service that is killed know: kept outside of
// it, so that no crash of the service touches it.
type killLedger struct {
	mu       sync.Mutex
	answered map[string]string // what was answered 202 or 200, and the result it must have
	sync     map[string]bool   // those answered 200
	called   map[string]int    // verified callbacks, by request
	wrong    []string          // what must not be
	unknown  int               // posts whose answer a kill took away
	refused  int               // posts answered 503
}

// deterministic is kinds of submissions, and their results by the workload
// itself.
func deterministic(t *testing.T, rounds int) (subs []submission, results []string) {
	t.Helper()
	registry, err := work.Builtin(work.Options{Rounds: rounds})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		sub := submission{Workload: []string{"compute", "compute", "wait", "mixed"}[i%4], Complexity: 1 + i%3, Data: map[string]any{"kind": i, "x": float64(i) / 4}}
		if sub.Workload == "wait" {
			sub.Complexity = 1
		}
		kind, ok := registry.Lookup(sub.Workload)
		if !ok {
			t.Fatalf("there is no workload %s", sub.Workload)
		}
		text, err := json.Marshal(sub.Data)
		if err != nil {
			t.Fatal(err)
		}
		result, err := kind.Func(t.Context(), work.Input{Data: text, Complexity: sub.Complexity})
		if err != nil {
			t.Fatal(err)
		}
		subs, results = append(subs, sub), append(results, string(result))
	}
	return subs, results
}

func (l *killLedger) wrongly(text string) {
	if len(l.wrong) < 20 {
		l.wrong = append(l.wrong, text)
	}
}

// ServeHTTP receives the callbacks.
func (l *killLedger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the service was killed while it sent
	}
	err = webhook.Verify(r.Header, body, time.Now(), secret)
	l.mu.Lock()
	defer l.mu.Unlock()
	var event webhook.Event
	if err == nil {
		err = json.Unmarshal(body, &event)
	}
	switch {
	case err != nil:
		l.wrongly("a callback: " + err.Error())
	case event.Type != webhook.RequestCompleted && event.Error.Code != "crashed_worker":
		l.wrongly("a callback says " + string(body))
	default:
		l.called[event.RequestID]++
	}
}

// post submits work until the service dies under it, and keeps what it was
// answered.
func (l *killLedger) post(s *service, random *rand.Rand, subs []submission, results []string, hook string) {
	for {
		i := random.IntN(len(subs))
		sub, path, want := subs[i], "/async", http.StatusAccepted
		switch random.IntN(4) {
		case 0:
			path, want = "/sync", http.StatusOK
		case 1: // nobody is called
		default:
			sub.CallbackURL = hook
		}
		a, err := s.try("POST", path, sub)
		var got struct {
			RequestID string          `json:"request_id"`
			Result    json.RawMessage `json:"result"`
		}
		if err == nil && a.status == want {
			err = json.Unmarshal(a.body, &got)
		}
		l.mu.Lock()
		switch {
		case err != nil: // cut off: what became of it is unknown
			l.unknown++
			l.mu.Unlock()
			return
		case a.status == http.StatusServiceUnavailable:
			l.refused++
		case a.status != want:
			l.wrongly(path + " answers " + string(a.body))
		default:
			l.answered[got.RequestID] = results[i]
			if path == "/sync" {
				l.sync[got.RequestID] = true
				if string(got.Result) != results[i] {
					l.wrongly("/sync answers " + string(got.Result) + ", want " + results[i])
				}
			}
		}
		l.mu.Unlock()
	}
}

func TestKillsAtRandomMomentsLoseNothing(t *testing.T) {
	onEachAfterAKill(t, killsAtRandomMomentsLoseNothing)
}

func killsAtRandomMomentsLoseNothing(t *testing.T, file string) {
	const posters, perHost, rounds = 6, 10, 2000
	subs, results := deterministic(t, rounds)
	l := &killLedger{answered: make(map[string]string), sync: make(map[string]bool), called: make(map[string]int)}
	receiver := httptest.NewServer(l)
	t.Cleanup(receiver.Close)
	hook := receiver.URL + "/hook"
	kills, moments := *crashRounds, 250 // in ms, when a process may be killed
	if onPostgres(file) {               // where all takes longer, and more processes share the machine
		kills, moments = (kills+2)/3, 1500
	}
	flags := hasty("--database", file, "--workers", "1", "--io-concurrency", "16", "--rounds", "2000", "--callback-per-host", "10")
	random := rand.New(rand.NewPCG(*crashSeed, 0))
	began := time.Now()
	for round := range kills {
		if round%5 == 4 { // while it starts, or takes up what was left
			p := start(t, t.TempDir(), []string{"TANDEM_CALLBACK_SECRET=" + secret.Reveal()}, append([]string{"serve", "--addr", "127.0.0.1:0"}, flags...)...)
			time.Sleep(time.Duration(random.IntN(150)) * time.Millisecond)
			p.kill()
			continue
		}
		s := serve(t, flags...)
		var posting sync.WaitGroup
		for i := range posters {
			own := rand.New(rand.NewPCG(*crashSeed, uint64(1+round*posters+i)))
			posting.Go(func() { l.post(s, own, subs, results, hook) })
		}
		time.Sleep(time.Duration(20+random.IntN(moments-20)) * time.Millisecond) // the moment is the point: there is nothing to wait for
		s.kill()
		posting.Wait()
		s.client.CloseIdleConnections()
	}

	s := serve(t, flags...)
	var st stats
	eventually(t, "all is settled", func() bool {
		st = s.stats()
		return st.Requests.ByStatus["pending"]+st.Requests.ByStatus["processing"]+st.Callbacks.Pending == 0
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	crashed := l.compare(t, s, subs, results)
	again := 0
	for _, n := range l.called {
		again += n - 1
	}
	inFlight := perHost * kills
	if again > inFlight {
		t.Errorf("%d callbacks came again, %d attempts at most were in flight at the kills", again, inFlight)
	}
	if crashed > kills/3 {
		t.Errorf("%d requests failed as crashed_worker by %d kills, and each takes three", crashed, kills)
	}
	if len(l.answered) < 5*kills {
		t.Errorf("%d requests were answered over %d kills, which shows too little", len(l.answered), kills)
	}
	for _, text := range l.wrong {
		t.Error(text)
	}
	t.Logf("%d kills in %v: %d requests answered (%d of them 200), %d on record, %d with an unknown answer, %d refused; %d callbacks verified, %d of them again; %d crashed_worker (-crash.seed=%d)",
		kills, time.Since(began).Round(time.Second), len(l.answered), len(l.sync), st.Requests.Total, l.unknown, l.refused, len(l.called), again, crashed, *crashSeed)
	if t.Failed() {
		return
	}
	s.signal(t, syscall.SIGTERM)
	s.wait(t)
	soundFile(t, file)
	if onPostgres(file) {
		return
	}
	if stdout, stderr, code := run(t, nil, "doctor", "--database", file); code != 0 {
		t.Errorf("doctor ends with %d: %s%s", code, stdout, stderr)
	}
}

// compare holds the history against the ledger, and returns how many requests
// failed as crashed_worker.
func (l *killLedger) compare(t *testing.T, s *service, subs []submission, results []string) (crashed int) {
	t.Helper()
	missing := make(map[string]bool)
	for id := range l.answered {
		missing[id] = true
	}
	byInput := make(map[string]string)
	for i, sub := range subs {
		byInput[asJSON(sub.Data)] = results[i]
	}
	for path := "/requests?limit=1000"; path != ""; {
		a := s.get(path)
		var page []record
		a.decode(t, http.StatusOK, &page)
		for _, r := range page {
			delete(missing, r.RequestID)
			switch code := show(r.ErrorCode); {
			case !r.settled():
				t.Errorf("%s is not settled", r)
			case r.Status == "callback_failed":
				t.Errorf("%s was given up", r)
			case r.Status != "failed":
				if string(r.Result) != byInput[string(r.InputData)] {
					t.Errorf("%s has a result of its own, want %s", r, byInput[string(r.InputData)])
				}
			case code == "crashed_worker" && r.Mode == "async":
				crashed++
			case code == "interrupted" && r.Mode == "sync" && !l.sync[r.RequestID]:
			default:
				t.Errorf("%s failed", r)
			}
			if r.Callback.State == "sent" && l.called[r.RequestID] == 0 {
				t.Errorf("the callback of %s is on record as sent and never came", r)
			}
			if l.sync[r.RequestID] && r.Status != "completed" {
				t.Errorf("%s was answered 200", r)
			}
		}
		path = nextPage(t, a)
	}
	if len(missing) > 0 {
		t.Errorf("%d requests were answered and are not on record", len(missing))
	}
	return crashed
}
