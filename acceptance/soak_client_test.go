//go:build unix

package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// soakClient sends one request after the other.
type soakClient struct {
	*soak
	rng *rand.Rand
	ids []string // acknowledged with a callback, the latest
}

// run submits until ctx ends.
func (c *soakClient) run(ctx context.Context) {
	for ctx.Err() == nil {
		c.submit(ctx)
		c.pause(ctx, 20*time.Millisecond, 100*time.Millisecond)
	}
}

// pause is the time that a caller takes until the next request.
func (c *soakClient) pause(ctx context.Context, least, most time.Duration) {
	select {
	case <-time.After(least + time.Duration(c.rng.Int64N(int64(most-least)))):
	case <-ctx.Done():
	}
}

// submit sends one request of some kind, and writes down what is answered.
func (c *soakClient) submit(ctx context.Context) {
	switch n := c.rng.IntN(100); {
	case n < 25:
		c.sync()
	case n < 55:
		c.async(nil, nil)
	case n < 65:
		c.keyed(ctx, "/async", http.StatusAccepted)
	case n < 70:
		c.keyed(ctx, "/sync", http.StatusOK)
	case n < 77:
		c.cancelled()
	case n < 84:
		c.delayed()
	case n < 88:
		c.prefer()
	case n < 92:
		c.leaves(ctx)
	case n < 96:
		c.redelivered()
	default:
		c.reads()
	}
}

// body is a submission of quick work, to a receiver or to none.
func (c *soakClient) body(e *entry, more map[string]any) map[string]any {
	body := map[string]any{
		"data":       map[string]any{"n": e.n, "x": []any{c.rng.IntN(1000), c.rng.Float64()}},
		"workload":   []string{"compute", "wait", "mixed"}[c.rng.IntN(3)],
		"complexity": 1 + c.rng.IntN(3),
	}
	if e.callback {
		body["callback_url"] = c.hosts[c.rng.IntN(len(c.hosts))].url
	}
	for name, value := range more {
		body[name] = value
	}
	return body
}

// post submits to the run of the program that clients talk to.
func (c *soakClient) post(path string, body any, headers ...string) (acknowledgement, int, bool) {
	return c.service.Load().submit(path, body, headers...)
}

func (c *soakClient) sync() {
	e := c.ledger.submission()
	c.answered(e, "/sync", c.body(e, nil))
}

// answered posts a sync submission that may be answered with a result.
func (c *soakClient) answered(e *entry, path string, body any, headers ...string) {
	switch ack, status, ok := c.post(path, body, headers...); {
	case !ok:
	case status == http.StatusOK:
		e.id, e.result = ack.RequestID, string(ack.Result)
	case status == http.StatusAccepted && len(headers) > 0:
		e.id = ack.RequestID
	case status == http.StatusServiceUnavailable || ack.ErrorCode == "interrupted":
	default:
		c.t.Errorf("POST %s answers %d %+v", path, status, ack)
	}
}

// async posts an async submission, with a callback more often than not unless
// then says what to do with it once it was accepted.
func (c *soakClient) async(more map[string]any, then func(*entry)) {
	e := c.ledger.submission()
	e.callback = c.rng.IntN(4) > 0
	ack, status, ok := c.post("/async", c.body(e, more))
	switch {
	case !ok:
	case status == http.StatusAccepted:
		e.id = ack.RequestID
		if then != nil {
			then(e)
		} else if e.callback {
			c.ids = append(c.ids, e.id)
		}
	case status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests:
		e.refused = ack.ErrorCode != "unknown"
	case status == http.StatusUnprocessableEntity && more["expires_at"] != nil: // it reached a stopped service too late
		e.refused = true
	default:
		c.t.Errorf("POST /async answers %d %+v", status, ack)
	}
}

// keyed repeats a submission under one key until it was acknowledged twice, as
// a caller does who had no answer.
func (c *soakClient) keyed(ctx context.Context, path string, want int) {
	e := c.ledger.submission()
	e.key, e.repeated = fmt.Sprintf("key-%d", e.n), true
	e.callback = want == http.StatusAccepted
	body := c.body(e, nil)
	for acks := 0; acks < 2 && ctx.Err() == nil; c.pause(ctx, time.Millisecond, 200*time.Millisecond) {
		ack, status, ok := c.post(path, body, "Idempotency-Key", e.key)
		switch {
		case !ok || status == http.StatusServiceUnavailable || status == http.StatusConflict && ack.ErrorCode == "conflict":
		case status == want || ack.ErrorCode == "interrupted":
			if e.id != "" && e.id != ack.RequestID {
				c.t.Errorf("key %s stands for %s and for %s", e.key, e.id, ack.RequestID)
			}
			acks++
			if status != want { // the outcome is that it was interrupted, and it stays so
				return
			}
			e.id, e.result = ack.RequestID, string(ack.Result)
		default:
			c.t.Errorf("POST %s under a key answers %d %+v", path, status, ack)
			return
		}
	}
}

