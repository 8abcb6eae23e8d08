package storetest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"tandem"
	"tandem/internal/engine"
)

// under is an Idempotency-Key, and what it came with.
func under(key, submission string) engine.IdempotencyKey {
	k := engine.IdempotencyKey{Key: key}
	copy(k.Fingerprint[:], submission)
	return k
}

// claimed wants a claim to be answered with a holder; "" wants the request to be
// made.
func (s *suite) claimed(b engine.Backend, req *tandem.Request, key engine.IdempotencyKey, want string) {
	s.Helper()
	holder, err := b.Claim(s.Context(), req, key)
	s.must(err)
	if holder != want {
		s.Errorf("the key %s is held by %q, want %q", key.Key, holder, want)
	}
}

// held wants an owner's key to be held by a request; "" by none.
func (s *suite) held(b engine.Backend, owner string, key engine.IdempotencyKey, want string) {
	s.Helper()
	holder, err := b.Holder(s.Context(), owner, key)
	s.must(err)
	if holder != want {
		s.Errorf("the key %s of %q is held by %q, want %q", key.Key, owner, holder, want)
	}
}

// total wants so many requests to be on record.
func (s *suite) total(b engine.Backend, want int) {
	s.Helper()
	n := 0
	for range s.history(b, engine.Query{Caller: tandem.Anyone, Limit: 100}) {
		n++
	}
	if n != want {
		s.Errorf("%d requests are on record, want %d", n, want)
	}
}

