// Package target describes an HTTP API of the sync and async shape: how it is
// asked, and how its answers and callbacks are read. Tandem's own is built in,
// others are described in YAML. The package opens no sockets.
package target

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"tandem"
)

// Target is an API of this shape. It is made by Parse or Tandem, and may be
// used by many goroutines at once.
type Target struct {
	Name     string   `yaml:"name"`
	Sync     Call     `yaml:"sync"`
	Async    Call     `yaml:"async"`
	Callback Callback `yaml:"callback"`
	Poll     *Poll    `yaml:"poll"` // nil: it cannot be polled
}

// Call is how one mode is asked. Path, Headers and Body are templates; see
// Values for what may stand in them.
type Call struct {
	Method  string            `yaml:"method"` // POST, if empty
	Path    string            `yaml:"path"`
	Headers map[string]string `yaml:"headers"` // ${NAME} is taken from the environment
	Body    string            `yaml:"body"`

	Accept []int  `yaml:"accept"` // the statuses that accept a request
	ID     string `yaml:"id"`     // JSON pointer (RFC 6901) to the request's id; without it the API tells none
	Result string `yaml:"result"` // sync: JSON pointer to what must be there
	Failed []int  `yaml:"failed"` // sync: the statuses that say that the work itself failed, if the id is there

	path, body, pollBody template
	headers              http.Header
	id, result           pointer
}

// Outcomes says how the outcome of a request is read from a JSON document.
type Outcomes struct {
	ID     string   `yaml:"id"`     // JSON pointer to the request's id
	Status string   `yaml:"status"` // JSON pointer to what says how it ended
	Done   []string `yaml:"done"`   // its values if the work succeeded; of a callback, if empty, all others
	Failed []string `yaml:"failed"` // its values if it failed

	id, status pointer
}

// Callback is how a callback is read and verified.
type Callback struct {
	Outcomes `yaml:",inline"`
	Verify   Scheme `yaml:"verify"`
	Header   string `yaml:"header"` // github: where the signature is; X-Hub-Signature-256
}

// Scheme is how callbacks are signed.
type Scheme string

const (
	StandardWebhooks Scheme = "standard-webhooks" // https://www.standardwebhooks.com
	GitHub           Scheme = "github"            // HMAC-SHA256 of the body, in hex behind "sha256="
	None             Scheme = "none"              // they are not, and what comes is unverified
)

// Poll is how an accepted request is asked for its outcome. What is neither
// done nor failed is not over yet.
type Poll struct {
	Outcomes `yaml:",inline"`
	Path     string            `yaml:"path"` // a template; empty: the Location of the answer that accepted it
	Headers  map[string]string `yaml:"headers"`
	Body     string            `yaml:"body"` // of the async request when it will be polled for, if not as ever

	path    template
	headers http.Header
}

// Values are what may stand in a template, as {{.CallbackURL}}.
type Values struct {
	ID          string // of the request, by the one who sends it; in a poll, by the API
	Seq         int    // its number
	CallbackURL string // empty when it will be polled for
	Workload    string
	Complexity  int
	Data        string // the input, as JSON
}

// Message is a request to be sent. Its header must not be changed.
type Message struct {
	Method string
	Path   string // and query, below the API's base URL
	Rooted bool   // Path is from the server's root instead
	Header http.Header
	Body   []byte
}

// Request is the request that submits one unit of work.
func (t *Target) Request(mode tandem.Mode, v Values) Message {
	c := &t.Sync
	body := c.body
	if mode == tandem.Async {
		c = &t.Async
		if body = c.body; v.CallbackURL == "" {
			body = c.pollBody
		}
	}
	return Message{Method: c.Method, Path: string(c.path.fill(v)), Header: c.headers, Body: body.fill(v)}
}

// Kind is what an answer means.
type Kind int

const (
	BadAnswer  Kind = iota // not one that was agreed
	Accepted               // taken up; a sync request is worked
	WorkFailed             // a sync request was taken up, and its work failed
	Rejected               // not taken up
)

// Answer is what an answer means. Category says what is wrong with one that is
// not Accepted: 429, 4xx, 5xx, work or bad_answer.
type Answer struct {
	Kind      Kind
	ID        string // of the request, by the API
	StatusURL string // Location: where to ask for the outcome
	Category  string
}

