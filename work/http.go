package work

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Upstream is an endpoint that the http workload may call. Only the operator
// names upstreams; callers choose one by its name and never learn its URL.
type Upstream struct {
	Name    string // as for a Kind
	URL     string // http or https, absolute
	Timeout time.Duration
}

const defaultUpstreamTimeout = 10 * time.Second

// ParseUpstream reads NAME=URL or NAME=URL,timeout=5s.
func ParseUpstream(s string) (Upstream, error) {
	name, rest, ok := strings.Cut(s, "=")
	if !ok {
		return Upstream{}, errors.New("an upstream is NAME=URL or NAME=URL,timeout=5s")
	}
	u := Upstream{Name: name, URL: rest}
	if before, after, ok := strings.Cut(rest, ",timeout="); ok {
		timeout, err := time.ParseDuration(after)
		if err != nil || timeout <= 0 {
			return Upstream{}, fmt.Errorf("upstream %s: timeout must be a duration such as 5s", name)
		}
		u.URL, u.Timeout = before, timeout
	}
	return u, u.check()
}

func (u Upstream) check() error {
	if !kindName.MatchString(u.Name) {
		return fmt.Errorf("upstream %q: a name is lower-case letters, digits, - and _, beginning with a letter", u.Name)
	}
	parsed, err := url.Parse(u.URL)
	if err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" {
		return fmt.Errorf("upstream %s: the URL must be absolute, http or https", u.Name)
	}
	if u.Timeout < 0 {
		return fmt.Errorf("upstream %s: the timeout must not be negative", u.Name)
	}
	return nil
}

// UpstreamError is an upstream that did not answer 2xx.
type UpstreamError struct {
	Name   string
	Status int // its HTTP status; 0 if it gave none
	Reason string
}

func (e *UpstreamError) Error() string { return "upstream " + e.Name + ": " + e.Reason }

// maxAnswer is the largest answer of an upstream, as a result may be.
const maxAnswer = 1 << 20

// HTTP is work that an existing endpoint does: data.upstream names it, and data
// is posted to it as JSON. So a slow endpoint gets both faces without a change.
// A JSON answer is the result; any other is {"content_type", "body"}. Redirects
// are not followed. Anything but a 2xx is an UpstreamError.
func HTTP(upstreams ...Upstream) (Kind, error) {
	byName := make(map[string]Upstream)
	for _, u := range upstreams {
		if err := u.check(); err != nil {
			return Kind{}, err
		}
		if _, taken := byName[u.Name]; taken {
			return Kind{}, fmt.Errorf("upstream %s is configured twice", u.Name)
		}
		if u.Timeout == 0 {
			u.Timeout = defaultUpstreamTimeout
		}
		byName[u.Name] = u
	}
	client := &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
			MaxIdleConnsPerHost:    512,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	choose := func(in Input) (Upstream, error) {
		var asked struct {
			Upstream string `json:"upstream"`
		}
		if err := json.Unmarshal(in.Data, &asked); err != nil {
			return Upstream{}, errors.New("upstream must be a string")
		}
		u, ok := byName[asked.Upstream]
		if !ok {
			return u, fmt.Errorf("upstream must be one of %s", strings.Join(slices.Sorted(maps.Keys(byName)), ", "))
		}
		return u, nil
	}
	return Kind{
		Name:    "http",
		Summary: "posts data to the upstream that data.upstream names",
		Class:   Waits,
		Check: func(in Input) error {
			_, err := choose(in)
			return err
		},
		Func: func(ctx context.Context, in Input) (json.RawMessage, error) {
			u, err := choose(in)
			if err != nil {
				return nil, err
			}
			return callUpstream(ctx, client, u, in.Data)
		},
	}, nil
}

func callUpstream(ctx context.Context, client *http.Client, u Upstream, data json.RawMessage) (json.RawMessage, error) {
	callCtx, cancel := context.WithTimeout(ctx, u.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(callCtx, http.MethodPost, u.URL, bytes.NewReader(data))
	if err != nil {
		return nil, &UpstreamError{Name: u.Name, Reason: "could not be asked"}
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(r)
	if err != nil {
		return nil, u.silence(ctx, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, u.silence(ctx, err)
	case answer.StatusCode < 200 || answer.StatusCode > 299:
		return nil, &UpstreamError{Name: u.Name, Status: answer.StatusCode, Reason: "answered " + answer.Status}
	case len(body) > maxAnswer:
		return nil, &UpstreamError{Name: u.Name, Status: answer.StatusCode, Reason: fmt.Sprintf("its answer is over %d bytes", maxAnswer)}
	case json.Valid(body):
		return body, nil
	}
	return json.Marshal(struct {
		ContentType string `json:"content_type"`
		Body        string `json:"body"`
	}{answer.Header.Get("Content-Type"), string(body)})
}

// silence says that no whole answer came, without the URL that is in err. If
// the work itself was to end, that is the reason.
func (u Upstream) silence(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return &UpstreamError{Name: u.Name, Reason: fmt.Sprintf("did not answer within %v", u.Timeout)}
	}
	return &UpstreamError{Name: u.Name, Reason: "could not be reached, or broke off its answer"}
}