// cancelled submits something that waits or runs, and cancels it.
func (c *soakClient) cancelled() {
	more := map[string]any{"workload": "wait", "complexity": 10}
	if c.rng.IntN(2) == 0 {
		more["not_before"] = time.Now().Add(2 * time.Second).UTC()
	}
	c.async(more, func(e *entry) {
		for range 20 { // until an answer says what has become of it
			a, err := c.service.Load().try("DELETE", "/requests/"+e.id, nil)
			switch {
			case err != nil || a.status == http.StatusServiceUnavailable:
			case a.status == http.StatusOK:
				e.cancelled = true
				c.ledger.mu.Lock()
				c.ledger.cancelled++
				c.ledger.mu.Unlock()
				return
			case a.status == http.StatusConflict && a.header.Get("Retry-After") == "":
				e.cancelled = c.isCancelled(e.id) // by the try before, or it was too late
				return
			}
			c.pause(c.t.Context(), 50*time.Millisecond, 500*time.Millisecond)
		}
		e.cancelled = c.isCancelled(e.id)
	})
}

// isCancelled asks until the service answers.
func (c *soakClient) isCancelled(id string) bool {
	for {
		var r record
		if a, err := c.service.Load().try("GET", "/requests/"+id+"?wait=5s", nil); err == nil && a.status == http.StatusOK && json.Unmarshal(a.body, &r) == nil && r.worked() {
			return show(r.ErrorCode) == "cancelled"
		}
		c.pause(c.t.Context(), 50*time.Millisecond, 500*time.Millisecond)
	}
}

// delayed submits something that is to begin in a while, and may expire.
func (c *soakClient) delayed() {
	at := time.Now().Add(time.Duration(c.rng.IntN(2000)) * time.Millisecond).UTC().Truncate(time.Microsecond)
	more := map[string]any{"not_before": at}
	if c.rng.IntN(2) == 0 {
		more["expires_at"] = at.Add(time.Second)
	}
	c.async(more, func(e *entry) { e.notBefore = at })
}

// prefer submits something of which the outcome is welcome if it comes soon.
func (c *soakClient) prefer() {
	e := c.ledger.submission()
	more := map[string]any{"callback_url": c.hosts[0].url}
	c.answered(e, "/sync", c.body(e, more), "Prefer", "respond-async, wait=1")
}

// leaves submits something and does not wait for the answer.
func (c *soakClient) leaves(ctx context.Context) {
	e := c.ledger.submission()
	body, err := json.Marshal(c.body(e, map[string]any{"workload": "wait", "complexity": 10}))
	if err != nil {
		c.t.Error(err)
		return
	}
	ctx, leave := context.WithTimeout(ctx, time.Duration(1+c.rng.IntN(80))*time.Millisecond)
	defer leave()
	s := c.service.Load()
	r, err := http.NewRequestWithContext(ctx, "POST", "http://"+s.addr+"/sync", strings.NewReader(string(body)))
	if err != nil {
		c.t.Error(err)
		return
	}
	r.Header.Set("Content-Type", "application/json")
	if res, err := s.client.Do(r); err == nil {
		_, _ = io.Copy(io.Discard, res.Body) // it has left
		res.Body.Close()
	}
}

// redelivered asks again for a callback of before.
func (c *soakClient) redelivered() {
	if len(c.ids) == 0 {
		return
	}
	id := c.ids[0]
	c.ids = c.ids[1:]
	c.ledger.mu.Lock()
	c.ledger.again[id]++ // asked for, and perhaps heard
	c.ledger.mu.Unlock()
	if a, err := c.service.Load().try("POST", "/requests/"+id+"/redeliver", nil); err == nil && a.status != http.StatusOK && a.status != http.StatusConflict && a.status != http.StatusServiceUnavailable {
		c.t.Errorf("POST /requests/%s/redeliver answers %d %s", id, a.status, a.body)
	}
}

// reads looks at what there is.
func (c *soakClient) reads() {
	for _, path := range []string{"/stats", "/requests?limit=20&mode=async", "/callbacks?state=failed", "/healthz"} {
		if a, err := c.service.Load().try("GET", path, nil); err == nil && a.status != http.StatusOK {
			c.t.Errorf("GET %s answers %d %s", path, a.status, a.body)
		}
	}
}
