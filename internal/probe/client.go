package probe

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// client talks to the target.
type client struct {
	target Target
	base   *url.URL
	http   *http.Client
	tls    *tls.Config // of connections that raw opens
}

func newClient(target Target) (*client, error) {
	base, err := url.Parse(strings.TrimSuffix(target.URL, "/"))
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.User != nil || base.RawQuery != "" {
		return nil, errors.New("the URL must be like https://tandem.example")
	}
	if target.Patience == 0 {
		target.Patience = 30 * time.Second
	}
	if target.Log == nil {
		target.Log = func(string) {}
	}
	return &client{
		target: target,
		base:   base,
		tls:    &tls.Config{ServerName: base.Hostname()},
		http: &http.Client{
			Timeout:       30 * time.Second,
			Transport:     &http.Transport{Proxy: nil, MaxResponseHeaderBytes: 64 << 10},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// exchange is one request to the target. Zero fields mean: a GET, with the
// target's key, and JSON if there is a body.
type exchange struct {
	method, path string
	body         string
	chunked      bool // do not say how long the body is
	header       []string
	key          string // instead of the target's
	anonymous    bool   // with no key at all
	hurried      bool   // take a 429 for an answer
}

func (x exchange) String() string { return x.method + " " + x.path }

// answer is what the target said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// maxAnswer bounds how much of an answer is read.
const maxAnswer = 1 << 20

// do makes an exchange. If the target is too busy with its caller's rate it
// comes back when it is told to.
func (c *client) do(ctx context.Context, x exchange) (answer, error) {
	for range 10 {
		a, err := c.once(ctx, x)
		if err != nil || a.status != http.StatusTooManyRequests || x.hurried {
			return a, err
		}
		seconds, err := strconv.Atoi(a.header.Get("Retry-After"))
		if err != nil {
			return a, fmt.Errorf("%v: 429 without a Retry-After in seconds", x)
		}
		wait := min(time.Duration(seconds)*time.Second, 2*time.Minute)
		c.target.Log(fmt.Sprintf("the caller's rate is used up; going on in %v", wait))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return a, ctx.Err()
		}
	}
	return answer{}, fmt.Errorf("%v: still 429 after ten times the wait in Retry-After", x)
}

func (c *client) once(ctx context.Context, x exchange) (answer, error) {
	if x.method == "" {
		x.method = http.MethodGet
	}
	var body io.Reader
	if x.body != "" {
		body = strings.NewReader(x.body)
		if x.chunked {
			body = io.MultiReader(body)
		}
	}
	r, err := http.NewRequestWithContext(ctx, x.method, c.base.String()+x.path, body)
	if err != nil {
		return answer{}, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if key := c.key(x); key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	for i := 0; i+1 < len(x.header); i += 2 {
		r.Header[http.CanonicalHeaderKey(x.header[i])] = []string{x.header[i+1]}
	}
	res, err := c.http.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	return answer{res.StatusCode, res.Header, text}, err
}

func (c *client) key(x exchange) string {
	switch {
	case x.anonymous:
		return ""
	case x.key != "":
		return x.key
	}
	return c.target.Key
}

// problem is the part of a problem document that programs go by.
type problem struct {
	Type      string `json:"type"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	ErrorCode string `json:"error_code"`
	Errors    []struct {
		Field string `json:"field"`
	} `json:"errors"`
}

// checkProblem returns an error if the answer is no whole problem document.
func (a answer) checkProblem() error {
	var p problem
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		return fmt.Errorf("answers %d as %q, want application/problem+json", a.status, got)
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		return fmt.Errorf("answers %d with a problem that is no JSON", a.status)
	}
	if p.Status != a.status || p.ErrorCode == "" || !strings.HasSuffix(p.Type, ":"+p.ErrorCode) || p.Detail == "" {
		return fmt.Errorf("answers %d with an incomplete problem: %s", a.status, a.body)
	}
	return nil
}

// field is a string in the answer's JSON object; "" if there is none.
func (a answer) field(name string) string {
	var object map[string]any
	if json.Unmarshal(a.body, &object) != nil {
		return ""
	}
	text, _ := object[name].(string)
	return text
}

// refused makes an exchange that must be refused with one of the statuses, and
// returns what is wrong if it is not. What is accepted instead is cancelled.
func (c *client) refused(ctx context.Context, what string, x exchange, statuses ...int) error {
	if x.method == "" {
		x.method = http.MethodGet
	}
	a, err := c.do(ctx, x)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for _, status := range statuses {
		if a.status != status {
			continue
		}
		if x.method == http.MethodHead {
			return nil
		}
		if err := a.checkProblem(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
	c.withdraw(ctx, a)
	return fmt.Errorf("%s: %s %s answers %d, want %s", what, x.method, pathOf(x.path), a.status, oneOf(statuses))
}

// pathOf leaves the query of a path away, which may be long.
func pathOf(path string) string {
	path, _, _ = strings.Cut(path, "?")
	return path[:min(len(path), 80)]
}

func oneOf(statuses []int) string {
	var text []string
	for _, s := range statuses {
		text = append(text, strconv.Itoa(s))
	}
	return strings.Join(text, " or ")
}

// withdraw cancels what the target has accepted. It may be worked already,
// which does no harm; so the answer is of no interest.
func (c *client) withdraw(ctx context.Context, accepted answer) {
	if id := accepted.field("request_id"); id != "" {
		_, _ = c.do(ctx, exchange{method: http.MethodDelete, path: "/requests/" + url.PathEscape(id)})
	}
}

// submission is the body of an async request that does not begin for a day, with
// more members: a target that accepts it does nothing before it is withdrawn.
func submission(members string) string {
	text := `{"data":{"probe":1},"workload":"wait","not_before":` + strconv.Quote(time.Now().Add(24*time.Hour).UTC().Format(time.RFC3339))
	if members != "" {
		text += "," + members
	}
	return text + "}"
}

// raw sends bytes on a connection of its own, and returns the status answered;
// 0 if the connection was closed without an answer. That neither happened within
// the client's patience is an error.
func (c *client) raw(ctx context.Context, message string) (status int, err error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err = io.WriteString(conn, message); err == nil {
		var res *http.Response
		if res, err = http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
			res.Body.Close()
			return res.StatusCode, nil
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, fmt.Errorf("neither answered nor closed within %v", c.target.Patience)
	}
	return 0, nil // closed on us: that is a refusal
}

// dial opens a connection whose reads end with the client's patience.
func (c *client) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var conn net.Conn
	var err error
	if c.base.Scheme == "https" {
		conn, err = (&tls.Dialer{Config: c.tls}).DialContext(ctx, "tcp", c.address())
	} else {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", c.address())
	}
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(c.target.Patience))
}

// address is the target's host and port.
func (c *client) address() string {
	if c.base.Port() != "" {
		return c.base.Host
	}
	return net.JoinHostPort(c.base.Hostname(), map[string]string{"http": "80", "https": "443"}[c.base.Scheme])
}

// head is the beginning of a message as raw sends it.
func (c *client) head(method, path string, headers ...string) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, path, c.base.Host)
	if c.target.Key != "" {
		fmt.Fprintf(&b, "Authorization: Bearer %s\r\n", c.target.Key)
	}
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	return b.String()
}
