package httpapi

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"tandem"
)

// Problem is how every error is answered: a problem document (RFC 9457).
type Problem struct {
	Type      string         `json:"type" doc:"What kind of problem this is; stable" example:"urn:tandem:problem:invalid"`
	Title     string         `json:"title" doc:"The HTTP status in words"`
	Status    int            `json:"status" doc:"The HTTP status"`
	Detail    string         `json:"detail" doc:"What is wrong and the way out"`
	ErrorCode string         `json:"error_code" doc:"The kind of problem, for programs; see docs/API_ENDPOINTS.md" example:"invalid"`
	RequestID string         `json:"request_id,omitempty" doc:"The request whose work failed, on record under this id"`
	Errors    []FieldProblem `json:"errors,omitempty" doc:"What is wrong with which field"`

	header http.Header
}

// FieldProblem says what is wrong with one field, parameter or header.
type FieldProblem struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// problemType prefixes the error code in Problem.Type.
const problemType = "urn:tandem:problem:"

func newProblem(status int, code, field, detail string) *Problem {
	p := &Problem{
		Type:      problemType + code,
		Title:     http.StatusText(status),
		Status:    status,
		Detail:    detail,
		ErrorCode: code,
	}
	if field != "" {
		p.Errors = []FieldProblem{{field, detail}}
		p.Detail = field + ": " + detail
	}
	return p
}

func (p *Problem) Error() string { return p.Detail }

// GetStatus, GetHeaders and ContentType are what huma asks of an error.
func (p *Problem) GetStatus() int            { return p.Status }
func (p *Problem) GetHeaders() http.Header   { return p.header }
func (p *Problem) ContentType(string) string { return problemMediaType }

const problemMediaType = "application/problem+json"

func (p *Problem) with(name, value string) *Problem {
	if p.header == nil {
		p.header = make(http.Header)
	}
	p.header.Set(name, value)
	return p
}

// write answers with the problem outside of huma.
func (p *Problem) write(w http.ResponseWriter) {
	for name, values := range p.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", problemMediaType)
	w.WriteHeader(p.Status)
	// An error here is the client's connection, which nobody can be told of.
	_ = json.NewEncoder(w).Encode(p)
}

// statusOf is the one map from what went wrong to how HTTP says it.
var statusOf = map[tandem.Code]int{
	tandem.CodeInvalid:     http.StatusUnprocessableEntity,
	tandem.CodeNotFound:    http.StatusNotFound,
	tandem.CodeConflict:    http.StatusConflict,
	tandem.CodeLimited:     http.StatusTooManyRequests,
	tandem.CodeBusy:        http.StatusServiceUnavailable,
	tandem.CodeDraining:    http.StatusServiceUnavailable,
	tandem.CodeUnavailable: http.StatusServiceUnavailable,
	tandem.CodeUnknown:     http.StatusServiceUnavailable,
	tandem.CodeInternal:    http.StatusInternalServerError,
}

// problemOf says an error as the client may hear it. Detail of ours stays
// behind; the caller logs it if the problem's status is 500 or above.
func problemOf(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	e, ok := errors.AsType[*tandem.Error](err)
	if !ok {
		e = &tandem.Error{Code: tandem.CodeInternal, Message: "something went wrong on our side; the log has the reason", Err: err}
	}
	p := newProblem(statusOf[e.Code], string(e.Code), e.Field, e.Message)
	if e.RetryAfter > 0 {
		p.with("Retry-After", wholeSeconds(e.RetryAfter))
	}
	return p
}

// statusClientGone is for the log and the metrics: nobody is there to read it.
const statusClientGone = 499

// statusOfFailure is how POST /sync says that the work did not succeed.
var statusOfFailure = map[tandem.FailureCode]int{
	tandem.FailureUpstream:   http.StatusBadGateway,
	tandem.FailureTimeout:    http.StatusGatewayTimeout,
	tandem.FailureCancelled:  http.StatusConflict,
	tandem.FailureClientGone: statusClientGone,
}

func problemOfFailure(req *tandem.Request) *Problem {
	status, ok := statusOfFailure[req.Failure.Code]
	if !ok {
		status = http.StatusInternalServerError
	}
	p := newProblem(status, string(req.Failure.Code), "", req.Failure.Message)
	p.RequestID = req.ID
	return p
}

// fromHuma turns huma's own refusals, which echo what was sent, into problems
// that do not.
func fromHuma(_ huma.Context, _ string, v any) (any, error) {
	model, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := newProblem(model.Status, string(tandem.CodeInvalid), "", model.Detail)
	for _, d := range model.Errors {
		field := strings.TrimPrefix(d.Location, "query.") // as we name parameters ourselves
		p.Errors = append(p.Errors, FieldProblem{field, d.Message})
		p.Detail = field + ": " + d.Message
	}
	return p, nil
}

// wholeSeconds is a time in the unit of Retry-After, rounded up: whole seconds,
// at least one.
func wholeSeconds(d time.Duration) string {
	return strconv.Itoa(int(math.Ceil(max(1, d.Seconds()))))
}
