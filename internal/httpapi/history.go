package httpapi

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"tandem"
	"tandem/internal/engine"
)

const maxOffset = 10_000

type listInput struct {
	exchange
	Limit  int    `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"Requests on a page"`
	Offset int    `query:"offset" minimum:"0" doc:"Requests to skip, at most 10,000; use cursor beyond"`
	Cursor string `query:"cursor" doc:"Where the page before ended; taken from its Link header"`
	Mode   string `query:"mode" enum:"sync,async"`
	Status string `query:"status" enum:"pending,processing,completed,failed,callback_sent,callback_failed"`
}

type listOutput struct {
	Link string `header:"Link" doc:"The next page, rel=next (RFC 8288)"`
	Body []Record
}

// list answers GET /requests.
func (a *API) list(ctx context.Context, in *listInput) (*listOutput, error) {
	switch {
	case in.Offset > maxOffset:
		return nil, a.refuse(in.r, tandem.Invalid("offset", "must not be over %d; page with cursor, from the Link header, instead", maxOffset))
	case in.Offset > 0 && in.Cursor != "":
		return nil, a.refuse(in.r, tandem.Invalid("offset", "cannot be combined with cursor; leave it out"))
	}
	page, err := a.engine.Requests(ctx, engine.Query{
		Caller: caller(ctx),
		Mode:   tandem.Mode(in.Mode),
		Status: tandem.Status(in.Status),
		Limit:  in.Limit,
		Offset: in.Offset,
		Cursor: in.Cursor,
	})
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	out := &listOutput{Body: make([]Record, len(page.Requests))}
	for i := range page.Requests {
		out.Body[i] = recordOf(&page.Requests[i])
	}
	if page.Next != "" {
		next := url.Values{"limit": {strconv.Itoa(in.Limit)}, "cursor": {page.Next}}
		if in.Mode != "" {
			next.Set("mode", in.Mode)
		}
		if in.Status != "" {
			next.Set("status", in.Status)
		}
		out.Link = "</requests?" + next.Encode() + `>; rel="next"`
	}
	return out, nil
}

type showInput struct {
	exchange
	ID   string `path:"id"`
	Wait string `query:"wait" doc:"How long to wait for the request to be worked, such as 30s; at most 60s" example:"30s"`
}

type showOutput struct {
	RetryAfter string `header:"Retry-After" doc:"Set while the request is not worked"`
	Body       Record
}

// show answers GET /requests/{id}.
func (a *API) show(ctx context.Context, in *showInput) (*showOutput, error) {
	wait, err := parseWait(in.Wait)
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	if err := extendWrite(in.w, wait); err != nil {
		return nil, a.refuse(in.r, err)
	}
	if !tandem.ValidID(in.ID) {
		return nil, a.refuse(in.r, errNotAnID)
	}
	note(ctx, in.ID)
	req, err := a.engine.Find(ctx, caller(ctx), in.ID, wait)
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	out := &showOutput{Body: recordOf(&req)}
	if !req.Status.Worked() {
		out.RetryAfter = pollAgain
	}
	return out, nil
}

// maxWait bounds ?wait, as proxies bound an idle connection.
const maxWait = time.Minute

func parseWait(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	wait, err := time.ParseDuration(s)
	if err != nil || wait < 0 || wait > maxWait {
		return 0, tandem.Invalid("wait", "must be a duration from 0s to %v, such as 30s", maxWait)
	}
	return wait, nil
}

var errNotAnID = &tandem.Error{Code: tandem.CodeNotFound, Message: "there is no such request; an id is " + tandem.IDPrefix + " and 32 hex digits"}

type attemptsInput struct {
	exchange
	ID string `path:"id"`
}

// attempts answers GET /requests/{id}/attempts.
func (a *API) attempts(ctx context.Context, in *attemptsInput) (*struct{ Body []AttemptRecord }, error) {
	if !tandem.ValidID(in.ID) {
		return nil, a.refuse(in.r, errNotAnID)
	}
	note(ctx, in.ID)
	attempts, err := a.engine.Attempts(ctx, caller(ctx), in.ID)
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	out := &struct{ Body []AttemptRecord }{make([]AttemptRecord, len(attempts))}
	for i, attempt := range attempts {
		out.Body[i] = attemptOf(attempt)
	}
	return out, nil
}