var claims = []rule{
	{"a key stands for the request that it came with first", func(s *suite) {
		b := s.backend(Options{})
		key := under("k", "one")
		s.held(b, "", key, "")
		first := pending("")
		s.claimed(b, first, key, "")
		s.found(b, first)
		s.held(b, "", key, first.ID)
		again := pending("")
		s.claimed(b, again, key, first.ID)
		_, err := b.Request(s.Context(), again.ID)
		s.wantCode("the second request", err, tandem.CodeNotFound)
		s.start(b, first)
		s.must(b.Complete(s.Context(), succeed(first)))
		s.claimed(b, pending(""), key, first.ID) // and after it is worked
		s.claimed(b, pending(""), under("another", "one"), "")
		s.total(b, 2)
		s.countersMatchRows(b)
	}},
	{"a key that comes with another submission is refused", func(s *suite) {
		b := s.backend(Options{})
		first := pending("")
		s.claimed(b, first, under("k", "one"), "")
		if _, err := b.Claim(s.Context(), pending(""), under("k", "two")); !errors.Is(err, engine.ErrKeyReused) {
			s.Errorf("claim: got %v, want %v", err, engine.ErrKeyReused)
		}
		if _, err := b.Holder(s.Context(), "", under("k", "two")); !errors.Is(err, engine.ErrKeyReused) {
			s.Errorf("holder: got %v, want %v", err, engine.ErrKeyReused)
		}
		s.held(b, "", under("k", "one"), first.ID)
		s.total(b, 1)
		s.countersMatchRows(b)
	}},
	{"a key is its owner's, and the same key of another is another", func(s *suite) {
		b := s.backend(Options{})
		ids := make(map[string]string)
		for _, owner := range []string{"", "ann", "bob"} {
			req := pending("")
			req.Owner = owner
			s.claimed(b, req, under("k", "of "+owner), "")
			ids[owner] = req.ID
		}
		for owner, id := range ids {
			s.held(b, owner, under("k", "of "+owner), id)
		}
		s.held(b, "eve", under("k", "of ann"), "")
		s.total(b, 3)
	}},
	{"of many who claim one key at once one is let in, and the others are told who", func(s *suite) {
		b := s.backend(Options{})
		const keys, claimants = 5, 20
		var mu sync.Mutex
		made, told := make(map[string][]string), make(map[string]map[string]bool) // by key
		var all sync.WaitGroup
		for i := range keys * claimants {
			all.Go(func() {
				key, req := under(fmt.Sprint("k", i%keys), "one"), pending("")
				holder, err := b.Claim(s.Context(), req, key)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					s.Errorf("claim: %v", err)
				case holder == "":
					made[key.Key] = append(made[key.Key], req.ID)
				default:
					if told[key.Key] == nil {
						told[key.Key] = make(map[string]bool)
					}
					told[key.Key][holder] = true
				}
			})
		}
		all.Wait()
		for i := range keys {
			key := fmt.Sprint("k", i)
			if len(made[key]) != 1 || len(told[key]) != 1 || !told[key][made[key][0]] {
				s.Errorf("%s: made %v, told of %v, want one", key, made[key], told[key])
			}
		}
		s.total(b, keys)
		s.countersMatchRows(b)
	}},
	{"a sync request may hold a key, and is on record while it runs", func(s *suite) {
		b := s.backend(Options{})
		key, req := under("k", "one"), processing()
		s.claimed(b, req, key, "")
		s.found(b, req)
		s.countersMatchRows(b)
		s.claimed(b, processing(), key, req.ID)
		s.must(b.Complete(s.Context(), succeed(req)))
		s.claimed(b, processing(), key, req.ID)
		s.found(b, req)
		s.total(b, 1)
		s.countersMatchRows(b)
	}},
	{"what there is no room for takes no key, and is told who holds it", func(s *suite) {
		b := s.backend(Options{MaxPending: 2})
		first := pending("")
		s.claimed(b, first, under("first", "one"), "")
		s.must(b.Accept(s.Context(), pending("")))
		refused := pending("")
		_, err := b.Claim(s.Context(), refused, under("second", "two"))
		s.wantCode("a claim without room", err, tandem.CodeBusy)
		s.held(b, "", under("second", "two"), "")
		s.claimed(b, pending(""), under("first", "one"), first.ID)
		if _, err := b.Claim(s.Context(), pending(""), under("first", "two")); !errors.Is(err, engine.ErrKeyReused) {
			s.Errorf("a key that is used again without room: got %v, want %v", err, engine.ErrKeyReused)
		}
		s.claimed(b, processing(), under("sync", "one"), "") // which waits for no room
		s.start(b, first)
		s.claimed(b, refused, under("second", "two"), "")
		s.countersMatchRows(b)
	}},
	{"a key is free again after a day", func(s *suite) {
		b := s.backend(Options{})
		old, young := under("old", "one"), under("young", "one")
		before := pending("")
		before.CreatedAt = now().Add(-engine.IdempotencyKept - time.Minute)
		s.claimed(b, before, old, "")
		yesterday := pending("")
		yesterday.CreatedAt = now().Add(-engine.IdempotencyKept + time.Minute)
		s.claimed(b, yesterday, young, "")
		s.held(b, "", old, "")
		s.held(b, "", young, yesterday.ID)
		next := pending("")
		s.claimed(b, next, under("old", "two"), "")
		s.held(b, "", under("old", "two"), next.ID)
		s.claimed(b, pending(""), young, yesterday.ID)
		s.total(b, 3)
	}},
	{"a key outlives a restart", func(s *suite) {
		b := s.backend(Options{})
		req := pending("")
		s.claimed(b, req, under("k", "one"), "")
		s.must(b.Close())
		b = s.backend(Options{})
		s.held(b, "", under("k", "one"), req.ID)
		s.claimed(b, pending(""), under("k", "one"), req.ID)
		s.total(b, 1)
		s.countersMatchRows(b)
	}},
	{"a caller's counters are those of its own requests", func(s *suite) {
		b := s.backend(Options{})
		for owner, n := range map[string]int{"ann": 3, "bob": 2, "": 1} {
			for i := range n {
				req := pending("http://example.com/hook")
				req.Owner = owner
				s.must(b.Accept(s.Context(), req))
				if i == 0 {
					s.start(b, req)
					s.must(b.Complete(s.Context(), fail(req)))
				}
			}
		}
		for _, row := range []struct {
			who              tandem.Caller
			requests, errors int64
		}{
			{tandem.Caller{Name: "ann"}, 3, 1},
			{tandem.Caller{Name: "bob"}, 2, 1},
			{tandem.Caller{Name: "eve"}, 0, 0},
			{tandem.Caller{Name: "root", Admin: true}, 6, 3},
			{tandem.Anyone, 6, 3},
		} {
			counts, err := b.Counts(s.Context(), row.who)
			s.must(err)
			var requests, errors int64
			for _, c := range counts.Requests {
				requests += c.N
			}
			for _, c := range counts.Errors {
				errors += c.N
			}
			if requests != row.requests || errors != row.errors {
				s.Errorf("%+v is told of %d requests and %d errors, want %d and %d", row.who, requests, errors, row.requests, row.errors)
			}
		}
	}},
}
