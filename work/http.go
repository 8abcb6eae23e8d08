package work

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Upstream is an endpoint that the http workload may call. Only the operator
// names upstreams; callers choose one by its name and never learn its URL.
type Upstream struct {
	Name    string        // as for a Kind
	URL     string        // http or https, absolute; may carry credentials
	Timeout time.Duration // of one call, from connecting to the end of the answer; 10 s
}

const defaultUpstreamTimeout = 10 * time.Second

// ParseUpstream reads NAME=URL or NAME=URL,timeout=5s. Its errors do not show
// the URL.
func ParseUpstream(s string) (Upstream, error) {
	name, rest, ok := strings.Cut(s, "=")
	if !ok {
		return Upstream{}, errors.New("an upstream is NAME=URL or NAME=URL,timeout=5s")
	}
	u := Upstream{Name: name, URL: rest}
	if at := strings.LastIndex(rest, ",timeout="); at >= 0 {
		timeout, err := time.ParseDuration(rest[at+len(",timeout="):])
		if err != nil || timeout <= 0 {
			return Upstream{}, fmt.Errorf("upstream %q: timeout must be a duration above zero, such as 5s", name)
		}
		u.URL, u.Timeout = rest[:at], timeout
	}
	if err := u.check(); err != nil {
		return Upstream{}, err
	}
	return u, nil
}

// String returns the name: the URL is nobody else's business.
func (u Upstream) String() string { return u.Name }

// LogValue logs the name only.
func (u Upstream) LogValue() slog.Value { return slog.StringValue(u.Name) }

func (u Upstream) check() error {
	if !kindName.MatchString(u.Name) {
		return fmt.Errorf("upstream %q: a name is lower-case letters, digits, - and _, beginning with a letter", u.Name)
	}
	parsed, err := url.Parse(u.URL)
	if err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Hostname() == "" {
		return fmt.Errorf("upstream %s: the URL must be absolute, http or https", u.Name)
	}
	if u.Timeout < 0 {
		return fmt.Errorf("upstream %s: the timeout must not be negative", u.Name)
	}
	return nil
}

// UpstreamError is an upstream that did not answer 2xx, or not in full. It
// names the upstream, and says nothing of where it is.
type UpstreamError struct {
	Name   string
	Status int    // its HTTP status; 0 if it gave none
	Reason string // what happened, for people
}

func (e *UpstreamError) Error() string { return "upstream " + e.Name + ": " + e.Reason }

// maxAnswer is the largest answer of an upstream, as a result may be.
const maxAnswer = 1 << 20

// HTTP is work that an existing endpoint does: data.upstream names it, and the
// whole of data is posted to it as JSON. So a slow endpoint gets both faces
// without a change. Complexity is not passed on.
//
// An answer that is JSON is the result as it is, any other the object
// {"status", "content_type", "body"} with the body as text. Anything but a 2xx,
// and an answer of more than 1 MiB, is an *UpstreamError. Redirects are not
// followed, and no proxy is taken from the environment.
//
// HTTP returns an error if there is no upstream, or one is malformed or named
// twice.
func HTTP(upstreams ...Upstream) (Kind, error) {
	byName, err := indexUpstreams(upstreams)
	if err != nil {
		return Kind{}, err
	}
	client := newUpstreamClient()
	return Kind{
		Name:    "http",
		Summary: "posts data to the upstream that data.upstream names",
		Class:   Waits,
		Check: func(in Input) error {
			_, err := chooseUpstream(byName, in.Data)
			return err
		},
		Func: func(ctx context.Context, in Input) (json.RawMessage, error) {
			u, err := chooseUpstream(byName, in.Data)
			if err != nil {
				return nil, err
			}
			return callUpstream(ctx, client, u, in.Data)
		},
	}, nil
}

func indexUpstreams(upstreams []Upstream) (map[string]Upstream, error) {
	if len(upstreams) == 0 {
		return nil, errors.New("http needs an upstream to call")
	}
	byName := make(map[string]Upstream)
	var faults []error
	for _, u := range upstreams {
		if err := u.check(); err != nil {
			faults = append(faults, err)
			continue
		}
		if _, taken := byName[u.Name]; taken {
			faults = append(faults, fmt.Errorf("upstream %s is configured twice", u.Name))
		}
		if u.Timeout == 0 {
			u.Timeout = defaultUpstreamTimeout
		}
		byName[u.Name] = u
	}
	return byName, errors.Join(faults...)
}

func newUpstreamClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
			MaxIdleConnsPerHost:    512,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// chooseUpstream returns the upstream that data asks for. The key is matched
// to the letter: encoding/json would take UPSTREAM for it, too.
func chooseUpstream(byName map[string]Upstream, data json.RawMessage) (Upstream, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return Upstream{}, errors.New("data must be an object")
	}
	var name *string
	if err := json.Unmarshal(members["upstream"], &name); err == nil && name != nil {
		if u, ok := byName[*name]; ok {
			return u, nil
		}
	}
	return Upstream{}, fmt.Errorf("upstream must be one of %s", strings.Join(slices.Sorted(maps.Keys(byName)), ", "))
}

func callUpstream(ctx context.Context, client *http.Client, u Upstream, data json.RawMessage) (json.RawMessage, error) {
	callCtx, cancel := context.WithTimeout(ctx, u.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(callCtx, http.MethodPost, u.URL, bytes.NewReader(data))
	if err != nil {
		return nil, &UpstreamError{Name: u.Name, Reason: "could not be asked"}
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, */*;q=0.5")
	r.Header.Set("User-Agent", "tandem")
	answer, err := client.Do(r)
	if err != nil {
		return nil, u.silence(ctx, callCtx)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	refused := func(format string, args ...any) error {
		return &UpstreamError{Name: u.Name, Status: answer.StatusCode, Reason: fmt.Sprintf(format, args...)}
	}
	switch status := answer.StatusCode; {
	case status < 200 || status > 299:
		// Our words for the status, not the upstream's: they may be anything.
		return nil, refused("%s", strings.TrimSpace(fmt.Sprintf("answered %d %s", status, http.StatusText(status))))
	case err != nil:
		return nil, u.silence(ctx, callCtx)
	case len(body) > maxAnswer:
		return nil, refused("its answer is over %d bytes", maxAnswer)
	case json.Valid(body) && utf8.Valid(body): // encoding/json lets broken UTF-8 pass
		return body, nil
	}
	return json.Marshal(struct {
		Status      int    `json:"status"`
		ContentType string `json:"content_type"`
		Body        string `json:"body"`
	}{answer.StatusCode, answer.Header.Get("Content-Type"), string(body)})
}

// silence is why no whole answer came: the end of the work itself, the end of
// the upstream's time, or the network. The client's own error would show the
// URL.
func (u Upstream) silence(ctx, callCtx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case callCtx.Err() != nil:
		return &UpstreamError{Name: u.Name, Reason: fmt.Sprintf("did not answer within %v", u.Timeout)}
	}
	return &UpstreamError{Name: u.Name, Reason: "could not be reached, or broke off its answer"}
}
