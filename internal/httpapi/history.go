package httpapi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"tandem"
	"tandem/internal/engine"
)

const maxOffset = 10_000

type listInput struct {
	exchange
	Limit  int    `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"Requests on a page; fewer if they weigh 8 MiB before"`
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
	return a.page(ctx, in.r, "/requests", engine.Query{
		Caller: caller(ctx),
		Mode:   tandem.Mode(in.Mode),
		Status: tandem.Status(in.Status),
		Limit:  in.Limit,
		Offset: in.Offset,
		Cursor: in.Cursor,
	})
}

// page answers with one page of the history, and where the next one is.
func (a *API) page(ctx context.Context, r *http.Request, path string, q engine.Query) (*listOutput, error) {
	page, err := a.engine.Requests(ctx, q)
	if err != nil {
		return nil, a.refuse(r, err)
	}
	out := &listOutput{Body: make([]Record, len(page.Requests))}
	for i := range page.Requests {
		out.Body[i] = recordOf(&page.Requests[i])
	}
	if page.Next != "" {
		next := r.URL.Query() // the same again, and from there on
		next.Del("offset")
		next.Set("limit", strconv.Itoa(q.Limit))
		next.Set("cursor", page.Next)
		out.Link = "<" + path + "?" + next.Encode() + `>; rel="next"`
	}
	return out, nil
}

type showInput struct {
	exchange
	ID   string `path:"id"`
	None string `header:"If-None-Match" doc:"ETags of records that need not be sent again"`
	Wait string `query:"wait" doc:"How long to wait for the request to be worked, such as 30s; at most 60s" example:"30s"`
}

type showOutput struct {
	ETag       string `header:"ETag" doc:"Of the record as it stands; for If-None-Match"`
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
	out.ETag, err = etagOf(&out.Body)
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	in.w.Header().Set("Cache-Control", "private, no-cache") // with the ETag, to be asked for again
	if matches(in.None, out.ETag) {
		in.w.Header().Set("ETag", out.ETag)
		return nil, huma.Status304NotModified()
	}
	if !req.Status.Worked() {
		out.RetryAfter = pollAgain
	}
	return out, nil
}

// etagOf is a strong validator of a record (RFC 9110, section 8.8.3).
func etagOf(record *Record) (string, error) {
	text, err := json.Marshal(record)
	sum := sha256.Sum256(text)
	return `"` + hex.EncodeToString(sum[:12]) + `"`, err
}

// matches reports whether If-None-Match lists the ETag (RFC 9110, section
// 13.1.2: compared weakly).
func matches(ifNoneMatch, etag string) bool {
	for candidate := range strings.SplitSeq(ifNoneMatch, ",") {
		candidate = strings.TrimSpace(candidate)
		if candidate == "*" || strings.TrimPrefix(candidate, "W/") == etag {
			return true
		}
	}
	return false
}

// maxWait bounds ?wait, as proxies bound an idle connection.
const maxWait = time.Minute

func parseWait(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	wait, err := time.ParseDuration(s)
	if err != nil || wait < 0 || wait > maxWait {
		return 0, tandem.Invalid("wait", "must be a duration from 0s to %.0fs, such as 30s", maxWait.Seconds())
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
