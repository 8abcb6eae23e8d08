package callback_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tandem"
	"tandem/internal/callback"
)

// rawReceiver accepts connections and hands each to serve, which may do what
// no HTTP server would. Connections end with the test.
func rawReceiver(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// afterRequest reads one whole request before it goes on.
func afterRequest(then func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		io.Copy(io.Discard, r.Body)
		then(c)
	}
}

func writing(text string) func(net.Conn) {
	return afterRequest(func(c net.Conn) { io.WriteString(c, text) })
}

// hang waits until the other side has gone.
func hang(c net.Conn) { io.Copy(io.Discard, c) }

func TestSendSurvivesHostileReceivers(t *testing.T) {
	const short = 150 * time.Millisecond // for those that use up any time they are given
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"

	tests := []struct {
		name   string
		serve  func(net.Conn)
		class  tandem.ErrorClass
		status int
		body   string
		slow   bool // takes the whole attempt's time, and no longer
	}{
		{"accepts and says nothing", hang, tandem.ClassTimeout, 0, "", true},
		{"reads the request and says nothing", afterRequest(hang), tandem.ClassTimeout, 0, "", true},
		{"stops in the middle of the headers", afterRequest(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-")
			hang(c)
		}), tandem.ClassTimeout, 0, "", true},
		{"drips headers", afterRequest(func(c net.Conn) { drip(c, "HTTP/1.1 200 OK\r\nX-Slow: "+strings.Repeat("z", 1000)) }), tandem.ClassTimeout, 0, "", true},

		{"answers 200 and stops in the body", afterRequest(func(c net.Conn) {
			io.WriteString(c, ok+"he")
			hang(c)
		}), tandem.ClassNone, 200, "he", true},
		{"answers 500 and stops in the body", afterRequest(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\nhe")
			hang(c)
		}), tandem.ClassServer, 500, "he", true},
		{"drips a body", afterRequest(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			drip(c, strings.Repeat("z", 1000))
		}), tandem.ClassNone, 200, "", true},
		{"breaks off in the body", writing(ok + "he"), tandem.ClassNone, 200, "he", false},
		{"garbles a chunk", writing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\nzz\r\n"), tandem.ClassNone, 200, "he", false},

		{"closes at once", func(net.Conn) {}, tandem.ClassConnect, 0, "", false},
		{"closes after the request", afterRequest(func(net.Conn) {}), tandem.ClassConnect, 0, "", false},
		{"closes between two headers", writing("HTTP/1.1 200 OK\r\nX-One: 1\r\n"), tandem.ClassConnect, 0, "", false},
		{"closes within a header", writing("HTTP/1.1 200 OK\r\nContent-"), tandem.ClassProtocol, 0, "", false},
		{"resets", afterRequest(func(c net.Conn) { c.(*net.TCPConn).SetLinger(0) }), tandem.ClassConnect, 0, "", false},

		{"speaks SSH", writing("SSH-2.0-OpenSSH_9.9\r\n"), tandem.ClassProtocol, 0, "", false},
		{"speaks HTTP/0.9", writing("<html>hello</html>\n"), tandem.ClassProtocol, 0, "", false},
		{"has a status of four digits", writing("HTTP/1.1 2000 OK\r\n\r\n"), tandem.ClassProtocol, 0, "", false},
		{"has a status no one knows", writing("HTTP/1.1 666 Beast\r\nContent-Length: 0\r\n\r\n"), tandem.ClassProtocol, 666, "", false},
		{"has two lengths", writing("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), tandem.ClassProtocol, 0, "", false},
		{"sends bytes that are no text", writing("\x00\xff\xfe" + strings.Repeat("\xf0", 5000) + "\r\n"), tandem.ClassProtocol, 0, "", false},
		{"switches protocols unasked, and waits", afterRequest(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
			hang(c)
		}), tandem.ClassProtocol, 101, "", false},
		{"sends headers without end", afterRequest(func(c net.Conn) { repeat(c, "HTTP/1.1 200 OK\r\n", "X-More: and more\r\n") }), tandem.ClassProtocol, 0, "", false},
		{"sends one header without end", afterRequest(func(c net.Conn) { repeat(c, "HTTP/1.1 200 OK\r\nX-Long: ", "zzzzzzzzzzzzzzzz") }), tandem.ClassProtocol, 0, "", false},
		{"sends informational answers without end", afterRequest(func(c net.Conn) { repeat(c, "", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n") }), tandem.ClassProtocol, 0, "", false},
		{"sends some informational answers first", writing(strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 20) + ok + "hello"), tandem.ClassNone, 200, "hello", false},
	}
	s := newSender(t, callback.Options{AttemptTimeout: 20 * time.Second})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := message("http://ann:hunter2@" + rawReceiver(t, tt.serve) + "/hook?token=hunter2")
			if tt.slow {
				m.Timeout = short
			}
			start := time.Now()
			a := s.Send(t.Context(), m)
			took := time.Since(start)

			if a.Class != tt.class || a.Status != tt.status {
				t.Errorf("got class %q, status %d (%s), want class %q, status %d", a.Class, a.Status, a.Error, tt.class, tt.status)
			}
			if tt.body != "" && string(a.Body) != tt.body {
				t.Errorf("got body %q, want %q", a.Body, tt.body)
			}
			if (a.Error == "") != (a.Class == tandem.ClassNone) {
				t.Errorf("got error %q with class %q", a.Error, a.Class)
			}
			if strings.Contains(a.Error, "hunter2") || len(a.Error) > 400 || strings.ToValidUTF8(a.Error, "") != a.Error {
				t.Errorf("got an error not fit for people: %q", a.Error)
			}
			if tt.slow && took < short {
				t.Errorf("gave up after %v, want no sooner than %v", took, short)
			}
			if took > 10*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// drip writes a byte at a time until the other side has gone.
func drip(c net.Conn, text string) {
	for i := range text {
		if _, err := io.WriteString(c, text[i:i+1]); err != nil {
			return
		}
		time.Sleep(5 * time.Millisecond) // the drip itself; nothing waits for it
	}
}

// repeat writes first, and then part until the other side has gone.
func repeat(c net.Conn, first, part string) {
	io.WriteString(c, first)
	many := strings.Repeat(part, 100)
	for {
		if _, err := io.WriteString(c, many); err != nil {
			return
		}
	}
}

// A receiver that answers with ten gigabytes gets rid of what the kernels'
// buffers hold, and no more.
func TestSendReadsNoEndlessAnswer(t *testing.T) {
	const size = 10 << 30
	written := make(chan int64, 1)
	addr := rawReceiver(t, afterRequest(func(c net.Conn) {
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", int64(size))
		n, chunk := int64(0), make([]byte, 64<<10)
		for n < size {
			k, err := c.Write(chunk)
			n += int64(k)
			if err != nil {
				break
			}
		}
		written <- n
	}))
	a := newSender(t, callback.Options{}).Send(t.Context(), message("http://"+addr))
	if a.Class != tandem.ClassNone || len(a.Body) != callback.KeptBody {
		t.Errorf("got class %q with %d bytes, want it delivered with %d", a.Class, len(a.Body), callback.KeptBody)
	}
	if got := <-written; got > 64<<20 {
		t.Errorf("the receiver got rid of %d bytes", got)
	}
}

// A receiver may close a connection at any time after an answer. The next
// attempt finds out only by using it, and must not be spent on that.
func TestSendRepeatsOnAConnectionClosedMeanwhile(t *testing.T) {
	var connections, requests atomic.Int64
	addr := rawReceiver(t, func(c net.Conn) {
		connections.Add(1)
		br := bufio.NewReader(c)
		for i := range 2 {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			requests.Add(1)
			if i == 1 {
				return // as a server does whose idle timeout ran out just then
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	s := newSender(t, callback.Options{})
	for i := range 2 {
		if a := s.Send(t.Context(), message("http://"+addr)); a.Class != tandem.ClassNone {
			t.Errorf("attempt %d: got class %q: %s", i+1, a.Class, a.Error)
		}
	}
	if c, r := connections.Load(), requests.Load(); c != 2 || r != 3 {
		t.Errorf("got %d connections and %d requests, want 2 and 3: the second attempt on both", c, r)
	}
}

type refusal struct{ denied bool }

func (r refusal) Error() string      { return "10.0.0.1 is private" }
func (r refusal) EgressDenied() bool { return r.denied }

func TestSendClassifiesWhatTheDialerSays(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	failing := func(err error) callback.DialFunc {
		return func(context.Context, string, string) (net.Conn, error) { return nil, err }
	}
	untilItsTimeIsOver := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	dns := &net.DNSError{Err: "no such host", Name: "receiver.test", Server: "192.0.2.53:53", IsNotFound: true}

	tests := []struct {
		name    string
		dial    callback.DialFunc
		connect time.Duration
		attempt time.Duration
		class   tandem.ErrorClass
		text    string
	}{
		{"the guard denies", failing(fmt.Errorf("dial: %w", refusal{true})), 0, 0, tandem.ClassDenied, "10.0.0.1 is private"},
		{"the guard denies from within the dialer", failing(&net.OpError{Op: "dial", Err: refusal{true}}), 0, 0, tandem.ClassDenied, "10.0.0.1 is private"},
		{"an error that could deny and does not", failing(refusal{false}), 0, 0, tandem.ClassConnect, "10.0.0.1 is private"},
		{"the name is unknown", failing(&net.OpError{Op: "dial", Err: dns}), 0, 0, tandem.ClassDNS, "resolve receiver.test: no such host"},
		{"the name takes too long", failing(&net.DNSError{Err: "i/o timeout", Name: "receiver.test", IsTimeout: true}), 0, 0, tandem.ClassDNS, "resolve receiver.test: i/o timeout"},
		{"the connection is refused", func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, closed.Addr().String())
		}, 0, 0, tandem.ClassConnect, "refused"},
		{"the dialer gives up with an end", failing(io.EOF), 0, 0, tandem.ClassConnect, "EOF"},
		{"connecting takes longer than it may", untilItsTimeIsOver, 50 * time.Millisecond, 10 * time.Second, tandem.ClassConnect, "deadline exceeded"},
		{"the attempt ends while connecting", untilItsTimeIsOver, 10 * time.Second, 50 * time.Millisecond, tandem.ClassTimeout, "no answer within 50ms"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := callback.NewSender(tt.dial, callback.Options{ConnectTimeout: tt.connect, AttemptTimeout: tt.attempt})
			t.Cleanup(s.Close)
			a := s.Send(t.Context(), message("http://ann:hunter2@receiver.test/?token=hunter2"))
			if a.Class != tt.class || !strings.Contains(a.Error, tt.text) || a.Status != 0 || a.Interrupted {
				t.Errorf("got class %q, error %q, want class %q, error with %q", a.Class, a.Error, tt.class, tt.text)
			}
			if strings.Contains(a.Error, "hunter2") || strings.Contains(a.Error, "192.0.2.53") {
				t.Errorf("the error says too much: %s", a.Error)
			}
			if a.Duration > 5*time.Second {
				t.Errorf("took %v", a.Duration)
			}
		})
	}
}

func TestMessageTimeoutOverridesTheSenders(t *testing.T) {
	m := message("http://" + rawReceiver(t, hang))
	m.Timeout = 30 * time.Millisecond
	a := newSender(t, callback.Options{AttemptTimeout: time.Minute}).Send(t.Context(), m)
	if a.Class != tandem.ClassTimeout || a.Duration > 10*time.Second {
		t.Errorf("got class %q after %v, want a timeout after %v", a.Class, a.Duration, m.Timeout)
	}
}

func TestSendOverTLS(t *testing.T) {
	var proto atomic.Value
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proto.Store(r.Proto)
		io.WriteString(w, strings.Repeat("z", 2*callback.MaxAnswer))
	})
	secure := func(config *tls.Config, http2 bool) *httptest.Server {
		server := httptest.NewUnstartedServer(handler)
		server.TLS, server.EnableHTTP2 = config, http2
		server.Config.ErrorLog = log.New(io.Discard, "", 0) // bad handshakes are the point
		server.StartTLS()
		t.Cleanup(server.Close)
		return server
	}
	h1, h2 := secure(nil, false), secure(nil, true)
	wantsClient := secure(&tls.Config{ClientAuth: tls.RequireAnyClientCert}, false)
	old := secure(&tls.Config{MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11}, false)
	plain := newReceiver(t, handler)
	trusted := x509.NewCertPool()
	trusted.AddCert(h1.Certificate())

	tests := []struct {
		name  string
		host  string // the certificate is for example.com
		addr  string
		roots *x509.CertPool
		class tandem.ErrorClass
		proto string

		connect time.Duration
	}{
		{"HTTP/1.1", "example.com", h1.Listener.Addr().String(), trusted, tandem.ClassNone, "HTTP/1.1", 0},
		{"HTTP/2", "example.com", h2.Listener.Addr().String(), trusted, tandem.ClassNone, "HTTP/2.0", 0},
		{"a certificate that nobody trusts", "example.com", h1.Listener.Addr().String(), nil, tandem.ClassTLS, "", 0},
		{"a certificate for another name", "receiver.test", h1.Listener.Addr().String(), trusted, tandem.ClassTLS, "", 0},
		{"a receiver that wants a client's certificate", "example.com", wantsClient.Listener.Addr().String(), trusted, tandem.ClassTLS, "", 0},
		{"a receiver that knows TLS 1.1 at most", "example.com", old.Listener.Addr().String(), trusted, tandem.ClassTLS, "", 0},
		{"a receiver that speaks plain HTTP", "example.com", plain.Listener.Addr().String(), trusted, tandem.ClassTLS, "", 0},
		{"a receiver that closes in the handshake", "example.com", rawReceiver(t, func(net.Conn) {}), trusted, tandem.ClassTLS, "", 0},
		{"a receiver that is silent in the handshake", "example.com", rawReceiver(t, hang), trusted, tandem.ClassTLS, "", 50 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			proto.Store("")
			s := callback.NewSender(func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, tt.addr)
			}, callback.Options{RootCAs: tt.roots, ConnectTimeout: tt.connect})
			t.Cleanup(s.Close)
			a := s.Send(t.Context(), message("https://"+tt.host+"/hook?token=hunter2"))
			if a.Class != tt.class || strings.Contains(a.Error, "hunter2") {
				t.Errorf("got class %q: %s, want class %q", a.Class, a.Error, tt.class)
			}
			if a.Duration > 5*time.Second {
				t.Errorf("took %v", a.Duration)
			}
			if got := proto.Load(); got != tt.proto {
				t.Errorf("got %q, want %q", got, tt.proto)
			}
			if tt.class == tandem.ClassNone && len(a.Body) != callback.KeptBody {
				t.Errorf("kept %d bytes, want %d", len(a.Body), callback.KeptBody)
			}
		})
	}
}

// Errors that no test can provoke reliably.
func TestClassifyError(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want tandem.ErrorClass
	}{
		{"a socket's own timeout", &net.OpError{Op: "read", Err: context.DeadlineExceeded}, tandem.ClassTimeout},
		{"a socket that failed", &net.OpError{Op: "read", Err: errors.New("no route to host")}, tandem.ClassConnect},
		{"a socket that was closed", fmt.Errorf("read: %w", net.ErrClosed), tandem.ClassConnect},
		{"the context's deadline", context.DeadlineExceeded, tandem.ClassTimeout},
		{"net/http's word for a receiver that hangs up unasked", errors.New("http: server closed idle connection"), tandem.ClassConnect},
		{"an error that nobody has heard of", errors.New("http2: something"), tandem.ClassProtocol},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, text := callback.ClassifyError(tt.err); got != tt.want || text == "" {
				t.Errorf("got class %q, text %q, want class %q", got, text, tt.want)
			}
		})
	}
}
