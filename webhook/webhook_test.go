package webhook_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	official "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"tandem/webhook"
)

const knownID = "req_0198d3b2a4c87f00a1b2c3d4e5f60718"

var (
	noon       = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	known      = must(webhook.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	other      = must(webhook.ParseSecret("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"))
	knownBody  = []byte(`{"type":"request.completed","n":1.10}`)
	knownTable = func() http.Header { return signed(noon, knownBody, known) }
)

func signed(at time.Time, body []byte, secrets ...webhook.Secret) http.Header {
	h := http.Header{}
	webhook.Sign(h, knownID, at, body, secrets...)
	return h
}

// The example of the specification's own libraries: same key, id, time and
// payload give the same signature in each of them.
func TestSignGivesTheKnownSignature(t *testing.T) {
	h := http.Header{}
	webhook.Sign(h, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`), known)
	want := http.Header{
		"Webhook-Id":        {"msg_p5jXN8AQM9LWM0D4loKWxJek"},
		"Webhook-Timestamp": {"1614265330"},
		"Webhook-Signature": {"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
	}
	if fmt.Sprint(h) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", h, want)
	}
}

func TestSignSetsWholeHeaders(t *testing.T) {
	h := http.Header{"Webhook-Id": {"old", "older"}, "Webhook-Signature": {"v1,old"}, "X-Other": {"stays"}}
	webhook.Sign(h, knownID, noon, knownBody, known, webhook.Secret{}, other)
	if got := h["Webhook-Id"]; len(got) != 1 || got[0] != knownID {
		t.Errorf("got ids %q, want only %q", got, knownID)
	}
	if got := strings.Count(h.Get("webhook-signature"), "v1,"); got != 2 {
		t.Errorf("got %d signatures, want one for each secret that is one", got)
	}
	if h.Get("X-Other") != "stays" {
		t.Error("a header that is not ours was touched")
	}
	h.Add("Webhook-Id", "more")
	if got := h.Get("Webhook-Timestamp"); got != strconv.FormatInt(noon.Unix(), 10) {
		t.Errorf("adding an id changed the timestamp to %q", got)
	}

	webhook.Sign(h, knownID, noon, knownBody)
	if _, ok := h["Webhook-Signature"]; ok {
		t.Error("without a secret an old signature was left standing")
	}
}

func TestVerify(t *testing.T) {
	with := func(name, value string) http.Header {
		h := knownTable()
		h.Set(name, value)
		return h
	}
	signature := knownTable().Get("webhook-signature")
	seconds := func(n int64) string { return strconv.FormatInt(n, 10) }
	secrets := []webhook.Secret{known}

	tests := []struct {
		name    string
		header  http.Header
		body    []byte
		now     time.Time
		secrets []webhook.Secret
		want    error
	}{
		{"what was signed is accepted", knownTable(), knownBody, noon, secrets, nil},
		{"an empty body can be signed", signed(noon, nil, known), nil, noon, secrets, nil},
		{"the second secret may be the one that signed", knownTable(), knownBody, noon, []webhook.Secret{other, known}, nil},
		{"the second signature may be the one that fits", signed(noon, knownBody, other, known), knownBody, noon, secrets, nil},
		{"an unknown version beside ours is ignored", with("webhook-signature", "v1a,hnO3f9T8Yw== v2,x "+signature), knownBody, noon, secrets, nil},
		{"rubbish beside ours is ignored", with("webhook-signature", ", v1 v1, ,, "+signature+" "), knownBody, noon, secrets, nil},

		{"another secret does not fit", knownTable(), knownBody, noon, []webhook.Secret{other}, webhook.ErrSignature},
		{"no secret fits nothing", knownTable(), knownBody, noon, nil, webhook.ErrSignature},
		{"the zero secret fits nothing", knownTable(), knownBody, noon, []webhook.Secret{{}}, webhook.ErrSignature},
		{"one byte of the body changed", knownTable(), bytes.Replace(knownBody, []byte("1.10"), []byte("1.11"), 1), noon, secrets, webhook.ErrSignature},
		{"a newline after the body is a change", knownTable(), append(bytes.Clone(knownBody), '\n'), noon, secrets, webhook.ErrSignature},
		{"another id", with("webhook-id", "req_other"), knownBody, noon, secrets, webhook.ErrSignature},
		{"another timestamp within the tolerance", with("webhook-timestamp", seconds(noon.Unix()+1)), knownBody, noon, secrets, webhook.ErrSignature},
		{"the same timestamp spelled with a zero in front", with("webhook-timestamp", "0"+seconds(noon.Unix())), knownBody, noon, secrets, webhook.ErrSignature},
		{"the signature under another version", with("webhook-signature", "v2"+signature[2:]), knownBody, noon, secrets, webhook.ErrSignature},
		{"the signature without a version", with("webhook-signature", signature[3:]), knownBody, noon, secrets, webhook.ErrSignature},
		{"the signature cut short", with("webhook-signature", signature[:len(signature)-1]), knownBody, noon, secrets, webhook.ErrSignature},
		{"the signature with a byte more", with("webhook-signature", signature+"="), knownBody, noon, secrets, webhook.ErrSignature},

		{"just within the tolerance of the past", knownTable(), knownBody, noon.Add(webhook.Tolerance), secrets, nil},
		{"just too old", knownTable(), knownBody, noon.Add(webhook.Tolerance + 1), secrets, webhook.ErrTooOld},
		{"just within the tolerance of the future", knownTable(), knownBody, noon.Add(-webhook.Tolerance), secrets, nil},
		{"just too new", knownTable(), knownBody, noon.Add(-webhook.Tolerance - 1), secrets, webhook.ErrTooNew},
		{"the largest timestamp is too new", with("webhook-timestamp", "999999999999"), knownBody, noon, secrets, webhook.ErrTooNew},
		{"a timestamp of thirteen digits is milliseconds", with("webhook-timestamp", seconds(noon.UnixMilli())), knownBody, noon, secrets, webhook.ErrTimestamp},
		{"a timestamp is not a date", with("webhook-timestamp", noon.Format(time.RFC3339)), knownBody, noon, secrets, webhook.ErrTimestamp},
		{"a timestamp has no sign", with("webhook-timestamp", "+"+seconds(noon.Unix())), knownBody, noon, secrets, webhook.ErrTimestamp},
		{"a timestamp has no fraction", with("webhook-timestamp", seconds(noon.Unix())+".5"), knownBody, noon, secrets, webhook.ErrTimestamp},

		{"the id is missing", with("webhook-id", ""), knownBody, noon, secrets, webhook.ErrMissingHeader},
		{"the timestamp is missing", with("webhook-timestamp", ""), knownBody, noon, secrets, webhook.ErrMissingHeader},
		{"the signature is missing", with("webhook-signature", ""), knownBody, noon, secrets, webhook.ErrMissingHeader},
		{"no header at all", nil, knownBody, noon, secrets, webhook.ErrMissingHeader},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := webhook.Verify(tt.header, tt.body, tt.now, tt.secrets...)
			if !errors.Is(got, tt.want) || (tt.want == nil) != (got == nil) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if tt.want == webhook.ErrTimestamp && (errors.Is(got, webhook.ErrTooOld) || errors.Is(got, webhook.ErrTooNew)) {
				t.Errorf("got %v, want it called malformed", got)
			}
		})
	}
	for _, err := range []error{webhook.ErrTooOld, webhook.ErrTooNew} {
		if !errors.Is(err, webhook.ErrTimestamp) {
			t.Errorf("%v is not ErrTimestamp", err)
		}
	}
}

func TestVerifyWithin(t *testing.T) {
	late := noon.Add(time.Hour)
	if err := webhook.VerifyWithin(time.Hour, knownTable(), knownBody, late, known); err != nil {
		t.Errorf("an hour's tolerance refused an hour: %v", err)
	}
	if err := webhook.VerifyWithin(time.Hour, knownTable(), knownBody, late.Add(1), known); !errors.Is(err, webhook.ErrTooOld) {
		t.Errorf("got %v past the tolerance, want %v", err, webhook.ErrTooOld)
	}
}

// The signed bytes of ("a.5", 5, "x") and ("a", 5, "5.x") are the same, so the
// first must not pass on the signature of the second.
func TestVerifyTellsFieldsApart(t *testing.T) {
	ts := strconv.FormatInt(noon.Unix(), 10)
	h := http.Header{}
	webhook.Sign(h, "a", noon, []byte(ts+".x"), known)
	if err := webhook.Verify(h, []byte(ts+".x"), noon, known); err != nil {
		t.Fatalf("what was signed is refused: %v", err)
	}
	h.Set("webhook-id", "a."+ts)
	if err := webhook.Verify(h, []byte("x"), noon, known); !errors.Is(err, webhook.ErrSignature) {
		t.Errorf("got %v for fields moved across a full stop, want %v", err, webhook.ErrSignature)
	}
}

func TestOfficialLibraryVerifiesOurs(t *testing.T) {
	for _, text := range []string{known.Reveal(), webhook.NewSecret().Reveal()} {
		theirs := must(official.NewWebhook(text))
		ours := must(webhook.ParseSecret(text))
		h := signed(time.Now(), knownBody, other, ours)
		if err := theirs.Verify(knownBody, h); err != nil {
			t.Errorf("the official library refuses our signature: %v", err)
		}
		if err := theirs.Verify([]byte("{}"), h); err == nil {
			t.Error("the official library accepts any body")
		}
	}
}

func TestWeVerifyTheOfficialLibrarys(t *testing.T) {
	for _, text := range []string{known.Reveal(), webhook.NewSecret().Reveal()} {
		theirs := must(official.NewWebhook(text))
		ours := must(webhook.ParseSecret(text))
		h := http.Header{}
		h.Set(official.HeaderWebhookID, knownID)
		h.Set(official.HeaderWebhookTimestamp, strconv.FormatInt(noon.Unix(), 10))
		h.Set(official.HeaderWebhookSignature, must(theirs.Sign(knownID, noon, knownBody)))
		if err := webhook.Verify(h, knownBody, noon, ours); err != nil {
			t.Errorf("we refuse the official library's signature: %v", err)
		}
		if err := webhook.Verify(h, []byte("{}"), noon, ours); !errors.Is(err, webhook.ErrSignature) {
			t.Errorf("got %v for another body, want %v", err, webhook.ErrSignature)
		}
	}
}

// One secret serves all senders at once; the race detector watches.
func TestSecretIsSharedByGoroutines(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				body := fmt.Appendf(nil, `{"i":%d,"j":%d}`, i, j)
				if err := webhook.Verify(signed(noon, body, known), body, noon, known); err != nil {
					t.Errorf("goroutine %d, message %d: %v", i, j, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestEvent(t *testing.T) {
	base := webhook.Event{
		RequestID: knownID, ProcessingTimeMS: 12.5, Timestamp: noon,
		Metadata: webhook.Metadata{Attempt: 2, MaxAttempts: 8, SentAt: noon.Add(time.Minute)},
	}
	completed, failed := base, base
	completed.Type, completed.Status, completed.Result = webhook.RequestCompleted, "completed", json.RawMessage(`{"sum":1.10}`)
	failed.Type, failed.Status, failed.Error = webhook.RequestFailed, "failed", &webhook.Error{Code: "timeout", Message: "ran too long"}

	tests := []struct {
		name  string
		event webhook.Event
		want  string
	}{
		{"a completed request has a result and no error", completed,
			`{"type":"request.completed","request_id":"` + knownID + `","status":"completed","result":{"sum":1.10},` +
				`"processing_time_ms":12.5,"timestamp":"2026-05-04T12:00:00Z",` +
				`"callback_metadata":{"attempt":2,"max_attempts":8,"sent_at":"2026-05-04T12:01:00Z"}}`},
		{"a failed request has an error and no result", failed,
			`{"type":"request.failed","request_id":"` + knownID + `","status":"failed","error":{"code":"timeout","message":"ran too long"},` +
				`"processing_time_ms":12.5,"timestamp":"2026-05-04T12:00:00Z",` +
				`"callback_metadata":{"attempt":2,"max_attempts":8,"sent_at":"2026-05-04T12:01:00Z"}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := json.Marshal(tt.event)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			var back webhook.Event
			if err := json.Unmarshal(got, &back); err != nil {
				t.Fatal(err)
			}
			if again := must(json.Marshal(back)); !bytes.Equal(again, got) {
				t.Errorf("after a round trip got  %s\nwant %s", again, got)
			}
		})
	}
}

