package engine_test

import (
	"testing"
	"testing/synctest"
	"time"

	"tandem"
	"tandem/internal/callback"
	"tandem/internal/engine"
)

func TestWhatCannotBeSignedIsNotHeldAgainstItsHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openModel(newTable(), 100)
		e := engineOn(t, m, engine.Options{Policy: callback.Demo})
		defer running(t, e)()
		accept := func(owner string) string {
			t.Helper()
			sub := quickWork
			sub.Owner, sub.CallbackURL = owner, "http://shared.example/hook"
			req, _, err := e.Accept(t.Context(), sub)
			if err != nil {
				t.Fatal(err)
			}
			return req.ID
		}
		unsigned := make([]string, callback.BreakerFailures)
		for i := range unsigned {
			unsigned[i] = accept("keyless")
		}
		synctest.Wait()
		if b := e.Breaker("shared.example:80"); b != (callback.Breaker{}) {
			t.Errorf("the host counts as ill: %+v", b)
		}
		signed := accept("")
		time.Sleep(10 * time.Second)
		if req, err := m.Request(t.Context(), signed); err != nil || req.Status != tandem.CallbackSent {
			t.Errorf("the callback that can be signed: %+v, %v", req, err)
		}
		for _, id := range unsigned {
			req, err := m.Request(t.Context(), id)
			if err != nil || req.Callback.State != tandem.CallbackGivenUp {
				t.Errorf("the callback that cannot be signed: %+v, %v", req, err)
			}
			attempts, err := m.Attempts(t.Context(), id)
			if err != nil || len(attempts) != callback.Demo.Attempts || attempts[0].Class != tandem.ClassInternal {
				t.Errorf("its attempts are %+v, %v", attempts, err)
			}
		}
	})
}
