package engine_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"tandem"
	"tandem/internal/engine"
)

// unsure is a backend that commits a claim and cannot say so.
type unsure struct {
	*model
	lost bool // the next claim's outcome
}

func (u *unsure) Claim(ctx context.Context, req *tandem.Request, key engine.IdempotencyKey) (string, error) {
	holder, err := u.model.Claim(ctx, req, key)
	if u.lost && err == nil && holder == "" {
		u.lost = false
		return "", &tandem.Error{Code: tandem.CodeUnknown, Message: "storage was lost before the outcome was known"}
	}
	return holder, err
}

func TestARequestThatIsAcceptedByItsRepetitionIsAPromise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newTable()
		u := &unsure{model: openModel(table, 100), lost: true}
		e := engineOn(t, u, engine.Options{})
		sub := quickWork
		sub.CallbackURL, sub.Idempotency.Key = "http://example.com/hook", "k"
		if _, _, err := e.Try(t.Context(), sub, time.Minute); tandem.CodeOf(err) != tandem.CodeUnknown {
			t.Fatalf("the caller whose connection was lost is told %v", err)
		}
		req, replayed, err := e.Accept(t.Context(), sub)
		if err != nil || !replayed || req.Status != tandem.Pending {
			t.Fatalf("the repetition is answered with %+v, %v", req, err)
		}
		if req.Callback.State != tandem.CallbackPending {
			t.Errorf("it is accepted and owes the callback %q, want it pending", req.Callback.State)
		}
		found, err := openModel(table, 100).Request(t.Context(), req.ID) // after a restart
		if err != nil || found.Status != tandem.Pending || found.Waited {
			t.Errorf("a restart finds %+v, %v, want a promise", found, err)
		}
	})
}
