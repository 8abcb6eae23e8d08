package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// submission is the body of a POST.
type submission struct {
	Data        any    `json:"data"`
	Complexity  int    `json:"complexity,omitempty"`
	Workload    string `json:"workload,omitempty"`
	CallbackURL string `json:"callback_url,omitempty"`
}

// data is the input of work that does not care about it.
var data = map[string]any{"n": 1}

// record is what the API knows of a request, as far as the tests ask.
type record struct {
	RequestID        string          `json:"request_id"`
	Mode             string          `json:"mode"`
	Status           string          `json:"status"`
	Workload         string          `json:"workload"`
	Complexity       int             `json:"complexity"`
	InputData        json.RawMessage `json:"input_data"`
	Result           json.RawMessage `json:"result"`
	ProcessingTimeMS *float64        `json:"processing_time_ms"`
	QueueTimeMS      *float64        `json:"queue_time_ms"`
	Callback         struct {
		URL           *string    `json:"url"`
		State         string     `json:"state"`
		Attempts      int        `json:"attempts"`
		MaxAttempts   int        `json:"max_attempts"`
		LastStatus    *int       `json:"last_status"`
		LastError     *string    `json:"last_error"`
		NextAttemptAt *time.Time `json:"next_attempt_at"`
	} `json:"callback"`
	NotBefore      *time.Time `json:"not_before"`
	ExpiresAt      *time.Time `json:"expires_at"`
	CreatedAt      time.Time  `json:"created_at"`
	StartedAt      *time.Time `json:"started_at"`
	CompletedAt    *time.Time `json:"completed_at"`
	ErrorCode      *string    `json:"error_code"`
	ErrorMessage   *string    `json:"error_message"`
	UpstreamStatus *int       `json:"upstream_status"`
}

// String is for messages.
func (r record) String() string  { return asJSON(r) }
func (a attempt) String() string { return asJSON(a) }

func asJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (r *record) worked() bool  { return r.Status != "pending" && r.Status != "processing" }
func (r *record) settled() bool { return r.worked() && r.Callback.State != "pending" }

// attempt is one try at delivering a callback, as the API shows it.
type attempt struct {
	Number     int       `json:"number"`
	At         time.Time `json:"at"`
	DurationMS float64   `json:"duration_ms"`
	StatusCode *int      `json:"status_code"`
	ErrorClass *string   `json:"error_class"`
	Error      *string   `json:"error"`
	Answer     string    `json:"answer"`
}

// stats is what GET /stats answers, as far as the tests ask.
type stats struct {
	Requests struct {
		Total     int            `json:"total_requests"`
		Pruned    int            `json:"pruned_requests"`
		Sync      int            `json:"sync_requests"`
		Async     int            `json:"async_requests"`
		Completed int            `json:"completed_requests"`
		Failed    int            `json:"failed_requests"`
		ByStatus  map[string]int `json:"by_status"`
	} `json:"request_statistics"`
	Callbacks struct {
		Delivered int `json:"delivered"`
		Failed    int `json:"failed"`
		Pending   int `json:"pending"`
		Hosts     []struct {
			Host    string `json:"host"`
			Breaker string `json:"breaker"`
		} `json:"hosts"`
	} `json:"callback_service"`
	RateLimiting struct {
		Enabled bool    `json:"enabled"`
		Limit   int     `json:"limit"`
		Window  float64 `json:"window_seconds"`
		Allowed int     `json:"allowed"`
		Refused int     `json:"refused"`
	} `json:"rate_limiting"`
	System struct {
		Durable    bool `json:"durable"`
		QueueDepth int  `json:"queue_depth"`
	} `json:"system"`
}

// problem is how every error is answered.
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	ErrorCode string `json:"error_code"`
	RequestID string `json:"request_id"`
	Errors    []struct {
		Field   string `json:"field"`
		Message string `json:"message"`
	} `json:"errors"`
}

// answer is an HTTP answer, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// try makes one exchange, from any goroutine. A string as body is sent as it
// is, anything else but nil as JSON.
func (s *service) try(method, path string, body any) (answer, error) {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			return answer{}, err
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, "http://"+s.addr+path, r)
	if err != nil {
		return answer{}, err
	}
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := s.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, text}, err
}

// later makes an exchange in the background and hands over its answer.
func (s *service) later(method, path string, body any) <-chan answer {
	answered := make(chan answer, 1)
	go func() {
		a, err := s.try(method, path, body)
		if err != nil {
			s.t.Errorf("%s %s: %v", method, path, err)
		}
		answered <- a
	}()
	return answered
}

