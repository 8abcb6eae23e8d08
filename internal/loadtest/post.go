package loadtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"time"

	"tandem"
)

// outcome is where the sender stands with a request.
type outcome int

const (
	unsent   outcome = iota
	accepted         // 202, or a sync request that was worked
	rejected
	errored
	timedOut
)

// sample is what happened to one request. Times are run time.
type sample struct {
	outcome   outcome
	workFail  bool // sync: the work itself failed
	category  string
	requestID string

	free     time.Duration // t0: the sender was free to send
	written  time.Duration // t1: the request was written
	answered time.Duration // t2: the answer was read and found good
}

// largestAnswer holds a result of 1 MiB and what surrounds it.
const largestAnswer = 2 << 20

// post sends one request and sorts the answer.
func (r *runner) post(ctx context.Context, p planned) sample {
	s := sample{free: r.now()}
	if p.mode == tandem.Async {
		p.body.CallbackURL = r.receiver.url(p.seq)
	}
	body, err := json.Marshal(p.body)
	if err != nil {
		panic(err) // unreachable: the body is ours
	}
	ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { s.written = r.now() },
	})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.opts.URL+"/"+string(p.mode), bytes.NewReader(body))
	if err != nil {
		panic(err) // unreachable: the URL was asked for its /stats before
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := r.client.Do(request)
	if err != nil {
		return s.lost(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, largestAnswer))
	if err != nil {
		return s.lost(err)
	}
	s.sort(p.mode, answer, text)
	s.answered = r.now()
	return s
}

// lost is a request that no answer came to.
func (s sample) lost(err error) sample {
	if timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && timeout.Timeout() {
		s.outcome, s.category = timedOut, CategoryTimeout
	} else {
		s.outcome, s.category = errored, CategoryConnect
	}
	return s
}

// sort decides what an answer means. A sync request whose work failed was
// accepted: its problem document names the request that is on record.
func (s *sample) sort(mode tandem.Mode, answer *http.Response, text []byte) {
	var body struct {
		RequestID string          `json:"request_id"`
		Result    json.RawMessage `json:"result"`
	}
	err := json.Unmarshal(text, &body)
	s.requestID = body.RequestID
	switch status := answer.StatusCode; {
	case err != nil:
		s.outcome, s.category = errored, CategoryBadAnswer
	case mode == tandem.Async && status == http.StatusAccepted && body.RequestID != "",
		mode == tandem.Sync && status == http.StatusOK && body.RequestID != "" && len(body.Result) > 0:
		s.outcome = accepted
	case mode == tandem.Sync && status >= 500 && body.RequestID != "":
		s.outcome, s.category, s.workFail = accepted, CategoryWork, true
	case status == http.StatusTooManyRequests:
		s.outcome, s.category = rejected, CategoryRateLimited
	case status >= 400 && status < 500:
		s.outcome, s.category = rejected, CategoryClient
	case status >= 500:
		s.outcome, s.category = rejected, CategoryServer
	default:
		s.outcome, s.category = errored, CategoryBadAnswer
	}
}
