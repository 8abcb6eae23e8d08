package acceptance

import (
	"bufio"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var hostileStrict = flag.Bool("hostile.strict", false, "hold the latency of healthy hosts to twice that without the hostile ones, which needs a machine for itself")

// sick is a receiver that does its callers harm, and what is to be on record of
// it.
type sick struct {
	name  string
	url   func(t *testing.T) string
	class string // of every failed attempt
	state string // of the callback in the end
	tries int    // attempts on record in the end
}

// rawReceiver accepts connections, reads a request from each and hands it on.
// Connections end with the test.
func rawReceiver(t *testing.T, answer func(net.Conn)) string {
	t.Helper()
	return rawListener(t, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		answer(c)
	})
}

func rawListener(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	ended := make(chan struct{})
	serving.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				stop := make(chan struct{})
				defer close(stop)
				go func() {
					select {
					case <-ended:
						c.Close()
					case <-stop:
					}
				}()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		close(ended)
		listener.Close()
		serving.Wait()
	})
	return "http://" + listener.Addr().String() + "/hook"
}

// hang waits until the other side has gone.
func hang(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// say writes a text, and then does as next says.
func say(text string, next func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.WriteString(c, text); err == nil && next != nil {
			next(c)
		}
	}
}

// forEver writes a text again and again, with a pause after each, until the
// other side has gone.
func forEver(text string, pause time.Duration) func(net.Conn) {
	return func(c net.Conn) {
		for {
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
			time.Sleep(pause) // the drip itself; nothing waits for it
		}
	}
}

func sickReceivers(t *testing.T, inside string) []sick {
	raw := func(answer func(net.Conn)) func(*testing.T) string {
		return func(t *testing.T) string { return rawReceiver(t, answer) }
	}
	handler := func(h func(w http.ResponseWriter, n int64)) func(*testing.T) string {
		return func(t *testing.T) string {
			var n atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				h(w, n.Add(1))
			}))
			t.Cleanup(server.Close)
			return server.URL + "/hook"
		}
	}
	const ok = "HTTP/1.1 200 OK\r\n"
	all := []sick{
		{"accepts and reads nothing", func(t *testing.T) string { return rawListener(t, hang) }, "timeout", "failed", 2},
		{"hangs before the headers", raw(hang), "timeout", "failed", 2},
		{"hangs in the headers", raw(say(ok+"Content-", hang)), "timeout", "failed", 2},
		{"hangs in the body of a 500", raw(say("HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\nhe", hang)), "5xx", "failed", 2},
		{"hangs in the body of a 200", raw(say(ok+"Content-Length: 5\r\n\r\nhe", hang)), "", "sent", 1},
		{"drips a byte a second of its headers", raw(say(ok+"X-Slow: ", forEver("z", time.Second))), "timeout", "failed", 2},
		{"answers with ten gigabytes", raw(say(ok+"Content-Length: 10737418240\r\n\r\n", forEver(strings.Repeat("z", 1<<20), 0))), "", "sent", 1},
		{"answers 500 with ten gigabytes", raw(say("HTTP/1.1 500 No\r\nContent-Length: 10737418240\r\n\r\n", forEver(strings.Repeat("z", 1<<20), 0))), "5xx", "failed", 2},
		{"sends headers without end", raw(say(ok, forEver("X-More: and more\r\n", 0))), "protocol", "failed", 2},
		{"storms with informational answers", raw(forEver("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 0)), "protocol", "failed", 2},
		{"speaks another protocol", raw(say("SSH-2.0-OpenSSH_9.9\r\n", nil)), "protocol", "failed", 2},
		{"has two lengths", raw(say(ok+"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", nil)), "protocol", "failed", 2},
		{"closes without an answer", raw(func(net.Conn) {}), "connect", "failed", 2},
		{"resets", raw(func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }), "connect", "failed", 2},
		{"listens no more", func(t *testing.T) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
			return "http://" + l.Addr().String() + "/hook"
		}, "connect", "failed", 2},
		{"has a certificate that nobody trusts", func(t *testing.T) string {
			server := httptest.NewUnstartedServer(http.NotFoundHandler())
			server.Config.ErrorLog = log.New(io.Discard, "", 0) // bad handshakes are the point
			server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
			server.StartTLS()
			t.Cleanup(server.Close)
			return server.URL + "/hook"
		}, "tls", "failed", 2},
		{"answers a handshake with HTTP", func(t *testing.T) string {
			return strings.Replace(rawListener(t, say("HTTP/1.1 400 Bad Request\r\n\r\n", nil)), "http://", "https://", 1)
		}, "tls", "failed", 2},
		{"redirects to the inside", handler(func(w http.ResponseWriter, _ int64) {
			w.Header().Set("Location", inside)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}), "redirect", "failed", 2},
		{"wants no more", handler(func(w http.ResponseWriter, _ int64) { w.WriteHeader(http.StatusGone) }), "gone", "failed", 1},
		{"wants to be left alone for 3 s", handler(func(w http.ResponseWriter, n int64) {
			if n == 1 {
				w.Header().Set("Retry-After", "3")
				w.WriteHeader(http.StatusTooManyRequests)
			}
		}), "rate_limited", "sent", 2},
		{"flaps", handler(func(w http.ResponseWriter, n int64) {
			if n%2 == 1 {
				w.WriteHeader(http.StatusBadGateway)
			}
		}), "5xx", "sent", 2},
	}
	if full := fullListener(t); full != "" {
		all = append(all, sick{"hangs at connect", func(*testing.T) string { return full }, "timeout", "failed", 2})
	}
	return all
}

