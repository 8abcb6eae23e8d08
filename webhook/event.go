package webhook

import (
	"encoding/json"
	"time"
)

// EventType says what a callback reports.
type EventType string

const (
	RequestCompleted EventType = "request.completed" // the work succeeded; Result holds what it gave
	RequestFailed    EventType = "request.failed"    // the work failed, was cancelled or expired; Error says why
)

// Event is the body of a callback. Tandem builds its callbacks from this type,
// so it is the one definition of their shape. Exactly one of Result and Error
// is present, as Type says. Receivers ignore fields they do not know.
type Event struct {
	Type      EventType `json:"type"`
	RequestID string    `json:"request_id"`
	Status    string    `json:"status"` // the request's status: completed or failed

	Result json.RawMessage `json:"result,omitempty"` // as the work gave it; numbers keep their digits
	Error  *Error          `json:"error,omitempty"`

	ProcessingTimeMS float64   `json:"processing_time_ms"` // how long the work ran, in milliseconds
	Timestamp        time.Time `json:"timestamp"`          // when the work ended; the same on every attempt

	Metadata Metadata `json:"callback_metadata"`
}

// Error is why the work of a request failed.
type Error struct {
	Code    string `json:"code"` // for programs, such as "timeout"
	Message string `json:"message"`
}

// Metadata tells the attempts at one callback apart.
type Metadata struct {
	Attempt     int       `json:"attempt"` // 1 for the first
	MaxAttempts int       `json:"max_attempts"`
	SentAt      time.Time `json:"sent_at"`
}
