package acceptance

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestEveryAnswerTellsBrowsersWhatNotToDo(t *testing.T) {
	parallel(t)
	s := serve(t)
	for _, path := range []string{"/healthz", "/requests", "/nothing", "/docs/", "/redoc", "/openapi.json", "/stats"} {
		h := s.get(path).header
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Frame-Options") != "DENY" || h.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("GET %s: %v", path, h)
		}
		policy := h.Get("Content-Security-Policy")
		if !strings.HasPrefix(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") || regexp.MustCompile(`script-src[^;]*unsafe`).MatchString(policy) {
			t.Errorf("GET %s: the policy is %s", path, policy)
		}
		if h.Get("Server") != "" || h.Get("X-Powered-By") != "" || h.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("GET %s: %v", path, h)
		}
	}
}

func TestPagesOfOtherOriginsMayDoNothing(t *testing.T) {
	parallel(t)
	s := serve(t)
	const sub = `{"data":{"a":1},"workload":"wait"}`
	for name, headers := range map[string][]string{
		"a page elsewhere":         {"Sec-Fetch-Site", "cross-site"},
		"a page of a sister site":  {"Sec-Fetch-Site", "same-site"},
		"an old browser elsewhere": {"Origin", "https://evil.example"},
	} {
		if p := s.send("POST", "/async", sub, headers...).problem(t, http.StatusForbidden); p.ErrorCode != "cross_origin" {
			t.Errorf("%s: %+v", name, p)
		}
	}
	for name, headers := range map[string][]string{
		"no browser":        nil,
		"the docs' own":     {"Sec-Fetch-Site", "same-origin"},
		"the same, by name": {"Origin", s.url()},
	} {
		if a := s.send("POST", "/async", sub, headers...); a.status != http.StatusAccepted {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if n := s.stats().Requests.Total; n != 3 {
		t.Errorf("%d requests were accepted, want 3", n)
	}
}

func TestPagesOfANamedOriginMayUseTheService(t *testing.T) {
	parallel(t)
	const app = "https://app.example"
	s := serve(t, "--cors-origin", app, "--require-keys", "--database", newFile(t))
	preflight := s.send("OPTIONS", "/async", nil, "Origin", app, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization")
	if preflight.status != http.StatusNoContent || preflight.header.Get("Access-Control-Allow-Origin") != app ||
		!strings.Contains(preflight.header.Get("Access-Control-Allow-Headers"), "Authorization") || !strings.Contains(preflight.header.Get("Access-Control-Allow-Methods"), "POST") {
		t.Errorf("the preflight: %d %v", preflight.status, preflight.header)
	}
	a := s.send("POST", "/async", `{"data":{"a":1}}`, "Origin", app, "Sec-Fetch-Site", "cross-site")
	if a.problem(t, http.StatusUnauthorized); a.header.Get("Access-Control-Allow-Origin") != app || !strings.Contains(a.header.Get("Access-Control-Expose-Headers"), "Location") {
		t.Errorf("a page without a key: %v", a.header)
	}
	for _, other := range []string{"https://evil.example", app + ".evil.example", "null", "http://app.example"} {
		a := s.send("OPTIONS", "/async", nil, "Origin", other, "Access-Control-Request-Method", "POST")
		if a.header.Get("Access-Control-Allow-Origin") != "" || !strings.Contains(strings.Join(a.header.Values("Vary"), ","), "Origin") {
			t.Errorf("%s: %v", other, a.header)
		}
		s.send("POST", "/async", `{"data":{"a":1}}`, "Origin", other).problem(t, http.StatusForbidden)
	}
	for _, bad := range []string{"*", "app.example", "https://app.example/", "https://App.example", "ftp://a", "https://"} {
		_, stderr, code := run(t, nil, "serve", "--cors-origin", bad)
		oneLine(t, stderr, code, "--cors-origin")
	}
}

func TestOperatorsHaveAnAddressOfTheirOwn(t *testing.T) {
	parallel(t)
	file := newFile(t)
	s := serve(t, "--mode", "production", "--database", file, "--admin-addr", "127.0.0.1:0")
	admin := s.operators(t)
	for _, path := range []string{"/metrics", "/docs/", "/redoc", "/openapi.json", "/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/healthz", "/readyz"} {
		if a := admin.get(path); a.status != http.StatusOK {
			t.Errorf("GET %s for operators: %d", path, a.status)
		}
	}
	for _, path := range []string{"/metrics", "/docs/", "/redoc", "/openapi.json", "/debug/pprof/", "/debug/pprof/heap", "/healthz", "/readyz"} {
		a := admin.post(path, "{}")
		if a.problem(t, http.StatusMethodNotAllowed); a.header.Get("Allow") != "GET, HEAD, OPTIONS" {
			t.Errorf("POST %s for operators: Allow is %q", path, a.header.Get("Allow"))
		}
	}
	admin.get("/requests").problem(t, http.StatusNotFound)
	key, _ := newKey(t, file, "root", "--admin")
	root := s.as(key)
	eventually(t, "the key is known", func() bool { return root.get("/stats").status == http.StatusOK })
	for _, path := range []string{"/metrics", "/docs", "/docs/", "/redoc", "/openapi.json", "/debug/pprof/"} {
		root.get(path).problem(t, http.StatusNotFound)
	}
	_, stderr, code := run(t, nil, "serve", "--addr", "127.0.0.1:0", "--admin-addr", admin.addr)
	oneLine(t, stderr, code, "--admin-addr", admin.addr)
}

// selfSigned writes a certificate for 127.0.0.1 and returns it for trusting.
func selfSigned(t *testing.T, certFile, keyFile, name string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

func TestHTTPSWithACertificateThatIsReplaced(t *testing.T) {
	parallel(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	pool := selfSigned(t, cert, key, "first")
	s := serve(t, "--tls-cert", cert, "--tls-key", key)
	get := func(pool *x509.CertPool) (*http.Response, error) {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true, DisableKeepAlives: true}}
		res, err := client.Get("https://" + s.addr + "/healthz")
		if err == nil {
			res.Body.Close()
		}
		return res, err
	}
	res, err := get(pool)
	if err != nil {
		t.Fatal(err)
	}
	if res.ProtoMajor != 2 || res.Header.Get("Strict-Transport-Security") == "" || res.StatusCode != http.StatusOK {
		t.Errorf("%s %s %v", res.Proto, res.Status, res.Header)
	}
	second := selfSigned(t, cert, key, "second")
	eventually(t, "the new certificate is shown", func() bool { _, err := get(second); return err == nil })
	if err := os.WriteFile(cert, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the bad certificate is noticed", func() bool {
		if _, err := get(second); err != nil {
			t.Fatalf("with a bad file: %v", err)
		}
		return strings.Contains(s.stderr.String(), "cannot be used")
	})
	if p := s.get("/healthz").problem(t, http.StatusBadRequest); p.ErrorCode != "malformed_message" || !strings.Contains(p.Detail, "https://") {
		t.Errorf("plain HTTP gets %+v", p)
	}
	for _, args := range [][]string{{"--tls-cert", cert}, {"--tls-key", key}, {"--tls-cert", cert, "--tls-key", key}, {"--tls-cert", "none.pem", "--tls-key", key}} {
		_, stderr, code := run(t, nil, append([]string{"serve", "--addr", "127.0.0.1:0"}, args...)...)
		oneLine(t, stderr, code, "--tls-")
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	parallel(t)
	s := serve(t, "--max-connections", "3")
	s.client.CloseIdleConnections()
	var held []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	fourth := s.later("GET", "/healthz", nil)
	select {
	case a := <-fourth:
		t.Errorf("a fourth connection gets %d", a.status)
	case <-time.After(200 * time.Millisecond): // it waits
	}
	held[0].Close()
	if a := <-fourth; a.status != http.StatusOK {
		t.Errorf("in the place of one that left: %d", a.status)
	}
}

func TestOversizedHeadersAreRefused(t *testing.T) {
	parallel(t)
	s := serve(t)
	for _, size := range []int{32 << 10, 4 << 20} {
		a := raw(t, s.addr, "GET /healthz HTTP/1.1\r\nHost: a\r\nX-Large: "+strings.Repeat("a", size)+"\r\n\r\n")
		if p := a.problem(t, http.StatusRequestHeaderFieldsTooLarge); p.ErrorCode != "headers_too_large" {
			t.Errorf("%d bytes of headers: %+v", size, p)
		}
	}
}

// raw sends a message to its end, whatever is answered meanwhile, and reads the
// answer only then, as many clients do.
func raw(t *testing.T, addr, message string) (a answer) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, message); err != nil {
		t.Fatalf("sending %.40q: %v", message, err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("the answer to %.40q: %v", message, err)
	}
	defer res.Body.Close()
	a.status, a.header = res.StatusCode, res.Header
	if a.body, err = io.ReadAll(res.Body); err != nil {
		t.Fatalf("the answer to %.40q: %v", message, err)
	}
	return a
}

func TestWhoSendsTooMuchReadsThatItIsTooMuch(t *testing.T) {
	parallel(t)
	s := serve(t)
	body := strings.Repeat("a", 16<<20)
	for name, message := range map[string]string{
		"a body of 16 MiB":             fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body),
		"a body of 16 MiB, in a chunk": fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body),
	} {
		a := raw(t, s.addr, "POST /async HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"+message)
		if p := a.problem(t, http.StatusRequestEntityTooLarge); p.ErrorCode != "body_too_large" {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// What net/http refuses before it asks a handler is a problem as well.
func TestWhatIsNotHTTPIsAProblem(t *testing.T) {
	parallel(t)
	s := serve(t)
	const host, json = "Host: a\r\n", "Content-Type: application/json\r\n"
	for name, want := range map[string]struct {
		message string
		status  int
		code    string
	}{
		"no HTTP at all":             {"GARBAGE\r\n\r\n", 400, "malformed_message"},
		"a handshake of TLS":         {"\x16\x03\x01\x00\x05hello\r\n\r\n", 400, "malformed_message"},
		"another version":            {"GET /healthz HTTP/9.9\r\n" + host + "\r\n", 505, "malformed_message"},
		"no host":                    {"GET /healthz HTTP/1.1\r\n\r\n", 400, "malformed_message"},
		"a bad host":                 {"GET /healthz HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "malformed_message"},
		"a bad name of a header":     {"GET /healthz HTTP/1.1\r\n" + host + "X Y: 1\r\n\r\n", 400, "malformed_message"},
		"a bad value of a header":    {"GET /healthz HTTP/1.1\r\n" + host + "X: \x01\r\n\r\n", 400, "malformed_message"},
		"a bad escape in the path":   {"GET /%zz HTTP/1.1\r\n" + host + "\r\n", 400, "malformed_message"},
		"two lengths":                {"POST /sync HTTP/1.1\r\n" + host + json + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 400, "malformed_message"},
		"an unknown transfer coding": {"POST /sync HTTP/1.1\r\n" + host + json + "Transfer-Encoding: gzip\r\n\r\n", 501, "malformed_message"},
		"an unknown expectation":     {"POST /sync HTTP/1.1\r\n" + host + json + "Expect: a miracle\r\nContent-Length: 2\r\n\r\n{}", 417, "malformed_message"},
		"a tunnel":                   {"CONNECT a:80 HTTP/1.1\r\n" + host + "\r\n", 404, "not_found"},
		"no path":                    {"GET * HTTP/1.1\r\n" + host + "\r\n", 404, "not_found"},
		"a path that leads back":     {"GET /requests/../stats HTTP/1.1\r\n" + host + "\r\n", 404, "not_found"},
		"a path that is not clean":   {"POST //sync HTTP/1.1\r\n" + host + json + "Content-Length: 2\r\n\r\n{}", 404, "not_found"},
	} {
		a := raw(t, s.addr, want.message)
		if p := a.problem(t, want.status); p.ErrorCode != want.code || p.Type != "urn:tandem:problem:"+want.code || p.Detail == "" {
			t.Errorf("%s: %+v", name, p)
		}
	}
}
