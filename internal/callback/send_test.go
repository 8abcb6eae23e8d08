package callback_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tandem"
	"tandem/internal/callback"
	"tandem/webhook"
)

var secret = webhook.NewSecret()

const body = `{"type":"request.completed","request_id":"req_1"}`

func message(url string) callback.Message {
	return callback.Message{URL: url, ID: "req_1", Body: []byte(body), Secrets: []webhook.Secret{secret}}
}

func newSender(t testing.TB, opts callback.Options) *callback.Sender {
	t.Helper()
	s := callback.NewSender(new(net.Dialer).DialContext, opts)
	t.Cleanup(s.Close)
	return s
}

// receiver is a real server that counts the connections opened to it.
type receiver struct {
	*httptest.Server
	opened atomic.Int64
}

func newReceiver(t testing.TB, handler http.HandlerFunc) *receiver {
	t.Helper()
	rc := &receiver{Server: httptest.NewUnstartedServer(handler)}
	rc.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			rc.opened.Add(1)
		}
	}
	rc.Start()
	t.Cleanup(rc.Close)
	return rc
}

func answering(status int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
	}
}

func TestSendPostsASignedMessage(t *testing.T) {
	at := time.Now().Add(-time.Minute).Truncate(time.Second)
	var got *http.Request
	var verified error
	rc := newReceiver(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, verified = r.Clone(context.Background()), webhook.Verify(r.Header, b, at, secret)
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
		io.WriteString(w, "thanks")
	})
	s := newSender(t, callback.Options{})
	m := message(rc.URL + "/hook?x=1")
	m.At = at
	m.Header = http.Header{"Traceparent": {"00-1-2-03"}, "Webhook-Id": {"forged"}, "Content-Type": {"text/plain"}}

	before := time.Now()
	a := s.Send(t.Context(), m)
	if a.Status != 200 || a.Class != tandem.ClassNone || a.Error != "" || string(a.Body) != "thanks" {
		t.Errorf("got %+v, want 200, no class, no error, and what the receiver wrote", a)
	}
	if a.At.Before(before) || a.Duration <= 0 || a.Duration > time.Since(before) {
		t.Errorf("got start %v and duration %v for an attempt begun at %v", a.At, a.Duration, before)
	}
	if verified != nil {
		t.Errorf("the receiver cannot verify it: %v", verified)
	}
	if got.Method != "POST" || got.URL.String() != "/hook?x=1" || got.ContentLength != int64(len(body)) {
		t.Errorf("got %s %s with %d bytes, want POST /hook?x=1 with %d", got.Method, got.URL, got.ContentLength, len(body))
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Webhook-Id": "req_1", "User-Agent": "Tandem", "Traceparent": "00-1-2-03",
		"Accept-Encoding": "", "Idempotency-Key": "", "Cookie": "", "Authorization": "",
	} {
		if got := got.Header.Values(name); strings.Join(got, ",") != want || (want == "" && got != nil) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if len(m.Header) != 3 || m.Header.Get("Webhook-Id") != "forged" {
		t.Errorf("the caller's header was changed: %v", m.Header)
	}

	s.Send(t.Context(), m)
	if c := got.Header.Get("Cookie"); c != "" {
		t.Errorf("a cookie was kept: %s", c)
	}
}

// Short messages and long ones go different ways.
func TestSendSendsAnIdempotencyKeyThatIsGiven(t *testing.T) {
	var got []string
	rc := newReceiver(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header["Idempotency-Key"] })
	s := newSender(t, callback.Options{})
	for _, size := range []int{10, 1 << 20} {
		m := message(rc.URL)
		m.Body = bytes.Repeat([]byte("x"), size)
		m.Header = http.Header{"Idempotency-Key": {"abc"}}
		if a := s.Send(t.Context(), m); a.Status != 200 || len(got) != 1 || got[0] != "abc" {
			t.Errorf("with %d bytes: the receiver got %q, want abc, and answered %d", size, got, a.Status)
		}
	}
}

func TestSendStampsThePresentByDefault(t *testing.T) {
	var verified error
	rc := newReceiver(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		verified = webhook.VerifyWithin(2*time.Second, r.Header, b, time.Now(), secret)
	})
	newSender(t, callback.Options{}).Send(t.Context(), message(rc.URL))
	if verified != nil {
		t.Error(verified)
	}
}

