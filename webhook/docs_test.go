package webhook_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem/webhook"
)

// snippet is the block of a language in docs/RECEIVING_CALLBACKS.md.
func snippet(t *testing.T, language string) string {
	t.Helper()
	text, err := os.ReadFile("../docs/RECEIVING_CALLBACKS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```"+language+"\n")
	block, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatalf("there is no block of %s", language)
	}
	return block
}

// The block of Go is part of the example that is compiled and run.
func TestTheDocumentedReceiverIsTheExample(t *testing.T) {
	example, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	plain := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	if !strings.Contains(plain(string(example)), plain(snippet(t, "go"))) {
		t.Error("docs/RECEIVING_CALLBACKS.md verifies in another way than example_test.go")
	}
}

const pythonMain = `
import json, sys
case = json.load(sys.stdin)
try:
    verify(case["headers"], case["body"].encode(), case["secret"])
    print("verified")
except (ValueError, KeyError) as e:
    print("refused", e)
`

const nodeMain = `
import { readFileSync } from "node:fs";
const input = JSON.parse(readFileSync(0));
try {
  verify(input.headers, Buffer.from(input.body), input.secret);
  console.log("verified");
} catch (e) {
  console.log("refused", e.message);
}
`

func TestDocumentedVerifiersInOtherLanguages(t *testing.T) {
	for _, row := range []struct{ language, program, file, main string }{
		{"python", "python3", "verify.py", pythonMain},
		{"js", "node", "verify.mjs", nodeMain},
	} {
		t.Run(row.language, func(t *testing.T) {
			t.Parallel()
			program, err := exec.LookPath(row.program)
			if err != nil {
				t.Skipf("there is no %s to run it with", row.program)
			}
			file := filepath.Join(t.TempDir(), row.file)
			if err := os.WriteFile(file, []byte(snippet(t, row.language)+row.main), 0o600); err != nil {
				t.Fatal(err)
			}
			verify := func(headers map[string]string, body string, secret webhook.Secret) string {
				input, err := json.Marshal(map[string]any{"headers": headers, "body": body, "secret": secret.Reveal()})
				if err != nil {
					t.Fatal(err)
				}
				run := exec.CommandContext(t.Context(), program, file)
				run.Stdin = strings.NewReader(string(input))
				said, err := run.CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, said)
				}
				return strings.TrimSpace(string(said))
			}

			secret, retiring := webhook.NewSecret(), webhook.NewSecret()
			body := `{"type":"request.completed","text":"grün"}`
			signed := func(at time.Time, with ...webhook.Secret) map[string]string {
				h := http.Header{}
				webhook.Sign(h, "req_1", at, []byte(body), with...)
				headers := map[string]string{}
				for name := range h {
					headers[strings.ToLower(name)] = h.Get(name)
				}
				return headers
			}
			now := time.Now()
			otherID := maps.Clone(signed(now, secret))
			otherID["webhook-id"] = "req_2"
			for _, c := range []struct {
				what    string
				headers map[string]string
				body    string
				want    string
			}{
				{"what we sign", signed(now, secret), body, "verified"},
				{"with two secrets", signed(now, retiring, secret), body, "verified"},
				{"with another secret", signed(now, retiring), body, "refused no signature matches"},
				{"another body", signed(now, secret), body + " ", "refused no signature matches"},
				{"another id", otherID, body, "refused no signature matches"},
				{"an old one", signed(now.Add(-time.Hour), secret), body, "refused the callback is too old"},
				{"one from the future", signed(now.Add(time.Hour), secret), body, "refused the callback is too old"},
			} {
				if got := verify(c.headers, c.body, secret); !strings.HasPrefix(got, c.want) {
					t.Errorf("%s: %s, want %s", c.what, got, c.want)
				}
			}
		})
	}
}