// post submits work and returns the answer, whatever it is.
func (s *service) post(path string, body any) answer {
	s.t.Helper()
	a, err := s.try("POST", path, body)
	if err != nil {
		s.t.Fatalf("POST %s: %v", path, err)
	}
	return a
}

// get fetches a path and returns the answer, whatever it is.
func (s *service) get(path string) answer {
	s.t.Helper()
	a, err := s.try("GET", path, nil)
	if err != nil {
		s.t.Fatalf("GET %s: %v", path, err)
	}
	return a
}

// sync runs work through POST /sync, wants it to succeed, and returns its id
// and result.
func (s *service) sync(sub submission) (id, result string) {
	s.t.Helper()
	var got struct {
		RequestID string          `json:"request_id"`
		Result    json.RawMessage `json:"result"`
	}
	s.post("/sync", sub).decode(s.t, 200, &got)
	return got.RequestID, string(got.Result)
}

// async submits work through POST /async, wants it to be accepted, and returns
// its id.
func (s *service) async(sub submission) string {
	s.t.Helper()
	var got struct {
		RequestID string `json:"request_id"`
	}
	s.post("/async", sub).decode(s.t, 202, &got)
	return got.RequestID
}

// record returns a request as it stands.
func (s *service) record(id string) record {
	s.t.Helper()
	var r record
	s.get("/requests/"+id).decode(s.t, 200, &r)
	return r
}

// worked waits until the work of a request has ended.
func (s *service) worked(id string) record {
	s.t.Helper()
	var r record
	s.get("/requests/"+id+"?wait=20s").decode(s.t, 200, &r)
	if !r.worked() {
		s.t.Fatalf("request %s is %s after 20 s", id, r.Status)
	}
	return r
}

// until asks for a request until it stands as wanted.
func (s *service) until(id, what string, yes func(*record) bool) record {
	s.t.Helper()
	var r record
	eventually(s.t, "request "+id+" "+what, func() bool {
		r = s.record(id)
		return yes(&r)
	})
	return r
}

// settled waits until a request is worked and its callback delivered or given
// up.
func (s *service) settled(id string) record {
	s.t.Helper()
	s.worked(id)
	return s.until(id, "is settled", (*record).settled)
}

func (s *service) attempts(id string) []attempt {
	s.t.Helper()
	var all []attempt
	s.get("/requests/"+id+"/attempts").decode(s.t, 200, &all)
	return all
}

func (s *service) stats() stats {
	s.t.Helper()
	var st stats
	s.get("/stats").decode(s.t, 200, &st)
	return st
}

// history walks all of GET /requests by its Link headers.
func (s *service) history(query string) []record {
	s.t.Helper()
	return s.pages("/requests?limit=40" + query)
}

// pages walks from one page of records on.
func (s *service) pages(path string) (all []record) {
	s.t.Helper()
	for path != "" {
		var page []record
		a := s.get(path)
		a.decode(s.t, 200, &page)
		all = append(all, page...)
		path = nextPage(s.t, a)
	}
	return all
}

// nextPage is where the next page of the history is; empty after the last one.
func nextPage(t *testing.T, a answer) string {
	t.Helper()
	link := a.header.Get("Link")
	if link == "" {
		return ""
	}
	next, rel, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok || !strings.Contains(rel, `rel="next"`) {
		t.Fatalf("Link header is %q", link)
	}
	return next
}

// decode wants a status and reads the JSON that comes with it.
func (a answer) decode(t *testing.T, status int, into any) {
	t.Helper()
	if a.status != status {
		t.Fatalf("status is %d, want %d: %s", a.status, status, a.body)
	}
	if err := json.Unmarshal(a.body, into); err != nil {
		t.Fatalf("the answer is no JSON: %v: %s", err, a.body)
	}
}

// problem wants the answer to be a problem of that status.
func (a answer) problem(t *testing.T, status int) problem {
	t.Helper()
	var p problem
	a.decode(t, status, &p)
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type of a problem is %q", got)
	}
	if p.Status != status || p.Title == "" || p.Detail == "" || p.ErrorCode == "" || p.Type == "" {
		t.Errorf("the problem is not complete: %s", a.body)
	}
	return p
}

// retryAfter wants a Retry-After of whole seconds, at least one.
func (a answer) retryAfter(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(a.header.Get("Retry-After"))
	if err != nil || n < 1 {
		t.Errorf("Retry-After is %q, want seconds", a.header.Get("Retry-After"))
	}
	return n
}

// show prints what a pointer leads to.
func show[T any](p *T) string {
	if p == nil {
		return "null"
	}
	return fmt.Sprint(*p)
}
