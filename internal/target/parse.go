package target

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Parse reads a description in YAML. The error joins all that is wrong with
// it, each fault beginning with the name of its field.
func Parse(r io.Reader) (*Target, error) {
	t := &Target{}
	decoder := yaml.NewDecoder(r)
	decoder.KnownFields(true)
	if err := decoder.Decode(t); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the file is empty")
		}
		return nil, errors.New(strings.ReplaceAll(err.Error(), "\n", " "))
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file must hold one document")
	}
	if err := t.prepare(); err != nil {
		return nil, err
	}
	return t, nil
}

// faults gathers what is wrong with a description.
type faults []error

func (f *faults) add(field string, err error) {
	if err != nil {
		*f = append(*f, fmt.Errorf("%s: %w", field, err))
	}
}

func (f *faults) must(ok bool, field, format string, args ...any) {
	if !ok {
		f.add(field, fmt.Errorf(format, args...))
	}
}

// prepare checks a description and takes its templates and pointers apart.
func (t *Target) prepare() error {
	var f faults
	f.must(t.Name != "", "name", "must be given")
	t.Sync.prepare(&f, "sync")
	t.Async.prepare(&f, "async")
	f.must(!t.Sync.body.has("CallbackURL"), "sync.body", "a sync request is not called back; leave {{.CallbackURL}} out")
	f.must(t.Async.body.has("CallbackURL") || t.Async.path.has("CallbackURL") || t.Poll != nil,
		"async.body", "must have {{.CallbackURL}}, or there must be a poll section: else no outcome can be learned")
	f.must(t.Async.Result == "", "async.result", "an async answer has no result")
	f.must(len(t.Async.Failed) == 0, "async.failed", "an async answer does not know how the work ends")

	switch t.Callback.Verify {
	case StandardWebhooks, GitHub, None:
	default:
		f.must(false, "callback.verify", "must be %s, %s or %s, is %q", StandardWebhooks, GitHub, None, t.Callback.Verify)
	}
	f.must(t.Callback.Header == "" || t.Callback.Verify == GitHub, "callback.header", "only %s callbacks have a header to choose", GitHub)
	f.must(t.Callback.Header == "" || headerName.MatchString(t.Callback.Header), "callback.header", "is not a header name: %q", t.Callback.Header)
	t.Callback.prepare(&f, "callback")

	t.Async.pollBody = t.Async.body
	if p := t.Poll; p != nil {
		p.prepare(&f, "poll")
		p.path = parsePath(&f, "poll.path", p.Path)
		f.must(p.Path == "" || strings.HasPrefix(p.Path, "/"), "poll.path", "must begin with /")
		p.headers = parseHeaders(&f, "poll.headers", p.Headers)
		f.must(p.Status != "" && len(p.Done) > 0, "poll.done", "there must be a status, and the values that mean it is done")
		f.must(p.Path == "" || t.Async.ID != "", "async.id", "must be given for {{.ID}} in poll.path")
		if p.Body != "" {
			var err error
			t.Async.pollBody, err = parseTemplate(p.Body)
			f.add("poll.body", err)
		}
	}
	return errors.Join(f...)
}

func (c *Call) prepare(f *faults, name string) {
	if c.Method == "" {
		c.Method = http.MethodPost
	}
	f.must(method.MatchString(c.Method), name+".method", "must be like POST, is %q", c.Method)
	f.must(strings.HasPrefix(c.Path, "/"), name+".path", "must begin with /, is %q", c.Path)
	c.path = parsePath(f, name+".path", c.Path)
	c.headers = parseHeaders(f, name+".headers", c.Headers)
	var err error
	c.body, err = parseTemplate(c.Body)
	f.add(name+".body", err)
	if c.Body != "" && c.headers.Get("Content-Type") == "" {
		c.headers.Set("Content-Type", "application/json")
	}
	f.must(len(c.Accept) > 0, name+".accept", "must list the statuses that accept a request, such as [202]")
	for _, status := range slices.Concat(c.Accept, c.Failed) {
		f.must(status >= 200 && status <= 599, name+".accept", "%d is not the status of an answer", status)
	}
	for _, status := range c.Failed {
		f.must(!slices.Contains(c.Accept, status), name+".failed", "%d is in accept, too", status)
	}
	c.id, err = parsePointer(c.ID)
	f.add(name+".id", err)
	c.result, err = parsePointer(c.Result)
	f.add(name+".result", err)
}

func (o *Outcomes) prepare(f *faults, name string) {
	var err error
	o.id, err = parsePointer(o.ID)
	f.add(name+".id", err)
	o.status, err = parsePointer(o.Status)
	f.add(name+".status", err)
	f.must(o.Status != "" || len(o.Done)+len(o.Failed) == 0, name+".status", "must say where to find what done and failed list")
	for _, value := range o.Failed {
		f.must(!slices.Contains(o.Done, value), name+".failed", "%q is in done, too", value)
	}
}

func parsePath(f *faults, field, text string) template {
	t, err := parseTemplate(text)
	f.add(field, err)
	f.must(!strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }), field, "must not have spaces, controls or a fragment")
	return t
}

var (
	method     = regexp.MustCompile(`^[A-Z]+$`)
	headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$") // a token of RFC 9110
)

// variable is a part of a header that is taken from the environment.
var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// parseHeaders fills the environment in. Errors do not repeat values: they may
// hold secrets.
func parseHeaders(f *faults, field string, headers map[string]string) http.Header {
	h := http.Header{}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		where := field + "." + name
		value := variable.ReplaceAllStringFunc(headers[name], func(use string) string {
			text, ok := os.LookupEnv(use[2 : len(use)-1])
			f.must(ok, where, "the environment has no %s", use[2:len(use)-1])
			return text
		})
		f.must(headerName.MatchString(name), where, "is not a header name")
		f.must(!strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }), where, "its value must be one line without control characters")
		switch http.CanonicalHeaderKey(name) {
		case "Host", "Content-Length", "Transfer-Encoding", "Connection":
			f.must(false, where, "is set by the lab itself")
		}
		h.Set(name, value)
	}
	return h
}