func TestSendReadsTheStatus(t *testing.T) {
	tests := []struct {
		name    string
		handler http.HandlerFunc
		class   tandem.ErrorClass
		status  int
		text    string
		after   time.Duration
	}{
		{"204 is delivered", answering(204), tandem.ClassNone, 204, "", 0},
		{"an unregistered 2xx is delivered", answering(299), tandem.ClassNone, 299, "", 0},
		{"a 2xx asks for no time", answering(202, "Retry-After", "5"), tandem.ClassNone, 202, "", 0},
		{"404 is the caller's", answering(404), tandem.ClassClient, 404, "answered 404 Not Found", 0},
		{"410 wants no more", answering(410), tandem.ClassGone, 410, "answered 410 Gone", 0},
		{"429 asks for seconds", answering(429, "Retry-After", "120"), tandem.ClassLimited, 429, "answered 429 Too Many Requests", 2 * time.Minute},
		{"503 asks for a day at most", answering(503, "Retry-After", "999999"), tandem.ClassServer, 503, "answered 503 Service Unavailable", 24 * time.Hour},
		{"a status without a name", answering(599), tandem.ClassServer, 599, "answered 599", 0},
	}
	s := newSender(t, callback.Options{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := s.Send(t.Context(), message(newReceiver(t, tt.handler).URL))
			if a.Class != tt.class || a.Status != tt.status || a.Error != tt.text || a.RetryAfter != tt.after {
				t.Errorf("got class %q, status %d, error %q, retry after %v\nwant class %q, status %d, error %q, retry after %v",
					a.Class, a.Status, a.Error, a.RetryAfter, tt.class, tt.status, tt.text, tt.after)
			}
		})
	}
}

func TestSendFollowsNoRedirect(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		followed := false
		target := newReceiver(t, func(http.ResponseWriter, *http.Request) { followed = true })
		rc := newReceiver(t, answering(status, "Location", target.URL))
		a := newSender(t, callback.Options{}).Send(t.Context(), message(rc.URL))
		if a.Class != tandem.ClassRedirect || a.Status != status || followed {
			t.Errorf("%d: got class %q, status %d, followed %v, want a redirect that is not followed", status, a.Class, a.Status, followed)
		}
	}
}

func TestSendAuthenticatesAsTheURLSays(t *testing.T) {
	var user, password string
	rc := newReceiver(t, func(w http.ResponseWriter, r *http.Request) { user, password, _ = r.BasicAuth() })
	newSender(t, callback.Options{}).Send(t.Context(), message(strings.Replace(rc.URL, "://", "://ann:p%40ss@", 1)))
	if user != "ann" || password != "p@ss" {
		t.Errorf("got user %q, password %q, want those of the URL", user, password)
	}
}

// net/http reads the environment's proxy once for the whole process, so it is
// set before any test runs.
func TestMain(m *testing.M) {
	os.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	os.Exit(m.Run())
}

// The environment's proxy would be a way past the egress guard.
func TestSendUsesNoProxy(t *testing.T) {
	rc := newReceiver(t, answering(200))
	var dialled string
	s := callback.NewSender(func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled = addr
		return new(net.Dialer).DialContext(ctx, network, rc.Listener.Addr().String())
	}, callback.Options{})
	t.Cleanup(s.Close)
	if a := s.Send(t.Context(), message("http://receiver.test/")); a.Status != 200 || dialled != "receiver.test:80" {
		t.Errorf("got status %d by way of %s, want 200 from receiver.test:80", a.Status, dialled)
	}
}

func TestSendKeepsOnlyTheStartOfTheBody(t *testing.T) {
	tests := []struct {
		name   string
		size   int
		keep   int
		reuses bool
	}{
		{"no body", 0, 0, true},
		{"a short body", 100, 100, true},
		{"a body just as long as is kept", callback.KeptBody, callback.KeptBody, true},
		{"a byte more than is kept", callback.KeptBody + 1, callback.KeptBody, true},
		{"just as long as is read", callback.MaxAnswer, callback.KeptBody, true},
		{"a byte more than is read", callback.MaxAnswer + 1, callback.KeptBody, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Repeat("0123456789", tt.size/10+1)[:tt.size]
			rc := newReceiver(t, func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Length", strconv.Itoa(tt.size))
				io.WriteString(w, text)
			})
			s := newSender(t, callback.Options{})
			for range 3 {
				if a := s.Send(t.Context(), message(rc.URL)); string(a.Body) != text[:tt.keep] || a.Class != tandem.ClassNone {
					t.Fatalf("kept %d bytes with class %q, want %d, delivered", len(a.Body), a.Class, tt.keep)
				}
			}
			if got := rc.opened.Load(); (got == 1) != tt.reuses {
				t.Errorf("got %d connections for three attempts, want reuse %v", got, tt.reuses)
			}
		})
	}
}

func TestSendDoesNotUnpack(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(make([]byte, 100_000))
	z.Close()
	rc := newReceiver(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(packed.Bytes())
	})
	a := newSender(t, callback.Options{}).Send(t.Context(), message(rc.URL))
	if !bytes.Equal(a.Body, packed.Bytes()) {
		t.Errorf("got %d bytes, want the %d that came over the wire", len(a.Body), packed.Len())
	}
}

// Every attempt of the first round is in flight before one is answered, so
// each has a connection of its own; the second round needs no further one.
func TestSendKeepsAConnectionForEachInFlight(t *testing.T) {
	const inFlight = 64
	var arrived sync.WaitGroup
	rc := newReceiver(t, func(w http.ResponseWriter, r *http.Request) {
		arrived.Done()
		arrived.Wait()
	})
	s := newSender(t, callback.Options{})
	for range 2 {
		arrived.Add(inFlight)
		var sent sync.WaitGroup
		for range inFlight {
			sent.Go(func() {
				if a := s.Send(t.Context(), message(rc.URL)); a.Class != tandem.ClassNone {
					t.Errorf("got class %q: %s", a.Class, a.Error)
				}
			})
		}
		sent.Wait()
		if got := rc.opened.Load(); got != inFlight {
			t.Errorf("got %d connections, want %d", got, inFlight)
		}
	}
}