// Receivers of every kind that is not well get callbacks. What became of each
// attempt is on record, the service's memory stays what it is, and those who
// are well do not notice. What sends and judges is the same on each kind of
// database, which keeps what became of it: on Postgres some kinds will do.
func TestHostileReceiversHarmOnlyThemselves(t *testing.T) {
	onEachInPlace(t, hostileReceiversHarmOnlyThemselves, parallel, patient)
}

func hostileReceiversHarmOnlyThemselves(t *testing.T, database string) {
	s := serve(t, "--database", database, "--callback-timeout", "2s", "--callback-attempts", "2", "--callback-per-host", "4")
	inside := receive(t, nil) // it is not to get a thing
	sicks := sickReceivers(t, inside.url)
	if onPostgres(database) {
		some := []string{"hangs before the headers", "resets", "wants to be left alone for 3 s"}
		sicks = slices.DeleteFunc(sicks, func(r sick) bool { return !slices.Contains(some, r.name) })
	}
	urls, ids := make([]string, len(sicks)), make([]string, len(sicks))
	for i, r := range sicks {
		urls[i] = r.url(t)
	}
	well := newProbed(t, s)
	probes := 100
	if *hostileStrict {
		probes = 1000
	}
	alone := well.lag(probes)

	for i := range sicks {
		ids[i] = s.async(submission{Workload: "wait", Data: data, CallbackURL: urls[i]})
	}
	before, _, measured := s.resident(t)
	for i, r := range sicks {
		rec := s.settled(ids[i])
		attempts := s.attempts(ids[i])
		if rec.Callback.State != r.state || len(attempts) != r.tries {
			t.Errorf("a receiver that %s: the callback is %s after %d attempts, want %s after %d: %v", r.name, rec.Callback.State, len(attempts), r.state, r.tries, attempts)
		}
		for j, a := range attempts {
			class := r.class
			if r.state == "sent" && j == len(attempts)-1 {
				class = ""
			}
			if got := strings.Replace(show(a.ErrorClass), "null", "", 1); got != class {
				t.Errorf("a receiver that %s: attempt %d is on record as %q (%s), want %q", r.name, a.Number, got, show(a.Error), class)
			}
			if a.DurationMS > 6000 {
				t.Errorf("a receiver that %s: attempt %d took %.0f ms", r.name, a.Number, a.DurationMS)
			}
		}
		if r.class == "rate_limited" && len(attempts) == 2 {
			if gap := attempts[1].At.Sub(attempts[0].At); gap < 3*time.Second {
				t.Errorf("a receiver that %s was left alone for %v", r.name, gap)
			}
		}
	}
	if n := len(inside.received()); n > 0 {
		t.Errorf("%d callbacks were led to the inside", n)
	}

	// Now each of them is owed many at once.
	for range 20 {
		for _, url := range urls {
			s.async(submission{Workload: "wait", Data: data, CallbackURL: url})
		}
	}
	among := well.lag(probes)
	t.Logf("lag of healthy hosts: median %v, p95 %v, p99 %v without the hostile ones; median %v, p95 %v, p99 %v among them (%.2fx)",
		at(alone, .5), at(alone, .95), at(alone, .99), at(among, .5), at(among, .95), at(among, .99), float64(at(among, .99))/float64(at(alone, .99)))
	if at(among, .95) > time.Second+5*at(alone, .95) { // an attempt at a hostile one takes 2 s
		t.Errorf("healthy hosts wait %v for those that are not", at(among, .95))
	}
	if *hostileStrict && at(among, .99) > 2*at(alone, .99) {
		t.Error("p99 of healthy hosts is over twice that without the hostile ones")
	}
	after, _, _ := s.resident(t)
	if t.Logf("resident memory: %.0f MB before, %.0f MB after", before, after); measured && !raced && after > before+64 {
		t.Errorf("memory grew by %.0f MB", after-before)
	}
}

// probed is a host that is well and takes the time.
type probed struct {
	s    *service
	url  string
	came chan string // paths
}

func newProbed(t *testing.T, s *service) *probed {
	t.Helper()
	p := &probed{s: s, came: make(chan string, 16)}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		p.came <- r.URL.Path
	}))
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// lag submits n requests, 50 a second, and returns how long each took from
// being submitted until its callback came, sorted.
func (p *probed) lag(n int) []time.Duration {
	p.s.t.Helper()
	sent := make([]time.Time, n)
	var lags []time.Duration
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(patience + time.Duration(n)*20*time.Millisecond)
	for i := 0; len(lags) < n; {
		select {
		case <-ticker.C:
			if i < n {
				sent[i] = time.Now()
				p.s.async(submission{Workload: "wait", Data: data, CallbackURL: fmt.Sprintf("%s/%d", p.url, i)})
				i++
			}
		case path := <-p.came:
			var j int
			if _, err := fmt.Sscanf(path, "/%d", &j); err != nil {
				p.s.t.Fatal(err)
			}
			lags = append(lags, time.Since(sent[j]))
		case <-deadline:
			p.s.t.Fatalf("only %d of %d callbacks came to a healthy host", len(lags), n)
		}
	}
	slices.Sort(lags)
	return lags
}

func at(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(q*float64(len(sorted)))].Round(10 * time.Microsecond)
}
