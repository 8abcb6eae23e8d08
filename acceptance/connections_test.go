package acceptance

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
)

var manyConnections = flag.Int("overload.connections", 2000, "idle connections that are held open")

// dialAll opens n connections, each of which has had one answer, and closes them
// with the test.
func dialAll(t *testing.T, addr string, n int) {
	t.Helper()
	conns := make([]net.Conn, n)
	t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	})
	var dialing sync.WaitGroup
	failed := make(chan error, 8)
	for first := range 8 {
		dialing.Go(func() {
			for i := first; i < n; i += 8 {
				c, err := net.DialTimeout("tcp", addr, patience)
				if err != nil {
					failed <- fmt.Errorf("connection %d: %w; raise the limit of open files (ulimit -n) or lower -overload.connections", i, err)
					return
				}
				conns[i] = c
				if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
					failed <- err
					return
				}
				answer, err := http.ReadResponse(bufio.NewReaderSize(c, 1024), nil)
				if err != nil {
					failed <- fmt.Errorf("connection %d: %w", i, err)
					return
				}
				_, _ = io.Copy(io.Discard, answer.Body)
			}
		})
	}
	dialing.Wait()
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
}

// Thousands of connections are idle, and others drip their headers. The idle
// ones cost little, the slow ones are cut, and a client who is well is served as
// before.
func TestIdleAndSlowConnectionsCostLittle(t *testing.T) {
	patient(t)
	const slow = 200
	s := serve(t, "--max-connections", fmt.Sprint(*manyConnections+2*slow+100))
	alone := s.latencies(100)
	before, _, measured := s.resident(t)
	dialAll(t, s.addr, *manyConnections)
	after, _, _ := s.resident(t)
	each := 1024 * (after - before) / float64(*manyConnections)
	if t.Logf("%d idle connections: %.0f MB before, %.0f MB after, %.1f KB each", *manyConnections, before, after, each); measured && !raced && each > 25 {
		t.Errorf("an idle connection costs %.1f KB, want at most 25", each)
	}

	// Slow headers are cut after 5 s, whatever comes of them meanwhile.
	var attack sync.WaitGroup
	lasted := make(chan time.Duration, slow)
	for range slow {
		attack.Go(func() {
			c, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			began := time.Now()
			go func() { // a byte now and then, as an attack of this kind does
				text := "POST /sync HTTP/1.1\r\nHost: a\r\nX-Slow: "
				for {
					if _, err := io.WriteString(c, text); err != nil {
						return
					}
					text = "z"
					time.Sleep(200 * time.Millisecond)
				}
			}()
			if err := c.SetReadDeadline(began.Add(5*time.Second + patience)); err != nil {
				t.Error(err)
			}
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("a connection that drips its headers is not cut")
			}
			lasted <- time.Since(began)
		})
	}
	among := s.latencies(100)
	attack.Wait()
	close(lasted)
	var times []time.Duration
	for d := range lasted {
		times = append(times, d)
	}
	slices.Sort(times)
	t.Logf("%d slow connections are cut after %v to %v; GET /healthz takes p50 %v, p95 %v alone, and %v, %v among all of them",
		slow, times[0].Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond), at(alone, .5), at(alone, .95), at(among, .5), at(among, .95))
	if at(among, .95) > time.Second {
		t.Error("a client who is well waits for those who are slow")
	}
	s.async(quick)
}

// latencies returns how long n GETs took, sorted, each on a connection of its
// own and at least 10 ms after the one before.
func (s *service) latencies(n int) []time.Duration {
	s.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	all := make([]time.Duration, n)
	for i := range all {
		<-ticker.C
		began := time.Now()
		answer, err := client.Get(s.url() + "/healthz")
		if err != nil {
			s.t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		all[i] = time.Since(began)
	}
	slices.Sort(all)
	return all
}
