package loadtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"tandem/webhook"
)

// receiver takes the callbacks of one run, at /cb/{run}/{seq}. The URL says
// which request a callback belongs to, so it is joined without the service's
// id, also when it comes before the 202 or instead of it. Only callbacks that
// verify count.
type receiver struct {
	run    string // random, so that callbacks of other runs are told apart
	secret webhook.Secret
	epoch  time.Time // the run's time is counted from here
	server *http.Server
	base   string

	// arrival wakes whoever waits for callbacks, after each one that counts.
	arrival chan struct{}

	mu    sync.Mutex
	first []arrival // by seq
	tally Callbacks
}

// arrival is the first verified callback of a request.
type arrival struct {
	verified  time.Duration // when its signature was verified, in run time; zero: none came
	requestID string
	completed bool
}

// largestCallback holds a result of 1 MiB and what surrounds it.
const largestCallback = 2 << 20

// newReceiver listens for the callbacks of requests with a seq below n.
func newReceiver(n int, secret webhook.Secret, run string, epoch time.Time) (*receiver, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for callbacks: %w", err)
	}
	rc := &receiver{
		run:     run,
		secret:  secret,
		epoch:   epoch,
		base:    "http://" + listener.Addr().String(),
		arrival: make(chan struct{}, 1),
		first:   make([]arrival, n),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /cb/{run}/{seq}", rc.receive)
	mux.HandleFunc("/", rc.unknown)
	rc.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // a sender that breaks off is counted by what does not come
	}
	go rc.server.Serve(listener) // returns when the server is closed
	return rc, nil
}

// close ends the receiver. Callbacks that come later find nobody.
func (rc *receiver) close() { _ = rc.server.Close() } // its one error is that of a listener that nobody needs any more

// url is where the callback of a request is to go.
func (rc *receiver) url(seq int) string { return fmt.Sprintf("%s/cb/%s/%d", rc.base, rc.run, seq) }

func (rc *receiver) receive(w http.ResponseWriter, r *http.Request) {
	seq, err := strconv.Atoi(r.PathValue("seq"))
	if r.PathValue("run") != rc.run || err != nil || seq < 0 || seq >= len(rc.first) {
		rc.unknown(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, largestCallback))
	if err != nil {
		rc.refuse(w, http.StatusBadRequest, "cannot read the body")
		return
	}
	if err := webhook.Verify(r.Header, body, time.Now(), rc.secret); err != nil {
		rc.refuse(w, http.StatusUnauthorized, err.Error())
		return
	}
	verified := time.Since(rc.epoch)
	var event webhook.Event
	if err := json.Unmarshal(body, &event); err != nil || event.Type != webhook.RequestCompleted && event.Type != webhook.RequestFailed {
		rc.refuse(w, http.StatusBadRequest, "not an event of a request")
		return
	}
	rc.count(seq, arrival{verified, event.RequestID, event.Type == webhook.RequestCompleted})
	w.WriteHeader(http.StatusNoContent)
}

func (rc *receiver) count(seq int, a arrival) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	rc.tally.Received++
	if rc.first[seq].verified != 0 {
		rc.tally.Duplicates++
		return
	}
	rc.tally.Verified++
	rc.first[seq] = a
	select {
	case rc.arrival <- struct{}{}:
	default: // somebody is about to look anyway
	}
}

func (rc *receiver) refuse(w http.ResponseWriter, status int, why string) {
	rc.mu.Lock()
	rc.tally.Received++
	rc.tally.Refused++
	rc.mu.Unlock()
	http.Error(w, why, status)
}

func (rc *receiver) unknown(w http.ResponseWriter, _ *http.Request) {
	rc.mu.Lock()
	rc.tally.Received++
	rc.tally.Unknown++
	rc.mu.Unlock()
	http.Error(w, "no callback is expected here", http.StatusNotFound)
}

// arrived returns the first verified callback of a request.
func (rc *receiver) arrived(seq int) (arrival, bool) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	a := rc.first[seq]
	return a, a.verified != 0
}

// await returns when the callbacks of all these requests have arrived, when
// none has come for as long as quiet, or when ctx ends.
func (rc *receiver) await(ctx context.Context, seqs []int, quiet time.Duration) {
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for {
		for len(seqs) > 0 {
			if _, ok := rc.arrived(seqs[0]); !ok {
				break
			}
			seqs = seqs[1:]
		}
		if len(seqs) == 0 {
			return
		}
		select {
		case <-rc.arrival:
			timer.Reset(quiet)
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// callbacks returns the tally so far.
func (rc *receiver) callbacks() Callbacks {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	return rc.tally
}