// FuzzVerify signs one message and shows Verify another: only the same
// message, whatever else the signature header holds, may pass.
func FuzzVerify(f *testing.F) {
	ts := strconv.FormatInt(noon.Unix(), 10)
	f.Add("a", "a", ts, []byte("{}"), []byte("{}"), "", true)
	f.Add("a", "a."+ts, ts, []byte(ts+".{}"), []byte("{}"), "v1a,x ", true)
	f.Add("a", "a", ts, []byte("{}"), []byte("{}"), "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", false)
	f.Add("a", "a", "0"+ts, []byte("{}"), []byte("{}"), " ", true)
	f.Add("a.b", "a.b", ts, []byte{}, []byte{}, "v1,", true)
	f.Fuzz(func(t *testing.T, signedID, id, timestamp string, signedBody, body []byte, extra string, attach bool) {
		h := http.Header{}
		webhook.Sign(h, signedID, noon, signedBody, known)
		signature := extra
		if attach {
			signature += " " + h.Get("webhook-signature")
		}
		h = http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {signature}}

		same := attach && id == signedID && timestamp == ts && bytes.Equal(body, signedBody)
		switch err := webhook.Verify(h, body, noon, other, known); {
		case err == nil && !same:
			t.Errorf("accepted %q %q %q, signed was %q %q %q", id, timestamp, body, signedID, ts, signedBody)
		case err != nil && same && id != "" && !strings.Contains(id, "."):
			t.Errorf("refused what was signed: %v", err)
		}
	})
}

