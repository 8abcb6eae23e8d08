package distributed

import (
	"testing"
	"time"

	"tandem/internal/callback"
	"tandem/internal/engine"
	"tandem/internal/postgrestest"
)

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
	b, err := Open(t.Context(), postgrestest.Database(t), Options{})
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
