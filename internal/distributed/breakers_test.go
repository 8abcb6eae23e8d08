package distributed

import (
	"context"
	"testing"
	"time"

	"tandem/internal/callback"
	"tandem/internal/egress"
	"tandem/internal/engine"
	"tandem/work"
)

// breakerProcess is a process of which only the breakers are of interest.
func breakerProcess(t *testing.T, database string) (*Backend, *engine.Engine) {
	t.Helper()
	b, err := Open(t.Context(), database, Options{NoSteps: true})
	if err != nil {
		t.Fatal(err)
	}
	guard, err := egress.New(egress.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := engine.New(b, &work.Registry{}, guard, nil, nil, engine.Options{PerHost: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b, e
}

func TestLeaveToFindOutIsGivenBackIfNothingIsFoundOut(t *testing.T) {
	t.Parallel()
	database := Migrated.Database(t)
	ours, e := breakerProcess(t, database)
	others, other := breakerProcess(t, database)
	ctx := t.Context()
	// opened is a host that has been left alone for long enough, as both know.
	opened := func(host string) {
		t.Helper()
		if _, err := ours.pool.Exec(ctx, openQuery, host, time.Now().Add(-time.Second).UnixMicro()); err != nil {
			t.Fatal(err)
		}
		for _, b := range []*Backend{ours, others} {
			for deadline := time.Now().Add(30 * time.Second); b.breakers.closed(host); {
				if time.Now().After(deadline) {
					t.Fatalf("%s is not known to be ill", host)
				}
				if err := b.breakers.look(ctx); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	admitted := func(b *Backend, steps engine.Steps, host string, want bool) {
		t.Helper()
		if err := b.breakers.look(ctx); err != nil {
			t.Fatal(err)
		}
		admission, err := b.breakers.admit(ctx, steps, host)
		if err != nil || admission.OK != want {
			t.Fatalf("%s: admitted %+v, %v, want %v", host, admission, err, want)
		}
	}
	leave := func(host string) {
		t.Helper()
		e.Leave(host)
		if err := ours.breakers.attempted(ctx, e, host); err != nil {
			t.Fatal(err)
		}
	}

	opened("probed.example:80")
	admitted(ours, e, "probed.example:80", true)
	admitted(others, other, "probed.example:80", false) // one finds out
	leave("probed.example:80")
	admitted(others, other, "probed.example:80", true)

	// An attempt of before takes the only place here.
	if !e.Admit("busy.example:80").OK {
		t.Fatal("the first attempt is not admitted")
	}
	opened("busy.example:80")
	admitted(ours, e, "busy.example:80", false)
	admitted(others, other, "busy.example:80", true)

	// What ends without a word while another attempt finds out takes nothing from
	// that one.
	opened("shared.example:80")
	admitted(ours, e, "shared.example:80", true)
	if err := ours.breakers.attempted(ctx, e, "shared.example:80"); err != nil {
		t.Fatal(err)
	}
	admitted(others, other, "shared.example:80", false)
}

// oneHost is what an engine knows of a host.
type oneHost struct {
	engine.Steps
	breaker callback.Breaker
}

func (h *oneHost) Breaker(string) callback.Breaker         { return h.breaker }
func (h *oneHost) SetBreaker(_ string, b callback.Breaker) { h.breaker = b }

// A look at the table that is older than what this process has found out itself
// neither closes a breaker that has opened, nor opens one that has closed.
func TestALookThatIsOutOfDateChangesNothing(t *testing.T) {
	t.Parallel()
	b, err := Open(t.Context(), Migrated.Database(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s, host := newBreakers(b), &oneHost{}
	open := callback.Breaker{OpenTill: time.Now().UTC().Truncate(time.Microsecond).Add(time.Hour)}
	for _, found := range []struct {
		name    string
		breaker callback.Breaker
	}{
		{"the breaker has opened", open},
		{"the breaker has closed", callback.Breaker{}},
	} {
		before := s.changes
		rows, err := s.read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		host.breaker = found.breaker
		if err := s.attempted(t.Context(), host, "example.com:80"); err != nil {
			t.Fatal(err)
		}
		if s.learn(host, rows, before) {
			t.Errorf("%s: what was read before was learned", found.name)
		}
		if rows, err = s.read(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !s.learn(host, rows, s.changes) {
			t.Errorf("%s: what was read after it was not learned", found.name)
		}
		if host.breaker != found.breaker || s.closed("example.com:80") != found.breaker.OpenTill.IsZero() {
			t.Errorf("%s: then the engine has %+v, and closed is %v", found.name, host.breaker, s.closed("example.com:80"))
		}
	}
}
