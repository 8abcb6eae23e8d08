//go:build unix

package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tandem/webhook"
)

// mood is how a receiver treats who comes.
type mood int32

const (
	moodWell mood = iota
	moodHangs
	moodResets
	moodErrs
	moodFlaps
	moodDrips
	moodLimits
	moods
)

// host is a receiver of the soak: it verifies and writes down what comes.
type host struct {
	t      *testing.T
	url    string
	server *httptest.Server
	ledger *ledger
	mood   atomic.Int32 // a mood
	turn   atomic.Int64
}

func newHost(t *testing.T, l *ledger) *host {
	h := &host{t: t, ledger: l}
	h.server = httptest.NewServer(h)
	h.url = h.server.URL + "/hook"
	t.Cleanup(h.server.Close)
	return h
}

func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender was ended meanwhile
	}
	var event webhook.Event
	if err := json.Unmarshal(body, &event); err != nil {
		h.t.Errorf("a callback cannot be read: %v", err)
	}
	if err := webhook.Verify(r.Header, body, time.Now(), secret); err != nil {
		h.t.Errorf("callback of %s: %v", event.RequestID, err)
	}
	if id := r.Header.Get(webhook.HeaderID); id != event.RequestID {
		h.t.Errorf("webhook-id is %q, the event is about %q", id, event.RequestID)
	}
	switch mood(h.mood.Load()) {
	case moodHangs:
		<-r.Context().Done()
		return
	case moodResets:
		panic(http.ErrAbortHandler)
	case moodErrs:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case moodLimits:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case moodFlaps:
		if h.turn.Add(1)%2 == 0 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
	case moodDrips:
		defer h.drip(w, r)
	}
	h.ledger.arrived(h.t, &event)
	w.WriteHeader(http.StatusOK)
}

// drip answers one byte after the other, for longer than an attempt may take.
func (h *host) drip(w http.ResponseWriter, r *http.Request) {
	for range 50 {
		if _, err := w.Write([]byte(".")); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush() // fails as the next write does
		select {
		case <-r.Context().Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// arrived writes down a callback that is about to be answered with 2xx.
func (l *ledger) arrived(t *testing.T, event *webhook.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.came == nil {
		l.came = make(map[string]*arrivals)
	}
	came := l.came[event.RequestID]
	if came == nil {
		came = &arrivals{failed: event.Error != nil, result: string(event.Result)}
		l.came[event.RequestID] = came
	}
	came.answered++
	if came.failed != (event.Error != nil) || came.result != string(event.Result) {
		t.Errorf("the callback of %s told %s and then %s", event.RequestID, came.result, event.Result)
	}
}

// trouble does something to the service every few seconds, for as long as the
// soak lasts.
func (k *soak) trouble(rng *rand.Rand) {
	var aside sync.WaitGroup
	defer aside.Wait()
	began := time.Now()
	end := began.Add(*soakDuration)
	between := func() bool { // whether there is time for one more
		wait := *soakEvery/2 + time.Duration(rng.Int64N(int64(*soakEvery)))
		time.Sleep(min(wait, time.Until(end)))
		return time.Now().Before(end)
	}
	spread := func(least, most time.Duration) time.Duration {
		return least + time.Duration(rng.Int64N(int64(most-least)))
	}
	for between() {
		name := []string{"kill", "kill", "end", "pause", "receiver", "receiver", "receiver", "malformed", "slow clients", "storage held"}[rng.IntN(10)]
		if ending := name == "kill" || name == "end"; ending && time.Since(began) > *soakDuration*3/5 {
			name = "receiver"
		}
		k.faults[name]++
		switch name {
		case "kill":
			k.disruptions++
			s := k.service.Load()
			s.kill()
			k.restart(s)
		case "end":
			k.disruptions++
			s := k.service.Load()
			s.stop(k.t)
			k.restart(s)
		case "pause":
			k.disruptions++
			s := k.service.Load()
			s.signal(k.t, syscall.SIGSTOP)
			time.Sleep(spread(200*time.Millisecond, 3*time.Second))
			s.signal(k.t, syscall.SIGCONT)
		case "receiver":
			h, ill, d := k.hosts[rng.IntN(len(k.hosts))], 1+rng.Int32N(int32(moods)-1), spread(time.Second, 4*time.Second)
			h.mood.Store(ill)
			aside.Go(func() {
				time.Sleep(d)
				h.mood.Store(int32(moodWell))
			})
		case "malformed":
			k.malformed()
		case "slow clients":
			addr := k.service.Load().addr
			for range 20 {
				aside.Go(func() { slowClient(addr) })
			}
		case "storage held":
			k.holdStorage(spread(300*time.Millisecond, 7*time.Second))
		}
	}
}

// restart reads the log of a process that has ended, and starts the next.
func (k *soak) restart(ended *service) {
	k.t.Helper()
	ended.client.CloseIdleConnections()
	k.readLog(ended)
	k.restarts++
	k.serve()
}

// holdStorage keeps the service from writing to its file.
func (k *soak) holdStorage(d time.Duration) {
	k.held++
	ctx := context.WithoutCancel(k.t.Context())
	db := openFile(k.t, k.file)
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		k.t.Error(err)
		return
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, `BEGIN IMMEDIATE`); err != nil {
		k.t.Errorf("hold the storage: %v", err)
		return
	}
	time.Sleep(d)
	if _, err := conn.ExecContext(ctx, `ROLLBACK`); err != nil {
		k.t.Error(err)
	}
}

// malformed sends what no client should. All of it is refused, none of it with
// the service's own fault.
func (k *soak) malformed() {
	s := k.service.Load()
	for _, path := range []string{"/async", "/sync"} {
		for _, body := range []string{
			``, `{`, `[]`, `null`, `{"data":1}`, `{"data":{},"data":{}}`, `{"data":{"a":1e999999}}x`, `{"Data":{}}`,
			`{"data":{},"complexity":0}`, `{"data":{},"complexity":1e400}`, `{"data":{},"workload":"nothing"}`,
			`{"data":{},"callback_url":"http://169.254.169.254/"}`, `{"data":{},"callback_url":"gopher://x"}`,
			"\x00\xff", fmt.Sprintf(`{"data":{"a":%q}}`, make([]byte, 20_000)),
		} {
			a, err := s.try("POST", path, body)
			if err != nil || a.status < 400 || a.status >= 500 {
				k.t.Errorf("POST %s of %.40q answers %d %s, %v", path, body, a.status, a.body, err)
			}
		}
	}
	for _, path := range []string{"/requests/req_", "/requests?cursor=%00", "/requests?limit=-1", "/nothing"} {
		if a, err := s.try("GET", path, nil); err != nil || a.status < 400 || a.status >= 500 {
			k.t.Errorf("GET %s answers %d %s, %v", path, a.status, a.body, err)
		}
	}
	for _, raw := range []string{"GARBAGE\r\n\r\n", "POST /async HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", "POST /async HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "\x16\x03\x01\x02\x00"} {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			k.t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, raw) // what it does with it is its own affair,
		conn.Close()                     // as long as it lives on
	}
}

// slowClient sends the header of a request a byte at a time, and leaves before
// it is complete.
func slowClient(addr string) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return // the service is down
	}
	defer conn.Close()
	for _, b := range []byte("POST /sync HTTP/1.1\r\nHost: x\r\nX-A: b") {
		if _, err := conn.Write([]byte{b}); err != nil {
			return // it was cut off
		}
		time.Sleep(80 * time.Millisecond)
	}
}
