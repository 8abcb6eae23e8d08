package webhook_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"tandem/webhook"
)

func TestParseSecret(t *testing.T) {
	text := func(n int) string {
		return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xfb}, n))
	}
	tests := []struct {
		name string
		text string
		want string // a part of the error; "" for none
	}{
		{"the shortest key has 24 bytes", text(24), ""},
		{"one byte less is too short", text(23), "it holds 23"},
		{"the longest key has 64 bytes", text(64), ""},
		{"one byte more is too long", text(65), "it holds 65"},
		{"padding may be missing", strings.TrimRight(text(32), "="), ""},
		{"a trailing newline comes from a file", text(32) + "\n", ""},
		{"the prefix is required", strings.TrimPrefix(text(32), "whsec_"), "start with whsec_"},
		{"the prefix is lower case", "WHSEC_" + strings.TrimPrefix(text(32), "whsec_"), "start with whsec_"},
		{"an asymmetric key is another scheme", "whsk_" + strings.TrimPrefix(text(32), "whsec_"), "start with whsec_"},
		{"the URL alphabet is not standard base64", strings.ReplaceAll(text(32), "+", "-"), "standard base64"},
		{"the prefix alone holds no key", "whsec_", "it holds 0"},
		{"nothing is no secret", "", "start with whsec_"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := webhook.ParseSecret(tt.text)
			if tt.want == "" {
				if err != nil {
					t.Fatalf("got error %v, want none", err)
				}
				if got, want := strings.TrimRight(s.Reveal(), "="), strings.TrimRight(strings.TrimSpace(tt.text), "="); got != want {
					t.Errorf("Reveal gives %s, want what was parsed: %s", got, want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got error %v, want one that says %q", err, tt.want)
			}
			if !s.IsZero() {
				t.Error("a refused text gave a secret")
			}
			if body := strings.Trim(strings.TrimPrefix(tt.text, "whsec_"), "="); len(body) > 8 && strings.Contains(err.Error(), body[:8]) {
				t.Errorf("the error quotes the secret: %v", err)
			}
		})
	}
}

func TestNewSecret(t *testing.T) {
	a, b := webhook.NewSecret(), webhook.NewSecret()
	if a.Reveal() == b.Reveal() {
		t.Error("two new secrets are the same")
	}
	parsed, err := webhook.ParseSecret(a.Reveal())
	if err != nil {
		t.Fatalf("a new secret does not parse: %v", err)
	}
	if got, want := parsed.Reveal(), a.Reveal(); got != want {
		t.Errorf("got %s after a round trip, want %s", got, want)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(a.Reveal(), webhook.SecretPrefix))
	if err != nil || len(raw) != 32 {
		t.Errorf("got %d bytes and error %v, want 32 bytes", len(raw), err)
	}
}

func TestZeroSecretRevealsNothing(t *testing.T) {
	var zero webhook.Secret
	if got := zero.Reveal(); got != "" || !zero.IsZero() {
		t.Errorf("got %q, IsZero %v, want the zero Secret to be empty", got, zero.IsZero())
	}
}

// A secret must not show, wherever it ends up. Every rendering is searched for
// the key in each form that a printer could give it.
func TestSecretHidesItself(t *testing.T) {
	raw := []byte("0123456789abcdefghijklmnopqrstuv")
	secret, err := webhook.ParseSecret("whsec_" + base64.StdEncoding.EncodeToString(raw))
	if err != nil {
		t.Fatal(err)
	}
	type exported struct{ Secret webhook.Secret }
	type unexported struct{ secret webhook.Secret }
	holders := map[string]any{
		"itself":                   secret,
		"a pointer to it":          &secret,
		"an exported field":        exported{secret},
		"an unexported field":      unexported{secret},
		"a pointer to such fields": &unexported{secret},
		"a slice":                  []webhook.Secret{secret},
		"a map":                    map[string]webhook.Secret{"s": secret},
		"an interface":             []any{secret, unexported{secret}},
	}

	leaks := []string{string(raw), base64.StdEncoding.EncodeToString(raw), fmt.Sprintf("%x", raw),
		strings.Trim(fmt.Sprint(raw), "[]"), strings.Trim(fmt.Sprintf("%#v", raw), "[]byte{}")}
	check := func(t *testing.T, how, got string) {
		t.Helper()
		for _, leak := range leaks {
			if strings.Contains(strings.ToLower(got), strings.ToLower(leak)) {
				t.Errorf("%s shows the key: %s", how, got)
			}
		}
	}
	for name, v := range holders {
		t.Run(name, func(t *testing.T) {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%b", "%c", "%U", "%t", "%p", "%T"} {
				check(t, verb, fmt.Sprintf(verb, v))
			}
			check(t, "Sprint", fmt.Sprint(v))
			encoded, err := json.Marshal(v)
			if err != nil {
				t.Errorf("json: %v", err)
			}
			check(t, "json", string(encoded))
			var log bytes.Buffer
			slog.New(slog.NewTextHandler(&log, nil)).Info("text", "v", v)
			slog.New(slog.NewJSONHandler(&log, nil)).Info("json", "v", v)
			check(t, "slog", log.String())
		})
	}

	for _, got := range []string{secret.String(), secret.GoString(), fmt.Sprintf("%x", secret), fmt.Sprintf("%#v", secret),
		secret.LogValue().String(), strings.Trim(string(must(json.Marshal(secret))), `"`)} {
		if got != "[hidden]" {
			t.Errorf("got %q, want [hidden]", got)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
