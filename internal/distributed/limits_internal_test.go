package distributed

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem/internal/limit"
	"tandem/internal/postgrestest"
)

// A request that comes while its process asks Postgres about others is asked
// about after them, also if it is the last to come.
func TestWhoComesWhileAProcessAsksIsAnsweredToo(t *testing.T) {
	t.Parallel()
	database := postgrestest.Database(t)
	b, err := Open(t.Context(), database, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	rate := limit.Rate{N: 10, Window: time.Hour}
	l := b.Limiter(rate).(*limiter)
	waiting := func(n int) func() bool {
		return func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			c := l.callers["ann"]
			return c != nil && !c.asked.IsZero() && len(c.waiting) == n
		}
	}

	other, err := pgx.Connect(t.Context(), database) // another process that asks for the same key, and is slow
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.WithoutCancel(t.Context()))
	asking, err := other.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := asking.Exec(t.Context(), `SELECT pg_advisory_xact_lock(1952542308, hashtext($1))`, rate.String()+" ann"); err != nil {
		t.Fatal(err)
	}
	answered := make(chan limit.Decision, 2)
	take := func() { answered <- l.Take("ann", time.Now()) }
	go take()
	poll(t, "the first is asked about", waiting(0))
	go take()
	poll(t, "the second waits", waiting(1))
	if err := asking.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case d := <-answered:
			if !d.OK {
				t.Errorf("it is refused: %+v", d)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("one is not answered")
		}
	}
}

// poll asks until the answer is yes.
func poll(t *testing.T, what string, yes func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !yes(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain waited until %s", what)
		}
	}
}