func TestCloseEndsIdleConnections(t *testing.T) {
	rc := newReceiver(t, answering(200))
	s := newSender(t, callback.Options{})
	for range 2 {
		s.Send(t.Context(), message(rc.URL))
		s.Close()
	}
	if got := rc.opened.Load(); got != 2 {
		t.Errorf("got %d connections for two attempts with Close between them, want 2", got)
	}
}

func TestSendSaysWhenItWasInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	rc := newReceiver(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		cancel()
		<-r.Context().Done()
	})
	a := newSender(t, callback.Options{}).Send(ctx, message(rc.URL))
	if !a.Interrupted || a.Class == tandem.ClassNone || callback.SignOf(a) != callback.Silent || callback.Judge(a) != callback.Retry {
		t.Errorf("got %+v, want it interrupted, to be retried, held against nobody", a)
	}
}

// A receiver that has answered has answered, even if the sender is told to stop
// while the body is still coming.
func TestSendKeepsAnAnswerThatCameBeforeTheInterruption(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	rc := newReceiver(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "th")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	s := callback.NewSender(func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		return &cancelInBody{Conn: c, cancel: cancel}, err
	}, callback.Options{})
	t.Cleanup(s.Close)
	a := s.Send(ctx, message(rc.URL))
	if a.Status != 200 || a.Interrupted || a.Class != tandem.ClassNone || string(a.Body) != "th" {
		t.Errorf("got %+v, want 200 and what came of the body", a)
	}
}

// cancelInBody cancels when more is read than the first piece, which holds all
// headers: by then the sender has seen the status.
type cancelInBody struct {
	net.Conn
	reads  atomic.Int64
	cancel context.CancelFunc
}

func (c *cancelInBody) Read(p []byte) (int, error) {
	if c.reads.Add(1) == 2 {
		c.cancel()
	}
	return c.Conn.Read(p)
}

func TestSendRefusesWhatIsNoURL(t *testing.T) {
	for _, url := range []string{
		"", "/hook?token=hunter2", "ftp://ann:hunter2@receiver.test", "http://", "http:opaque", "http://[::1", "http://x.test/%zz?hunter2",
		"http://x.test:hunter2/", "http://ann:hunter2\x7f@x.test/",
	} {
		s := callback.NewSender(func(context.Context, string, string) (net.Conn, error) {
			t.Errorf("%q was dialled", url)
			return nil, io.EOF
		}, callback.Options{})
		a := s.Send(t.Context(), message(url))
		if a.Class != tandem.ClassDenied || a.Error == "" || callback.SignOf(a) != callback.Silent {
			t.Errorf("%q: got class %q, error %q, want it denied", url, a.Class, a.Error)
		}
		if strings.Contains(a.Error, "ann:") || strings.Contains(a.Error, "token") {
			t.Errorf("%q: the error quotes it: %s", url, a.Error)
		}
	}
}

func TestNewSenderNeedsADialer(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a sender without the guard's dial function was made")
		}
	}()
	callback.NewSender(nil, callback.Options{})
}

// BenchmarkSend measures attempts to one local receiver that reads the body and
// answers 204, as many in flight as the name says. The receiver shares the
// cores; bytes and allocations are those of both sides.
func BenchmarkSend(b *testing.B) {
	rc := newReceiver(b, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	})
	for _, inFlight := range []int{1, 64} {
		b.Run("in flight "+strconv.Itoa(inFlight), func(b *testing.B) {
			s := newSender(b, callback.Options{})
			m := message(rc.URL + "/callback")
			m.Body = bytes.Repeat([]byte("x"), 400)
			before := rc.opened.Load()
			b.ReportAllocs()
			b.ResetTimer()
			var next atomic.Int64
			var senders sync.WaitGroup
			for range inFlight {
				senders.Go(func() {
					for next.Add(1) <= int64(b.N) {
						if a := s.Send(b.Context(), m); a.Class != tandem.ClassNone {
							b.Errorf("got class %q: %s", a.Class, a.Error)
							return
						}
					}
				})
			}
			senders.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sends/s")
			b.ReportMetric(float64(rc.opened.Load()-before), "connections")
		})
	}
}

// A raw receiver that answers from a constant shows what Send itself allocates.
func BenchmarkSendAlone(b *testing.B) {
	answer := []byte("HTTP/1.1 204 No Content\r\n\r\n")
	addr := rawReceiver(b, func(c net.Conn) {
		buf := make([]byte, 16<<10)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
			c.Write(answer)
		}
	})
	s := newSender(b, callback.Options{})
	m := message("http://" + addr + "/callback")
	m.Body = bytes.Repeat([]byte("x"), 400)
	b.ReportAllocs()
	for b.Loop() {
		if a := s.Send(b.Context(), m); a.Class != tandem.ClassNone {
			b.Fatalf("got class %q: %s", a.Class, a.Error)
		}
	}
}
