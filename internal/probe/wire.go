package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"time"
)

func transport(ctx context.Context, c *client) error {
	if c.base.Scheme == "http" {
		if ip, err := netip.ParseAddr(c.base.Hostname()); err == nil && ip.IsLoopback() || c.base.Hostname() == "localhost" {
			return skipped("it was asked over loopback; give the URL that its callers use")
		}
		return errors.New("it answers over plain HTTP: keys and data can be read on the way; serve it with --tls-cert and --tls-key, or behind a proxy that speaks HTTPS")
	}
	old := c.tls.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if conn, err := (&tls.Dialer{Config: old}).DialContext(ctx, "tcp", c.address()); err == nil {
		conn.Close()
		return errors.New("it speaks TLS 1.1 or older")
	}
	a, err := c.do(ctx, exchange{path: "/healthz"})
	if err == nil && a.header.Get("Strict-Transport-Security") == "" {
		err = errors.New("it does not tell browsers to stay with HTTPS (Strict-Transport-Security)")
	}
	return err
}

// versioned finds a version in a header such as Server.
var versioned = regexp.MustCompile(`\d+\.\d+`)

func securityHeaders(ctx context.Context, c *client) error {
	var faults []error
	for _, path := range []string{"/healthz", "/requests?limit=1", "/nothing-here", "/requests/x"} {
		a, err := c.do(ctx, exchange{path: path})
		if err != nil {
			faults = append(faults, err)
			continue
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options":  "nosniff",
			"X-Frame-Options":         "DENY",
			"Referrer-Policy":         "no-referrer",
			"Content-Security-Policy": "frame-ancestors 'none'",
			"Cache-Control":           "no-", // no-store; no-cache where an ETag guards it
		} {
			if got := a.header.Get(name); !strings.Contains(got, want) {
				faults = append(faults, fmt.Errorf("GET %s: %s is %q, want %q in it", path, name, got, want))
			}
		}
		for _, name := range []string{"Server", "X-Powered-By"} {
			if got := a.header.Get(name); versioned.MatchString(got) {
				faults = append(faults, fmt.Errorf("GET %s: %s tells a version: %q", path, name, got))
			}
		}
	}
	return errors.Join(faults...)
}

func problems(ctx context.Context, c *client) error {
	const marker = "tandem-probe-marker"
	var faults []error
	for _, x := range []exchange{
		{path: "/" + marker},
		{path: "/requests/" + marker},
		{path: "/requests?cursor=" + marker},
		{path: "/requests?status=" + marker},
		{method: "POST", path: "/sync", body: `{"data":{"a":"` + marker + `"`},
		{method: "POST", path: "/sync", body: `{"data":"` + marker + `"}`},
		{method: "POST", path: "/sync", body: `{"data":{"a":1},"workload":"` + marker + `"}`},
		{method: "POST", path: "/async", body: submission(`"callback_url":"ftp://` + marker + `.example/"`)},
		{method: "DELETE", path: "/requests/" + marker},
		{method: "PUT", path: "/sync", body: `{"a":"` + marker + `"}`},
		{path: "/requests?limit=1", header: []string{"Authorization", "Bearer " + marker}},
	} {
		if x.method == "" {
			x.method = "GET"
		}
		a, err := c.do(ctx, x)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if a.status < 400 || a.status >= 500 {
			c.withdraw(ctx, a)
			if len(x.header) == 0 || c.target.Key != "" { // a service without keys does not look at them
				faults = append(faults, fmt.Errorf("%v: answers %d, want 4xx", x, a.status))
			}
			continue
		}
		if err := a.checkProblem(); err != nil {
			faults = append(faults, fmt.Errorf("%v: %w", x, err))
		}
		if strings.Contains(string(a.body), marker) {
			faults = append(faults, fmt.Errorf("%v: the problem repeats what was sent", x))
		}
	}
	return errors.Join(faults...)
}

