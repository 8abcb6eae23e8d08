package tandem

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestErrorsKeepTheirCode(t *testing.T) {
	cause := errors.New("the disk")
	err := fmt.Errorf("accept: %w", &Error{Code: CodeUnavailable, Message: "storage cannot be written", Err: cause})
	for _, row := range []struct {
		err  error
		want Code
	}{
		{nil, ""},
		{cause, CodeInternal},
		{err, CodeUnavailable},
		{Invalid("data", "must be %d", 1), CodeInvalid},
		{fmt.Errorf("wrapped: %w", Invalid("data", "x")), CodeInvalid},
		{&Error{Code: CodeBusy, Err: Invalid("data", "x")}, CodeBusy}, // the first counts
		{errors.Join(cause, Invalid("data", "x")), CodeInvalid},
		{&Failure{Code: FailurePanic}, CodeInternal},
	} {
		if got := CodeOf(row.err); got != row.want {
			t.Errorf("CodeOf(%v) = %q, want %q", row.err, got, row.want)
		}
	}
	if !errors.Is(err, cause) {
		t.Error("the cause is not in the chain")
	}
	if e := Invalid("data", "must be %d", 1); e.Field != "data" || e.Message != "must be 1" {
		t.Errorf("Invalid returned %+v", e)
	}
}

func TestErrorsTellAllTheyKnow(t *testing.T) {
	for _, row := range []struct {
		err  error
		want string
	}{
		{&Error{Message: "too many", RetryAfter: time.Second}, "too many"},
		{&Error{Field: "data", Message: "is too long"}, "data: is too long"},
		{&Error{Message: "storage failed", Err: errors.New("disk full")}, "storage failed: disk full"},
		{&Error{Field: "data", Message: "is odd", Err: errors.New("at 3")}, "data: is odd: at 3"},
		{Invalid("data", "%d%% too much", 5), "data: 5% too much"},
		{&Failure{Code: FailureUpstream, Message: "answered 503", Upstream: 503}, "answered 503"},
	} {
		if got := row.err.Error(); got != row.want {
			t.Errorf("got %q, want %q", got, row.want)
		}
	}
	if errors.Unwrap(Invalid("data", "x")) != nil {
		t.Error("an error without a cause has one")
	}
}
