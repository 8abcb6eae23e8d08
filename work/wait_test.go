package work

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestWaitTakesTenMillisecondsAUnit(t *testing.T) {
	for _, c := range []struct {
		kind       Kind
		complexity int
		took       time.Duration
		want       string
	}{
		{Wait(), 1, 10 * time.Millisecond, `{"waited_ms":10}`},
		{Wait(), 10, 100 * time.Millisecond, `{"waited_ms":100}`},
		{Mixed(1000), 1, 10 * time.Millisecond, `{"sum":42,"product":42,"operations":1,"checksum":"3026cc7034476cf2"}`},
		{Mixed(1000), 10, 100 * time.Millisecond, `{"sum":42,"product":42,"operations":10,"checksum":"6821a13ddc0328ab"}`},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			got := run(t, c.kind, `{"value":42}`, c.complexity)
			if took := time.Since(start); took != c.took {
				t.Errorf("%s at complexity %d took %v, want %v", c.kind.Name, c.complexity, took, c.took)
			}
			if got != c.want {
				t.Errorf("%s at complexity %d: got %s, want %s", c.kind.Name, c.complexity, got, c.want)
			}
		})
	}
}

func TestWaitStopsWhenItsContextEnds(t *testing.T) {
	cause := errors.New("enough")
	for _, kind := range []Kind{Wait(), Mixed(1)} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Millisecond, cause)
			defer cancel()
			_, err := kind.Func(ctx, Input{Data: json.RawMessage(`{}`), Complexity: 10})
			if took := time.Since(start); !errors.Is(err, cause) || took != 3*time.Millisecond {
				t.Errorf("%s: got %v after %v, want the cause after 3ms", kind.Name, err, took)
			}
		})
	}
}
