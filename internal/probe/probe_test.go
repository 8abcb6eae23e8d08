package probe

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// gullible is an instance without a defence: it takes everything from anybody,
// and says it back.
func gullible(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		body = []byte(err.Error())
	}
	w.Header().Set("Server", "gullible/1.0")
	w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
	w.Header().Set("X-Request-ID", r.Header.Get("X-Request-ID"))
	if r.Method == http.MethodPost {
		w.WriteHeader(http.StatusAccepted)
	}
	// An error here is the prober's, who sees it too.
	_ = json.NewEncoder(w).Encode(map[string]string{
		"backend": "none", "request_id": "req_0123456789abcdef0123456789abcdef",
		"you_sent": r.URL.String() + r.Header.Get("Authorization") + string(body),
	})
}

func instance(t *testing.T, server *httptest.Server, target Target) *Instance {
	t.Helper()
	target.URL, target.Patience = server.URL, 2*time.Second
	i, err := Connect(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestAnInstanceWithoutDefencesFailsEveryProbe(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(gullible))
	server.Config.MaxHeaderBytes = 8 << 20
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	i := instance(t, server, Target{Key: "one", OtherKey: "other"})
	for _, p := range All {
		t.Run(p.Name, func(t *testing.T) {
			found := i.Run(t.Context(), p)
			switch {
			case p.Name == "transport":
				if found.Verdict != Skipped {
					t.Errorf("over loopback the verdict is %s", found.Verdict)
				}
			case found.Verdict != Failed || len(found.Reasons) == 0 || len(found.Reasons) > maxReasons+1:
				t.Errorf("%s: %q", found.Verdict, found.Reasons)
			}
		})
	}
}

func TestOldTLSIsSeen(t *testing.T) {
	for name, row := range map[string]struct {
		min  uint16
		want string
	}{
		"a server that speaks TLS 1.0": {tls.VersionTLS10, "TLS 1.1 or older"},
		"one that speaks TLS 1.2":      {tls.VersionTLS12, "Strict-Transport-Security"},
	} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(gullible))
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.TLS = &tls.Config{MinVersion: row.min}
		server.StartTLS()
		t.Cleanup(server.Close)
		c, err := newClient(Target{URL: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		c.http = server.Client()
		c.tls = &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
		if err := transport(t.Context(), c); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %s", name, err, row.want)
		}
	}
}

func TestWhatCannotBeProbedIsSaidBefore(t *testing.T) {
	answering := func(status int, body string) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/healthz" {
				_, _ = io.WriteString(w, body)
				return
			}
			w.WriteHeader(status)
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	tandem := `{"backend":"embedded"}`
	for _, row := range []struct {
		what   string
		target Target
		want   string
	}{
		{"no URL", Target{}, "must be like"},
		{"a URL with a query", Target{URL: "http://a/?b"}, "must be like"},
		{"a URL with credentials", Target{URL: "http://a:b@c"}, "must be like"},
		{"nobody there", Target{URL: "http://127.0.0.1:1"}, "reach"},
		{"another program", Target{URL: answering(200, "hello")}, "not as Tandem does"},
		{"no key", Target{URL: answering(401, tandem)}, "none was given"},
		{"a wrong key", Target{URL: answering(401, tandem), Key: "k"}, "the key is not taken"},
	} {
		if _, err := Connect(t.Context(), row.target); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.what, err, row.want)
		}
	}
}

// clientOf returns a client of an instance that does no more with each connection
// than serve does, and then closes it.
func clientOf(t *testing.T, patience time.Duration, serve func(net.Conn)) *client {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				serve(conn)
				conn.Close()
			}()
		}
	}()
	c, err := newClient(Target{URL: "http://" + listener.Addr().String(), Patience: patience})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// An instance that leaves a connection hanging has not closed it.
func TestAHangIsNoRefusal(t *testing.T) {
	c := clientOf(t, 200*time.Millisecond, func(conn net.Conn) {
		_, _ = io.Copy(io.Discard, conn) // whatever it says, and no answer
	})
	for name, run := range map[string]func(context.Context, *client) error{
		"framing": framing, "slow headers": slowHeaders, "large headers": largeHeaders,
	} {
		if err := run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "200ms") {
			t.Errorf("%s: %v, want that nothing came within 200ms", name, err)
		}
	}
}

// One that closes it has refused.
func TestAClosedConnectionIsARefusal(t *testing.T) {
	c := clientOf(t, 30*time.Second, func(net.Conn) {})
	for name, run := range map[string]func(context.Context, *client) error{"framing": framing, "large headers": largeHeaders} {
		if err := run(t.Context(), c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A prober that runs into a rate comes back when it is told to.
func TestARateIsWaitedFor(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}))
	t.Cleanup(server.Close)
	told := ""
	c, err := newClient(Target{URL: server.URL, Log: func(s string) { told = s }})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := c.do(t.Context(), exchange{path: "/"}); err != nil || a.status != 200 || told == "" {
		t.Errorf("%d, %v, told %q", a.status, err, told)
	}
	asked = 0
	if a, err := c.do(t.Context(), exchange{path: "/", hurried: true}); err != nil || a.status != 429 {
		t.Errorf("in a hurry: %d, %v", a.status, err)
	}
}
