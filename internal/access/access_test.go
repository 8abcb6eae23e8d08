package access

import (
	"strings"
	"testing"
	"time"

	"tandem/webhook"
)

func newKey(name string) (token string, k Key) {
	token, k.TokenID = NewToken()
	k.Name, k.Hash = name, HashToken(token)
	return token, k
}

func TestOnlyAGoodTokenOpens(t *testing.T) {
	token, ann := newKey("ann")
	other, bob := newKey("bob")
	gone, old := newKey("old")
	old.RevokedAt = time.Now()
	var ring Keyring
	if _, ok := ring.Open(token); ok || !ring.Empty() {
		t.Error("an empty keyring lets someone in")
	}
	ring.Set([]Key{ann, bob, old})
	if k, ok := ring.Open(token); !ok || k.Name != "ann" {
		t.Errorf("ann's token opens %v, %v", k, ok)
	}
	if k, ok := ring.Open(other); !ok || k.Name != "bob" {
		t.Errorf("bob's token opens %v, %v", k, ok)
	}
	unknown, _ := newKey("nobody")
	for _, bad := range []string{
		"", "tandem_", token + "x", token[:len(token)-1], strings.ToLower(token), token[:len(tokenPrefix)+tokenIDLength+1] + other[len(tokenPrefix)+tokenIDLength+1:],
		unknown, gone, strings.TrimPrefix(token, tokenPrefix), strings.Repeat("tandem_", 1000),
	} {
		if k, ok := ring.Open(bad); ok {
			t.Errorf("%.80q opens %v", bad, k.Name)
		}
	}
	ring.Set([]Key{bob})
	if _, ok := ring.Open(token); ok {
		t.Error("a token of a key that is gone opens")
	}
}

func TestTokensAreAllDifferentAndHashed(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		token, id := NewToken()
		if seen[token] || seen[id] || !strings.HasPrefix(token, tokenPrefix+id+"_") || tokenID(token) != id {
			t.Fatalf("token %s with id %s", token, id)
		}
		seen[token], seen[id] = true, true
	}
}

func TestSecretsEndWithTheirOverlap(t *testing.T) {
	now := time.Now()
	first, second := webhook.NewSecret(), webhook.NewSecret()
	_, ann := newKey("ann")
	ann.Secrets = []Secret{{Secret: second}, {Secret: first, ExpiresAt: now.Add(time.Hour)}}
	var ring Keyring
	ring.Set([]Key{ann})
	if got := ring.Secrets("ann", now); len(got) != 2 || got[0].Reveal() != second.Reveal() {
		t.Errorf("%d secrets during the overlap, want both, the newer first", len(got))
	}
	if got := ring.Secrets("ann", now.Add(time.Hour)); len(got) != 1 || got[0].Reveal() != second.Reveal() {
		t.Errorf("%d secrets after it", len(got))
	}
	if got := ring.Secrets("bob", now); got != nil {
		t.Errorf("%d secrets of nobody", len(got))
	}
}

func TestNames(t *testing.T) {
	for _, good := range []string{"a", "0", "team-1_x.y", strings.Repeat("a", 64)} {
		if err := CheckName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "A", "-a", "a b", "a/b", "ä", "a\n", strings.Repeat("a", 65)} {
		if CheckName(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
