package loadtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/internal/target"
	"tandem/webhook"
)

// faulty is a service of Tandem's shape that works at once and goes wrong where
// a test says so. By seq: the callback URL ends in it.
type faulty struct {
	t      *testing.T
	secret webhook.Secret
	url    string

	answer func(mode string, n int, w http.ResponseWriter) bool // true if it answered
	call   func(seq int, send func(edit func(*http.Request)))   // instead of one callback

	mu    sync.Mutex
	count map[string]int // posts by mode
	calls sync.WaitGroup
}

func newFaulty(t *testing.T) *faulty {
	f := &faulty{t: t, secret: webhook.NewSecret(), count: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"backend":"fake","durable":true}`)
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"system":{"version":"1.2.3"}}`)
	})
	mux.HandleFunc("POST /{mode}", f.post)
	server := httptest.NewServer(mux)
	f.url = server.URL
	t.Cleanup(func() {
		f.calls.Wait()
		server.Close()
	})
	return f
}

func (f *faulty) post(w http.ResponseWriter, r *http.Request) {
	mode := r.PathValue("mode")
	var body struct {
		Data        json.RawMessage `json:"data"`
		Workload    string          `json:"workload"`
		Complexity  int             `json:"complexity"`
		CallbackURL string          `json:"callback_url"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		f.t.Errorf("POST /%s: %v", mode, err)
	}
	f.mu.Lock()
	n := f.count[mode]
	f.count[mode]++
	f.mu.Unlock()
	if f.answer != nil && f.answer(mode, n, w) {
		return
	}
	if mode == "sync" {
		fmt.Fprintf(w, `{"request_id":"req_s%d","result":{"sum":1}}`, n)
		return
	}
	id := "req_a" + body.CallbackURL[strings.LastIndexByte(body.CallbackURL, '/')+1:]
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintf(w, `{"request_id":%q,"status":"accepted"}`, id)
	f.owe(body.CallbackURL, id)
}

// owe delivers a callback, from another goroutine.
func (f *faulty) owe(url, id string) {
	f.calls.Go(func() {
		send := func(edit func(*http.Request)) { f.send(url, id, webhook.RequestCompleted, edit) }
		if f.call == nil {
			send(nil)
			return
		}
		seq, err := strconv.Atoi(url[strings.LastIndexByte(url, '/')+1:])
		if err != nil {
			f.t.Errorf("callback URL %s: %v", url, err)
		}
		f.call(seq, send)
	})
}

// send posts one signed callback; edit may spoil it.
func (f *faulty) send(url, id string, kind webhook.EventType, edit func(*http.Request)) {
	body, err := json.Marshal(webhook.Event{Type: kind, RequestID: id, Status: "completed", Result: []byte(`{}`), Timestamp: time.Now()})
	if err != nil {
		f.t.Error(err)
	}
	r, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		f.t.Error(err)
	}
	webhook.Sign(r.Header, id, time.Now(), body, f.secret)
	if edit != nil {
		edit(r)
	}
	answer, err := http.DefaultClient.Do(r)
	if err == nil {
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
	}
}

// options have short waits for what will not come.
func (f *faulty) options() Options {
	return Options{
		URL: f.url, Secret: target.StandardSecret(f.secret), Timeout: 5 * time.Second, Drain: 300 * time.Millisecond,
		calibration: calibrated(),
	}
}

// calibrated is a generator that is fast enough for any test.
func calibrated() *calibration { return &calibration{ceiling: 20_000, floor: newLatency()} }

// run runs spec against the faulty service.
func (f *faulty) run(spec Spec) *Result {
	f.t.Helper()
	result, err := Run(f.t.Context(), spec, f.options())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, arm := range []Arm{result.Sync, result.Async} {
		if err := arm.Ledger.Balance(); err != nil {
			f.t.Errorf("%s: %v", arm.Mode, err)
		}
	}
	return result
}
