package loadtest

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tandem/internal/target"
)

func testClient(t *testing.T, url string, timeout time.Duration) *client {
	t.Helper()
	began := time.Now()
	c, err := newClient(url, timeout, func() time.Duration { return max(time.Since(began), 1) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func exchangeOne(c *client, m target.Message) exchange {
	x := c.write(m)
	if x.err == nil {
		c.read(&x)
	}
	x.body = append([]byte(nil), x.body...)
	c.done(x)
	return x
}

// scripted answers each request on a connection with the next text; an empty
// one closes the connection instead.
func scripted(t *testing.T, answers ...string) (url string, connections *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	connections = &atomic.Int64{}
	var next atomic.Int64
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					request, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					request.Body.Close()
					n := int(next.Add(1)) - 1
					if n >= len(answers) || answers[n] == "" {
						return
					}
					fmt.Fprint(c, answers[n])
					if strings.Contains(answers[n], "Connection: close") {
						return
					}
				}
			}()
		}
	}()
	return "http://" + listener.Addr().String(), connections
}

func TestTheClientReadsWhatServersSay(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for name, row := range map[string]struct {
		answers     []string
		status      int
		body        string
		category    string // of an error
		connections int64
	}{
		"twice on one connection": {[]string{ok, ok}, 200, "ok", "", 1},
		"chunked":                 {[]string{"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", ok}, 200, "ok", "", 1},
		"early hints":             {[]string{ok, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok}, 200, "ok", "", 1},
		"no body":                 {[]string{ok, "HTTP/1.1 204 No Content\r\n\r\n"}, 204, "", "", 1},
		"closing":                 {[]string{"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", ok}, 200, "ok", "", 2},
		"gone":                    {[]string{ok, ""}, 0, "", CategoryConnect, 1},
		"no HTTP":                 {[]string{ok, "SSH-2.0\r\n\r\n"}, 0, "", CategoryConnect, 1},
		"too large":               {[]string{ok, "HTTP/1.1 200 OK\r\nContent-Length: 2097153\r\n\r\n" + strings.Repeat("x", 2097153)}, 200, "", CategoryBadAnswer, 1},
	} {
		t.Run(name, func(t *testing.T) {
			url, connections := scripted(t, row.answers...)
			c := testClient(t, url, 10*time.Second)
			m := target.Message{Method: "POST", Path: "/", Header: http.Header{}, Body: []byte("{}")}
			if x := exchangeOne(c, m); x.err != nil {
				t.Fatal(x.err)
			}
			x := exchangeOne(c, m)
			got := ""
			if x.err != nil {
				got = category(x.err)
			}
			if got != row.category || x.err == nil && (x.status != row.status || string(x.body) != row.body) {
				t.Errorf("%d %q %v", x.status, x.body, x.err)
			}
			if n := connections.Load(); n != row.connections {
				t.Errorf("%d connections, want %d", n, row.connections)
			}
			if c.inFlight.Load() != 0 {
				t.Errorf("%d are in flight", c.inFlight.Load())
			}
		})
	}
}

func TestAnIdleConnectionThatWasClosedIsNotUsed(t *testing.T) {
	url, connections := scripted(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	c := testClient(t, url, 10*time.Second)
	m := target.Message{Method: "GET", Path: "/"}
	if x := exchangeOne(c, m); x.err != nil {
		t.Fatal(x.err)
	}
	cn := c.idle[0]
	cn.Conn.(*net.TCPConn).CloseRead() // as if the server had: there is an end to read
	cn.used -= time.Minute
	if x := exchangeOne(c, m); x.err != nil || connections.Load() != 2 {
		t.Errorf("%v over %d connections, want a second one", x.err, connections.Load())
	}
}

func TestAnAnswerThatDoesNotComeTimesOut(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	x := exchangeOne(testClient(t, server.URL, 30*time.Millisecond), target.Message{Method: "GET", Path: "/"})
	if x.err == nil || category(x.err) != CategoryTimeout || x.written == 0 || x.answered < x.written {
		t.Errorf("%+v", x)
	}
}

func TestTheClientSpeaksTLSAndKeepsThePath(t *testing.T) {
	var got *http.Request
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r }))
	defer server.Close()
	c := testClient(t, server.URL+"/base/", 10*time.Second)
	if x := exchangeOne(c, target.Message{Method: "GET", Path: "/x?y=1"}); x.err == nil {
		t.Error("a certificate that nobody vouches for was believed")
	}
	c.tls.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	x := exchangeOne(c, target.Message{Method: "GET", Path: "/x?y=1", Header: http.Header{"X-A": {"b"}}})
	if x.err != nil || x.connecting == 0 {
		t.Fatalf("%+v", x)
	}
	if got.RequestURI != "/base/x?y=1" || got.Header.Get("X-A") != "b" || got.Host != strings.TrimPrefix(server.URL, "https://") {
		t.Errorf("the server got %s for %s with %v", got.RequestURI, got.Host, got.Header)
	}
}

func TestABadBaseURLIsRefused(t *testing.T) {
	for _, url := range []string{"", "localhost:8000", "ftp://h", "http://", "http://u:secret@h", "http://h?q", "http://h#f", "http://[::1"} {
		_, err := newClient(url, time.Second, nil)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", url, err)
		}
	}
}