// Sort says what the answer to a request means.
func (t *Target) Sort(mode tandem.Mode, status int, h http.Header, body []byte) Answer {
	c := &t.Sync
	if mode == tandem.Async {
		c = &t.Async
	}
	found, valid := lookUp(body, c.id, c.result)
	id := found[0].text()
	a := Answer{ID: id, StatusURL: h.Get("Location")}
	hasID := c.id == nil || id != ""
	switch accepted := slices.Contains(c.Accept, status); {
	case accepted && valid && hasID && (c.result == nil || len(found[1]) > 0):
		a.Kind = Accepted
	case accepted:
		a.Kind, a.Category = BadAnswer, "bad_answer"
	case slices.Contains(c.Failed, status) && valid && hasID:
		a.Kind, a.Category = WorkFailed, "work"
	case status == http.StatusTooManyRequests:
		a.Kind, a.Category = Rejected, "429"
	case status >= 400 && status < 500:
		a.Kind, a.Category = Rejected, "4xx"
	case status >= 500:
		a.Kind, a.Category = Rejected, "5xx"
	default:
		a.Kind, a.Category = BadAnswer, "bad_answer"
	}
	return a
}

// Outcome is what became of an accepted request.
type Outcome struct {
	ID        string // of the request; empty if the API does not say
	Completed bool   // the work succeeded
}

// read finds the outcome in a document. ok is false if there is none: it is no
// JSON, or its status is none of those that are known.
func (o *Outcomes) read(document []byte) (outcome Outcome, ok bool) {
	found, valid := lookUp(document, o.id, o.status)
	if !valid {
		return outcome, false
	}
	outcome.ID = found[0].text()
	switch status := found[1].text(); {
	case o.status == nil:
		outcome.Completed = true
	case slices.Contains(o.Failed, status):
	case slices.Contains(o.Done, status), len(o.Done) == 0 && status != "":
		outcome.Completed = true
	default:
		return outcome, false
	}
	return outcome, true
}

// CanPoll reports whether the API can be asked for outcomes.
func (t *Target) CanPoll() bool { return t.Poll != nil }

// PollRequest asks for the outcome of a request that was accepted with a, and
// that went to the path and query asked, from the server's root. An error means
// that a does not say where.
func (t *Target) PollRequest(a Answer, asked string) (Message, error) {
	m := Message{Method: http.MethodGet, Header: t.Poll.headers}
	if t.Poll.Path != "" {
		m.Path = string(t.Poll.path.fill(Values{ID: url.PathEscape(a.ID)}))
		return m, nil
	}
	var err error
	m.Path, err = follow(asked, a.StatusURL)
	m.Rooted = true
	return m, err
}

// follow resolves a Location, which is relative to the URL that was asked (RFC
// 9110, section 10.2.2, and RFC 3986, section 5.2). Of one that names a server it
// takes the path and query: the lab asks no other server than the one it was
// given.
func follow(asked, location string) (path string, err error) {
	if location == "" {
		return "", errors.New("there is no Location to poll")
	}
	base, err := url.ParseRequestURI(asked)
	if err != nil {
		return "", fmt.Errorf("cannot resolve a Location: %w", err)
	}
	u, err := base.Parse(location)
	if err != nil || u.Opaque != "" || u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https" || strings.Contains(u.RawQuery, " ") {
		return "", fmt.Errorf("the Location is no address to poll: %q", location)
	}
	return u.RequestURI(), nil
}

// SortPoll finds the outcome in the answer to a poll. ok is false if there is
// none yet.
func (t *Target) SortPoll(status int, body []byte) (outcome Outcome, ok bool) {
	if status != http.StatusOK {
		return outcome, false
	}
	return t.Poll.read(body)
}

func (c *Callback) header() string {
	if c.Header == "" {
		return "X-Hub-Signature-256"
	}
	return http.CanonicalHeaderKey(c.Header)
}

// field is one of the Values, as text.
func (v *Values) field(name string) string {
	switch name {
	case "ID":
		return v.ID
	case "Seq":
		return strconv.Itoa(v.Seq)
	case "CallbackURL":
		return v.CallbackURL
	case "Workload":
		return v.Workload
	case "Complexity":
		return strconv.Itoa(v.Complexity)
	default:
		return v.Data
	}
}

// fields are the names that field knows.
var fields = []string{"CallbackURL", "Complexity", "Data", "ID", "Seq", "Workload"}
