package storetest

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"tandem"
	"tandem/internal/access"
	"tandem/internal/limit"
	"tandem/internal/store"
	"tandem/webhook"
)

// ExerciseKeys runs the suite of a KeyStore. open opens a database of its own.
func ExerciseKeys(t *testing.T, open func(t *testing.T) *store.KeyStore) {
	for _, c := range []struct {
		rule string
		test func(*keySuite)
	}{
		{"a key is kept as it was made, and keys are listed by name", func(s *keySuite) {
			bob, ann := newKey("bob"), newKey("ann")
			ann.Admin, ann.Rate = true, limit.Rate{N: 50, Window: time.Minute}
			s.made(bob, ann)
			s.listed(ann, bob)
		}},
		{"a good key is not replaced, and a revoked one is, with its secrets", func(s *keySuite) {
			first, second := newKey("ann"), newKey("ann")
			s.made(first)
			s.wantCode("a second key", s.keys.Create(s.Context(), second), tandem.CodeConflict)
			s.listed(first)
			first.RevokedAt = now()
			s.must(s.keys.Revoke(s.Context(), "ann", first.RevokedAt))
			s.listed(first)
			s.made(second)
			s.listed(second)
		}},
		{"only a good key is revoked or given another secret", func(s *keySuite) {
			ann := newKey("ann")
			ann.RevokedAt = now()
			s.made(ann)
			s.must(s.keys.Revoke(s.Context(), "ann", ann.RevokedAt))
			for _, name := range []string{"ann", "bob"} {
				s.wantCode("to revoke "+name, s.keys.Revoke(s.Context(), name, now()), tandem.CodeConflict)
				s.wantCode("another secret of "+name, s.keys.Rotate(s.Context(), name, newSecret(now()), time.Hour), tandem.CodeConflict)
			}
			s.listed(ann)
		}},
		{"secrets before the newest are good until the overlap is over, and no longer than they were", func(s *keySuite) {
			ann, bob := newKey("ann"), newKey("bob")
			s.made(ann, bob)
			at := ann.CreatedAt
			rotate := func(after, overlap time.Duration) {
				secret := newSecret(at.Add(after))
				s.must(s.keys.Rotate(s.Context(), "ann", secret, overlap))
				ann.Secrets = append([]access.Secret{secret}, ann.Secrets...)
			}
			rotate(time.Minute, time.Hour)
			ann.Secrets[1].ExpiresAt = at.Add(61 * time.Minute)
			s.listed(ann, bob)
			rotate(2*time.Minute, 2*time.Hour)
			ann.Secrets[1].ExpiresAt = at.Add(122 * time.Minute)
			s.listed(ann, bob)
			rotate(61*time.Minute, time.Minute) // when the first is over
			ann.Secrets = ann.Secrets[:3]
			ann.Secrets[1].ExpiresAt, ann.Secrets[2].ExpiresAt = at.Add(62*time.Minute), at.Add(62*time.Minute)
			s.listed(ann, bob)
		}},
		{"a keyring follows every change", func(s *keySuite) {
			var ring access.Keyring
			s.must(s.keys.Load(s.Context(), &ring))
			if !ring.Empty() {
				s.Error("a new database has keys")
			}
			ctx, stop := context.WithCancel(s.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				s.keys.Watch(ctx, &ring, slog.New(slog.DiscardHandler))
			}()
			defer func() { stop(); <-ended }()
			token, id := access.NewToken()
			ann := newKey("ann")
			ann.TokenID, ann.Hash = id, access.HashToken(token)
			opens := func() bool { _, ok := ring.Open(token); return ok }
			s.made(ann)
			Eventually(s.T, "its token opens", opens)
			s.must(s.keys.Rotate(s.Context(), "ann", newSecret(now()), time.Hour))
			Eventually(s.T, "it has two secrets", func() bool { return len(ring.Secrets("ann", now())) == 2 })
			s.must(s.keys.Revoke(s.Context(), "ann", now()))
			Eventually(s.T, "its token does not open any more", func() bool { return !opens() })
		}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			t.Parallel()
			keys := open(t)
			t.Cleanup(func() {
				if err := keys.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			c.test(&keySuite{suite{T: t}, keys})
		})
	}
}

// keySuite is one case of ExerciseKeys under way.
type keySuite struct {
	suite
	keys *store.KeyStore
}

func newSecret(at time.Time) access.Secret {
	return access.Secret{Secret: webhook.NewSecret(), CreatedAt: at}
}

func newKey(name string) access.Key {
	token, id := access.NewToken()
	at := now()
	return access.Key{Name: name, TokenID: id, Hash: access.HashToken(token), CreatedAt: at, Secrets: []access.Secret{newSecret(at)}}
}

func (s *keySuite) made(keys ...access.Key) {
	s.Helper()
	for _, k := range keys {
		s.must(s.keys.Create(s.Context(), k))
	}
}

// listed wants these keys, and no others, to be on record.
func (s *keySuite) listed(want ...access.Key) {
	s.Helper()
	got, err := s.keys.List(s.Context())
	s.must(err)
	if g, w := describeKeys(got), describeKeys(want); g != w {
		s.Errorf("the keys are\n%swant\n%s", g, w)
	}
}

func describeKeys(keys []access.Key) (text string) {
	for _, k := range keys {
		text += fmt.Sprintln(k.Name, k.TokenID, k.Hash, k.Admin, k.Rate, k.CreatedAt, k.RevokedAt)
		for _, secret := range k.Secrets {
			text += fmt.Sprintln(" ", secret.Secret.Reveal(), secret.CreatedAt, secret.ExpiresAt)
		}
	}
	return text
}
