package tandem

import (
	"errors"
	"fmt"
	"time"
)

// Code says what kind of thing went wrong, for the program to decide on. The
// HTTP edge maps each to one status.
type Code string

const (
	CodeInvalid     Code = "invalid"      // the caller's input breaks a rule; Field names it
	CodeNotFound    Code = "not_found"    // no such request, or not this caller's
	CodeConflict    Code = "conflict"     // the request has moved on; nothing was changed
	CodeLimited     Code = "rate_limited" // too many; come back after RetryAfter
	CodeBusy        Code = "busy"         // no room right now; come back after RetryAfter
	CodeDraining    Code = "draining"     // shutting down; another process may answer
	CodeUnavailable Code = "unavailable"  // storage cannot be written
	CodeUnknown     Code = "unknown"      // the caller left before the outcome was known
	CodeInternal    Code = "internal"     // our fault
)

// Error is the one error type that crosses package borders with a meaning.
// Message is fit for the client; Err, if any, is detail for the log.
type Error struct {
	Code       Code
	Field      string // the offending field, parameter or header, if one is to blame
	Message    string
	RetryAfter time.Duration // when to come back; zero if that would not help
	Err        error
}

func (e *Error) Error() string {
	s := e.Message
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Invalid is the refusal of a caller's input: field names what is wrong, the
// message says the rule and the way out.
func Invalid(field, format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Field: field, Message: fmt.Sprintf(format, args...)}
}

// CodeOf returns the code of the first *Error in err's chain, CodeInternal for
// any other error, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

// Failure is why a request's work did not succeed. It is part of the record,
// shown to the caller and sent with the callback.
type Failure struct {
	Code     FailureCode
	Message  string
	Upstream int // the upstream's HTTP status, for FailureUpstream; 0 if it gave none
}

func (f *Failure) Error() string { return f.Message }

// FailureCode sorts failures; /stats counts by it.
type FailureCode string

const (
	FailureWork        FailureCode = "work_failed"      // the Func returned an error
	FailurePanic       FailureCode = "panic"            // the Func panicked
	FailureTimeout     FailureCode = "timeout"          // the work ran past its deadline
	FailureUpstream    FailureCode = "upstream"         // the http workload's upstream failed
	FailureTooLarge    FailureCode = "result_too_large" // the result exceeds MaxResult
	FailureNoWorkload  FailureCode = "unknown_workload" // accepted once, no longer registered
	FailureClientGone  FailureCode = "client_gone"      // the sync caller left
	FailureInterrupted FailureCode = "interrupted"      // a restart found the sync request unfinished
	FailureCrashed     FailureCode = "crashed_worker"   // MaxStarts starts were interrupted
	FailureCancelled   FailureCode = "cancelled"
	FailureExpired     FailureCode = "expired"
)
