//go:build unix

package acceptance

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"
)

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
