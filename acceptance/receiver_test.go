package acceptance

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/webhook"
)

// delivery is one callback as it came in.
type delivery struct {
	at     time.Time
	path   string // with the query
	header http.Header
	body   []byte
	event  webhook.Event
	n      int // how many had come in with it
}

// id is what a receiver recognises a repeated callback by.
func (d delivery) id() string { return d.header.Get(webhook.HeaderID) }

// verify wants the callback to be signed with the secret, now, and complete.
func (d delivery) verify(t *testing.T, secrets ...webhook.Secret) {
	t.Helper()
	if err := webhook.Verify(d.header, d.body, d.at, secrets...); err != nil {
		t.Errorf("callback of %s: %v", d.event.RequestID, err)
	}
	if d.id() != d.event.RequestID {
		t.Errorf("webhook-id is %q, the event is about %q", d.id(), d.event.RequestID)
	}
	if d.header.Get("Content-Type") != "application/json" {
		t.Errorf("Content-Type of a callback is %q", d.header.Get("Content-Type"))
	}
}

// receiver is where callbacks go.
type receiver struct {
	t    *testing.T
	url  string
	port string
	got  chan delivery // every one, in order, once it was counted

	mu  sync.Mutex
	all []delivery
}

// receive starts a receiver. It answers with 200 "thanks" or as reply says;
// reply may hold the answer back, but not after the test has ended.
func receive(t *testing.T, reply func(w http.ResponseWriter, r *http.Request, d delivery)) *receiver {
	t.Helper()
	rcv := &receiver{t: t, got: make(chan delivery, 4096)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d := delivery{at: time.Now(), path: r.URL.RequestURI(), header: r.Header}
		var err error
		if d.body, err = io.ReadAll(r.Body); err == nil {
			err = json.Unmarshal(d.body, &d.event)
		}
		if err != nil {
			t.Errorf("a callback cannot be read: %v", err)
		}
		rcv.mu.Lock()
		d.n = len(rcv.all) + 1
		rcv.all = append(rcv.all, d)
		rcv.mu.Unlock()
		rcv.got <- d
		if reply == nil {
			_, _ = io.WriteString(w, "thanks")
			return
		}
		reply(w, r, d)
	}))
	t.Cleanup(server.Close)
	rcv.url = server.URL + "/hook"
	_, rcv.port, _ = net.SplitHostPort(strings.TrimPrefix(server.URL, "http://"))
	return rcv
}

// next waits for the next callback.
func (rcv *receiver) next() delivery {
	rcv.t.Helper()
	select {
	case d := <-rcv.got:
		return d
	case <-time.After(patience):
		rcv.t.Fatal("in vain waited for a callback")
		return delivery{}
	}
}

// received returns what has come in so far.
func (rcv *receiver) received() []delivery {
	rcv.mu.Lock()
	defer rcv.mu.Unlock()
	return append([]delivery(nil), rcv.all...)
}

// byID counts what has come in so far by request.
func (rcv *receiver) byID() map[string]int {
	n := make(map[string]int)
	for _, d := range rcv.received() {
		n[d.id()]++
	}
	return n
}

// status answers with a status and nothing else.
func status(code int) func(http.ResponseWriter, *http.Request, delivery) {
	return func(w http.ResponseWriter, _ *http.Request, _ delivery) { w.WriteHeader(code) }
}

// gate holds back whoever comes until it is opened.
type gate struct {
	opened chan struct{}
	once   sync.Once
}

func newGate() *gate { return &gate{opened: make(chan struct{})} }

func (g *gate) isOpen() bool {
	select {
	case <-g.opened:
		return true
	default:
		return false
	}
}

func (g *gate) open() { g.once.Do(func() { close(g.opened) }) }

// pass returns once the gate is open or the client has left.
func (g *gate) pass(r *http.Request) {
	select {
	case <-g.opened:
	case <-r.Context().Done():
	}
}

// upstream is what the http workload calls: work whose length the test decides.
type upstream struct {
	*gate
	t       *testing.T
	url     string
	entered chan string // data.name of every call, as it comes in

	mu    sync.Mutex
	calls map[string]int // by data.name
}

// newUpstream starts an upstream that answers no call until it is opened.
func newUpstream(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{t: t, gate: newGate(), entered: make(chan string, 4096), calls: make(map[string]int)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Name string `json:"name"`
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Errorf("a call of the upstream cannot be read: %v", err)
		}
		_, _ = io.Copy(io.Discard, r.Body) // so that the server notices a caller who leaves
		u.mu.Lock()
		u.calls[in.Name]++
		u.mu.Unlock()
		u.entered <- in.Name
		u.pass(r)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"hello": in.Name})
	}))
	t.Cleanup(func() {
		u.open()
		server.Close()
	})
	u.url = server.URL
	return u
}

// flag is what tells a service of the upstream.
func (u *upstream) flag() string { return "--upstream=held=" + u.url + ",timeout=60s" }

// work is a submission that calls the upstream.
func (u *upstream) work(name, callbackURL string) submission {
	return submission{
		Workload:    "http",
		Data:        map[string]any{"upstream": "held", "name": name},
		CallbackURL: callbackURL,
	}
}

// await waits for the next call.
func (u *upstream) await() string {
	u.t.Helper()
	select {
	case name := <-u.entered:
		return name
	case <-time.After(patience):
		u.t.Fatal("in vain waited for a call of the upstream")
		return ""
	}
}

// called returns how often the upstream was called for a name.
func (u *upstream) called(name string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.calls[name]
}
