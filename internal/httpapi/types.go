package httpapi

import (
	"encoding/json"
	"time"

	"tandem"
	"tandem/internal/engine"
)

// SubmitSync is the body of POST /sync.
type SubmitSync struct {
	Data       map[string]any `json:"data" minProperties:"1" example:"{\"price\":19.90,\"quantity\":3}" doc:"The input: an object of at most 10,000 bytes encoded and 10 levels. Numbers keep their digits."`
	Complexity int            `json:"complexity,omitempty" minimum:"1" maximum:"10" default:"1" doc:"How much work to do"`
	Workload   string         `json:"workload,omitempty" default:"compute" doc:"Which kind of work: compute burns CPU, wait waits, mixed does both, http calls an upstream the operator configured"`
}

// SubmitAsync is the body of POST /async.
type SubmitAsync struct {
	SubmitSync
	CallbackURL string           `json:"callback_url,omitempty" format:"uri" maxLength:"2048" doc:"Where to send the outcome. Without it, poll GET /requests/{id}."`
	Callback    *CallbackOptions `json:"callback,omitempty" doc:"How to call back, if not as the service does by itself"`
	NotBefore   *time.Time       `json:"not_before,omitempty" doc:"The work begins no earlier; at most 366 days ahead"`
	ExpiresAt   *time.Time       `json:"expires_at,omitempty" doc:"Work that has not begun by then fails as expired"`
}

// CallbackOptions is what a caller may ask of its callback.
type CallbackOptions struct {
	MaxAttempts int               `json:"max_attempts,omitempty" minimum:"1" maximum:"20"`
	Timeout     string            `json:"timeout,omitempty" example:"10s" doc:"Of one attempt: 1s to 30s"`
	Headers     map[string]string `json:"headers,omitempty" doc:"Further headers of each attempt, at most 20. Not those of the connection, the message or the signature."`
}

// SyncAnswer is the answer of POST /sync.
type SyncAnswer struct {
	RequestID        string          `json:"request_id"`
	Result           json.RawMessage `json:"result"`
	ProcessingTimeMS float64         `json:"processing_time_ms"`
	Timestamp        time.Time       `json:"timestamp" doc:"When the work was done"`
}

// AsyncAnswer is the answer of POST /async.
type AsyncAnswer struct {
	RequestID string `json:"request_id"`
	Status    string `json:"status" enum:"accepted"`
	Message   string `json:"message"`
	StatusURL string `json:"status_url"`
}

// Record is everything known about a request.
type Record struct {
	RequestID        string          `json:"request_id"`
	Mode             string          `json:"mode" enum:"sync,async"`
	Status           string          `json:"status" enum:"pending,processing,completed,failed,callback_sent,callback_failed"`
	Workload         string          `json:"workload"`
	Complexity       int             `json:"complexity"`
	InputData        json.RawMessage `json:"input_data"`
	Result           json.RawMessage `json:"result" doc:"null until the work has succeeded"`
	ProcessingTimeMS *float64        `json:"processing_time_ms" doc:"null until the work has ended"`
	QueueTimeMS      *float64        `json:"queue_time_ms" doc:"null until the work has begun"`
	Callback         CallbackRecord  `json:"callback"`
	NotBefore        *time.Time      `json:"not_before" doc:"null: at once"`
	ExpiresAt        *time.Time      `json:"expires_at" doc:"null: never"`
	CreatedAt        time.Time       `json:"created_at"`
	StartedAt        *time.Time      `json:"started_at"`
	CompletedAt      *time.Time      `json:"completed_at" doc:"When the work ended, well or not"`
	ErrorCode        *string         `json:"error_code" doc:"Why the work failed, for programs"`
	ErrorMessage     *string         `json:"error_message" doc:"Why the work failed, for people"`
	UpstreamStatus   *int            `json:"upstream_status,omitempty" doc:"The HTTP status of the upstream that failed"`
}

// CallbackRecord is where the message owed to callback_url stands.
type CallbackRecord struct {
	URL           *string    `json:"url"`
	State         string     `json:"state" enum:"none,pending,sent,failed"`
	Attempts      int        `json:"attempts"`
	MaxAttempts   int        `json:"max_attempts"`
	LastStatus    *int       `json:"last_status" doc:"HTTP status of the last answer; null if there was none"`
	LastError     *string    `json:"last_error"`
	NextAttemptAt *time.Time `json:"next_attempt_at"`
}

// AttemptRecord is one try at delivering a callback.
type AttemptRecord struct {
	Number     int       `json:"number"`
	At         time.Time `json:"at"`
	DurationMS float64   `json:"duration_ms"`
	StatusCode *int      `json:"status_code" doc:"null if there was no answer"`
	ErrorClass *string   `json:"error_class" enum:"dns,connect,tls,timeout,protocol,denied,redirect,4xx,gone,rate_limited,5xx,internal" doc:"null if it was delivered"`
	Error      *string   `json:"error"`
	Answer     string    `json:"answer" doc:"The first KiB of the answer"`
}

func recordOf(req *tandem.Request) Record {
	cb := &req.Callback
	r := Record{
		RequestID:  req.ID,
		Mode:       string(req.Mode),
		Status:     string(req.Status),
		Workload:   req.Workload,
		Complexity: req.Complexity,
		InputData:  req.Data,
		Result:     req.Result,
		Callback: CallbackRecord{
			URL:           known(cb.URL),
			State:         string(cb.State),
			Attempts:      cb.Attempts,
			MaxAttempts:   cb.MaxAttempts,
			LastStatus:    known(cb.LastStatus),
			LastError:     known(cb.LastError),
			NextAttemptAt: known(cb.NextAt.UTC().Truncate(time.Microsecond)),
		},
		NotBefore:   known(req.NotBefore),
		ExpiresAt:   known(req.ExpiresAt),
		CreatedAt:   req.CreatedAt,
		StartedAt:   known(req.StartedAt),
		CompletedAt: known(req.WorkedAt),
	}
	if r.StartedAt != nil {
		r.QueueTimeMS = new(engine.Milliseconds(req.QueueTime()))
		if r.CompletedAt != nil {
			r.ProcessingTimeMS = new(engine.Milliseconds(req.ProcessingTime()))
		}
	}
	if f := req.Failure; f != nil {
		r.ErrorCode, r.ErrorMessage, r.UpstreamStatus = known(string(f.Code)), &f.Message, known(f.Upstream)
	}
	return r
}

func attemptOf(a tandem.Attempt) AttemptRecord {
	return AttemptRecord{
		Number:     a.Number,
		At:         a.At,
		DurationMS: engine.Milliseconds(a.Duration),
		StatusCode: known(a.Status),
		ErrorClass: known(string(a.Class)),
		Error:      known(a.Error),
		Answer:     string(a.Answer),
	}
}

// known returns nil for a zero value, which the API shows as null.
func known[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