func FuzzParseSecret(f *testing.F) {
	f.Add(known.Reveal())
	f.Add("whsec_")
	f.Add(" whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw==\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := webhook.ParseSecret(text)
		if err != nil {
			return
		}
		if again, err := webhook.ParseSecret(s.Reveal()); err != nil || again.Reveal() != s.Reveal() {
			t.Errorf("%q parses, but not what it reveals: %v", text, err)
		}
	})
}

// raceEnabled says that the race detector runs: it makes pools forget at random.
var raceEnabled bool

func TestSignAllocatesLittle(t *testing.T) {
	h := make(http.Header, 8)
	n := testing.AllocsPerRun(1000, func() { webhook.Sign(h, knownID, noon, knownBody, known) })
	// The timestamp's text, the signature's text, and the array behind the
	// header values.
	if n > 3 && !raceEnabled {
		t.Errorf("got %v allocations for a signature, want at most 3", n)
	}
}

func BenchmarkSign(b *testing.B) {
	h, body := make(http.Header, 8), bytes.Repeat([]byte("x"), 400)
	b.ReportAllocs()
	for b.Loop() {
		webhook.Sign(h, knownID, noon, body, known)
	}
}

func BenchmarkVerify(b *testing.B) {
	body := bytes.Repeat([]byte("x"), 400)
	h := signed(noon, body, known)
	b.ReportAllocs()
	for b.Loop() {
		if err := webhook.Verify(h, body, noon, known); err != nil {
			b.Fatal(err)
		}
	}
}
