package acceptance

import (
	"flag"
	"math/rand/v2"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	crashRounds = flag.Int("crash.rounds", 30, "how often the service is killed under load")
	crashSeed   = flag.Uint64("crash.seed", uint64(time.Now().UnixNano()), "seed of the moments of the kills")
)

// postUntilItDies submits work until the service dies under it, and writes down
// what it was answered.
func postUntilItDies(s *service, l *ledger, random *rand.Rand, hook string) {
	for answered := true; answered; {
		e := l.submission()
		sub := submission{Workload: []string{"compute", "compute", "wait", "mixed"}[random.IntN(4)], Complexity: 1 + random.IntN(3), Data: map[string]any{"n": e.n, "x": random.Float64()}}
		if sub.Workload == "wait" {
			sub.Complexity = 1
		}
		path := "/async"
		switch random.IntN(4) {
		case 0:
			path = "/sync"
		case 1: // nobody is called
		default:
			e.callback, sub.CallbackURL = true, hook
		}
		answered = l.post(s, e, path, sub)
	}
}

func TestKillsAtRandomMomentsLoseNothing(t *testing.T) {
	onEachAfterAKill(t, killsAtRandomMomentsLoseNothing)
}

func killsAtRandomMomentsLoseNothing(t *testing.T, file string) {
	const posters, perHost, rounds = 6, 10, 2000
	l := newLedger(t, rounds)
	hook := newHost(t, l).url
	kills, moments := *crashRounds, 250 // in ms, when a process may be killed
	if onPostgres(file) {               // where all takes longer, and more processes share the machine
		kills, moments = (kills+2)/3, 1500
	}
	flags := hasty("--database", file, "--workers", "1", "--io-concurrency", "16", "--rounds", strconv.Itoa(rounds), "--callback-per-host", strconv.Itoa(perHost))
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
			posting.Go(func() { postUntilItDies(s, l, own, hook) })
		}
		time.Sleep(time.Duration(20+random.IntN(moments-20)) * time.Millisecond) // the moment is the point: there is nothing to wait for
		s.kill()
		posting.Wait()
		s.client.CloseIdleConnections()
	}

	s := serve(t, flags...)
	eventually(t, "all is settled", func() bool {
		st := s.stats()
		return st.Requests.ByStatus["pending"]+st.Requests.ByStatus["processing"]+st.Callbacks.Pending == 0
	})
	rows := s.pages("/requests?limit=1000")
	sums := l.balance(t, rows)
	if inFlight := perHost * kills; sums.repeated > inFlight {
		t.Errorf("%d callbacks came again, %d attempts at most were in flight at the kills", sums.repeated, inFlight)
	}
	if sums.crashed > kills/3 {
		t.Errorf("%d requests failed as crashed_worker by %d kills, and each takes three", sums.crashed, kills)
	}
	if sums.acknowledged < 5*kills {
		t.Errorf("%d requests were answered over %d kills, which shows too little", sums.acknowledged, kills)
	}
	t.Logf("%d kills in %v: %d requests answered, %d on record, %d with an unknown answer, %d refused; %d callbacks verified, %d of them again; %d crashed_worker (-crash.seed=%d)",
		kills, time.Since(began).Round(time.Second), sums.acknowledged, len(rows), sums.unknown, sums.refused, sums.callbacks, sums.repeated, sums.crashed, *crashSeed)
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
