package httpapi

import (
	"context"
	"io"
	"net/http"
	"time"

	"encoding/json"

	"tandem/webhook"
)

// Health is the answer of GET /healthz and GET /readyz.
type Health struct {
	Status  string   `json:"status" enum:"ok,ready"`
	Backend string   `json:"backend"`
	Durable bool     `json:"durable" doc:"false: what is accepted does not survive a restart"`
	Notices []string `json:"notices,omitempty" doc:"What makes this instance less safe or less durable than it could be"`
}

func (a *API) health(status string) *struct{ Body Health } {
	backend, durable := a.engine.Backend()
	return &struct{ Body Health }{Health{status, backend, durable, a.opts.Notices}}
}

// healthz answers GET /healthz.
func (a *API) healthz(context.Context, *struct{}) (*struct{ Body Health }, error) {
	return a.health("ok"), nil
}

// readyz answers GET /readyz.
func (a *API) readyz(ctx context.Context, in *struct{ exchange }) (*struct{ Body Health }, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := a.engine.Ready(ctx); err != nil {
		return nil, a.refuse(in.r, err)
	}
	return a.health("ready"), nil
}

// TestCallback is the answer of POST /test-callback.
type TestCallback struct {
	Received    json.RawMessage `json:"received"`
	Verified    bool            `json:"verified" doc:"The signature is ours and fresh"`
	VerifyError string          `json:"verify_error,omitempty"`
}

// testCallback answers POST /test-callback: a receiver for trying by hand.
func (a *API) testCallback(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(r)
	if err == nil {
		err = checkJSON(body)
	}
	if err != nil {
		problemOf(err).write(w)
		return
	}
	answer := TestCallback{Received: body, Verified: true}
	if err := webhook.Verify(r.Header, body, time.Now(), a.opts.Secrets...); err != nil {
		answer.Verified, answer.VerifyError = false, err.Error()
	}
	a.log.Info("test callback received", "verified", answer.Verified, "body", string(body))
	text, err := json.Marshal(answer)
	if err != nil {
		problemOf(err).write(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, string(text)+"\n") // the sender's loss if it is gone
}