func injection(ctx context.Context, c *client) error {
	var faults []error
	for _, x := range []exchange{
		{path: "/healthz", header: []string{"X-Request-ID", "a b<script>"}},
		{path: "/healthz", header: []string{"X-Request-ID", strings.Repeat("a", 1000)}},
		{path: "/requests?limit=1&mode=sync%0d%0aX-Injected:%201"},
		{path: "/%0d%0aX-Injected:%201"},
		{path: "/requests/%0d%0aX-Injected:%201"},
		{path: "/docs%0d%0aX-Injected:%201"},
	} {
		a, err := c.do(ctx, x)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if a.header.Get("X-Injected") != "" {
			faults = append(faults, fmt.Errorf("GET %s: a line break in the path begins a new header", x.path))
		}
		if len(x.header) > 0 && a.header.Get(x.header[0]) == x.header[1] {
			faults = append(faults, fmt.Errorf("%s is repeated whatever is in it", x.header[0]))
		}
	}
	return errors.Join(faults...)
}

func methods(ctx context.Context, c *client) error {
	var faults []error
	for path, refuses := range map[string][]string{
		"/sync":         {"GET", "PUT", "PATCH", "DELETE"},
		"/async":        {"GET", "PUT", "PATCH", "DELETE"},
		"/requests":     {"POST", "PUT", "DELETE"},
		"/stats":        {"POST", "DELETE"},
		"/requests/all": {"POST", "PUT", "PATCH"},
	} {
		for _, method := range append(refuses, "TRACE", "PROPFIND", "ANYTHING") {
			faults = append(faults, c.refused(ctx, "another method", exchange{method: method, path: path}, 405, 501))
		}
	}
	for _, header := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"} {
		a, err := c.do(ctx, exchange{path: "/requests?limit=1", header: []string{header, "DELETE"}})
		if err == nil && a.status != 200 {
			err = fmt.Errorf("GET /requests with %s: DELETE answers %d, want 200", header, a.status)
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

func framing(ctx context.Context, c *client) error {
	const body = `{"data":{"a":1},"workload":"wait"}`
	length := fmt.Sprintf("Content-Length: %d", len(body))
	var faults []error
	for _, m := range []struct{ what, message string }{
		{"two lengths", c.head("POST", "/sync", "Content-Type: application/json", length, "Content-Length: 5") + "\r\n" + body},
		{"a length that is no number", c.head("POST", "/sync", "Content-Type: application/json", "Content-Length: 0x10") + "\r\n" + body},
		{"an unknown transfer coding", c.head("POST", "/sync", "Content-Type: application/json", "Transfer-Encoding: xchunked") + "\r\n" + body},
		{"a chunk with a bad size", c.head("POST", "/sync", "Content-Type: application/json", "Transfer-Encoding: chunked") + "\r\nZZ\r\n" + body + "\r\n0\r\n\r\n"},
		{"a space before the colon", c.head("POST", "/sync", "Content-Type: application/json", strings.Replace(length, ":", " :", 1)) + "\r\n" + body},
		{"two hosts", c.head("GET", "/requests", "Host: other.example") + "\r\n"},
		{"a line break within a header", c.head("GET", "/requests", "X-Probe: a\rb") + "\r\n"},
	} {
		switch status, err := c.raw(ctx, m.message); {
		case err != nil:
			faults = append(faults, fmt.Errorf("%s: %w", m.what, err))
		case status != 0 && (status < 400 || status >= 500) && status != http.StatusNotImplemented:
			faults = append(faults, fmt.Errorf("%s: answers %d, want 400", m.what, status))
		}
	}
	return errors.Join(faults...)
}

func slowHeaders(ctx context.Context, c *client) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, conn) // until it is closed, or the patience is at its end
		ended <- err
	}()
	if _, err := io.WriteString(conn, c.head("GET", "/requests")+"X-Slow: "); err != nil {
		return err
	}
	drip := time.NewTicker(time.Second)
	defer drip.Stop()
	for {
		select {
		case err := <-ended:
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("a connection that sends its headers byte by byte is still open after %v", c.target.Patience)
			}
			return nil
		case <-drip.C:
			_, _ = io.WriteString(conn, "a") // once it is closed, the reader says so
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func largeHeaders(ctx context.Context, c *client) error {
	status, err := c.raw(ctx, c.head("GET", "/requests", "X-Large: "+strings.Repeat("a", 1<<20))+"\r\n")
	switch {
	case err != nil:
		return fmt.Errorf("1 MiB of headers: %w", err)
	case status != 0 && status != 431 && status != 400:
		return fmt.Errorf("1 MiB of headers answers %d, want 431", status)
	}
	return nil
}
