package acceptance

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"tandem/webhook"
)

// mood is how a receiver treats who comes.
type mood int32

const (
	moodWell mood = iota
	moodHangs
	moodResets
	moodErrs
	moodFlaps
	moodDrips
	moodLimits
	moods
)

// host is a receiver that verifies what comes and writes it down in a ledger.
type host struct {
	t      *testing.T
	url    string
	server *httptest.Server
	ledger *ledger
	mood   atomic.Int32 // a mood
	turn   atomic.Int64
}

func newHost(t *testing.T, l *ledger) *host {
	h := &host{t: t, ledger: l}
	h.server = httptest.NewServer(h)
	h.url = h.server.URL + "/hook"
	t.Cleanup(h.server.Close)
	return h
}

func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender was ended meanwhile
	}
	var event webhook.Event
	if err := json.Unmarshal(body, &event); err != nil {
		h.t.Errorf("a callback cannot be read: %v", err)
	}
	if err := webhook.Verify(r.Header, body, time.Now(), secret); err != nil {
		h.t.Errorf("callback of %s: %v", event.RequestID, err)
	}
	if id := r.Header.Get(webhook.HeaderID); id != event.RequestID {
		h.t.Errorf("webhook-id is %q, the event is about %q", id, event.RequestID)
	}
	switch mood(h.mood.Load()) {
	case moodHangs:
		<-r.Context().Done()
		return
	case moodResets:
		panic(http.ErrAbortHandler)
	case moodErrs:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case moodLimits:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case moodFlaps:
		if h.turn.Add(1)%2 == 0 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
	case moodDrips:
		defer h.drip(w, r)
	}
	h.ledger.arrived(h.t, &event)
	w.WriteHeader(http.StatusOK)
}

// drip answers one byte after the other, for longer than an attempt may take.
func (h *host) drip(w http.ResponseWriter, r *http.Request) {
	for range 50 {
		if _, err := w.Write([]byte(".")); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush() // fails as the next write does
		select {
		case <-r.Context().Done():
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}
