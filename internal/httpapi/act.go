package httpapi

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"tandem"
	"tandem/internal/engine"
)

type actInput struct {
	exchange
	ID string `path:"id"`
}

// cancel answers DELETE /requests/{id}.
func (a *API) cancel(ctx context.Context, in *actInput) (*struct{ Body Record }, error) {
	return a.act(ctx, in, a.engine.Cancel)
}

// redeliver answers POST /requests/{id}/redeliver.
func (a *API) redeliver(ctx context.Context, in *actInput) (*struct{ Body Record }, error) {
	return a.act(ctx, in, a.engine.Redeliver)
}

// act does something to one request and answers with what has become of it.
func (a *API) act(ctx context.Context, in *actInput, do func(context.Context, tandem.Caller, string) (tandem.Request, error)) (*struct{ Body Record }, error) {
	if !tandem.ValidID(in.ID) {
		return nil, a.refuse(in.r, errNotAnID)
	}
	note(ctx, in.ID)
	req, err := do(ctx, caller(ctx), in.ID)
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	return &struct{ Body Record }{recordOf(&req)}, nil
}

type callbacksInput struct {
	exchange
	State  string `query:"state" enum:"pending,sent,failed" doc:"Where the callbacks stand; failed: given up"`
	Host   string `query:"host" doc:"Of the callback URL, with its port if that is not the scheme's"`
	Limit  int    `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"Requests on a page; fewer if they weigh 8 MiB before"`
	Cursor string `query:"cursor" doc:"Where the page before ended; taken from its Link header"`
}

// callbacks answers GET /callbacks.
func (a *API) callbacks(ctx context.Context, in *callbacksInput) (*listOutput, error) {
	q := engine.Query{Caller: caller(ctx), Callback: tandem.CallbackState(in.State), Host: hostPort(in.Host), Limit: in.Limit, Cursor: in.Cursor}
	if in.State == "" {
		q.Callback = tandem.CallbackGivenUp
	}
	return a.page(ctx, in.r, "/callbacks", q)
}

// hostPort is a host as requests are kept by it: in lower case and with a port,
// which is 443 unless one is given.
func hostPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil || host == "" {
		return strings.ToLower(host)
	}
	return strings.ToLower(host) + ":443"
}

// Redelivery is the body of POST /callbacks/redeliver: which callbacks are to be
// delivered again.
type Redelivery struct {
	State  string    `json:"state,omitempty" enum:"failed,sent" default:"failed" doc:"failed: those given up; sent: those delivered"`
	Host   string    `json:"host,omitempty" doc:"Of the callback URL, with its port unless that is 443"`
	From   time.Time `json:"from,omitempty" doc:"Worked then or later"`
	To     time.Time `json:"to,omitempty" doc:"Worked before"`
	Limit  int       `json:"limit,omitempty" minimum:"1" maximum:"1000" default:"1000" doc:"At most so many, the newest first"`
	DryRun bool      `json:"dry_run,omitempty" doc:"Only tell which they are"`
}

// Redelivered is the answer of POST /callbacks/redeliver.
type Redelivered struct {
	Redelivered []string `json:"redelivered" doc:"The ids of the requests, or with dry_run of those that would be"`
	More        bool     `json:"more" doc:"There are more than the limit: ask again"`
	DryRun      bool     `json:"dry_run"`
}

// redeliverMany answers POST /callbacks/redeliver.
func (a *API) redeliverMany(ctx context.Context, in *struct{ exchange }) (*struct{ Body Redelivered }, error) {
	q, dryRun, err := decodeRedelivery(in.r)
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	q.Caller = caller(ctx)
	if err := extendWrite(in.w, time.Minute); err != nil {
		return nil, a.refuse(in.r, err)
	}
	ids, more, err := a.engine.RedeliverMany(ctx, q, dryRun)
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	return &struct{ Body Redelivered }{Redelivered{Redelivered: append([]string{}, ids...), More: more, DryRun: dryRun}}, nil
}

// decodeRedelivery reads the body as strictly as that of a submission.
func decodeRedelivery(r *http.Request) (q engine.Query, dryRun bool, err error) {
	q = engine.Query{Callback: tandem.CallbackGivenUp, Limit: 1000}
	body, err := readBody(r)
	if err == nil {
		err = checkJSON(body)
	}
	if err != nil {
		return q, false, err
	}
	err = members(body, "", func(key string, value []byte) (err error) {
		switch key {
		case "state":
			var state string
			if state, err = parseString(key, value, 16); err == nil && state != "failed" && state != "sent" {
				err = tandem.Invalid(key, "must be failed or sent")
			}
			q.Callback = tandem.CallbackState(state)
		case "host":
			q.Host, err = parseString(key, value, 300)
			q.Host = hostPort(q.Host)
		case "from":
			q.From, err = parseTime(key, value)
		case "to":
			q.To, err = parseTime(key, value)
		case "limit":
			q.Limit, err = parseInt(key, value, 1, 1000)
		case "dry_run":
			if dryRun = string(value) == "true"; !dryRun && string(value) != "false" {
				err = tandem.Invalid(key, "must be true or false")
			}
		default:
			err = tandem.Invalid(fieldName(key), "unknown field; known are state, host, from, to, limit and dry_run")
		}
		return err
	})
	if err == nil && !q.To.IsZero() && !q.To.After(q.From) {
		err = tandem.Invalid("to", "must be after from")
	}
	return q, dryRun, err
}
