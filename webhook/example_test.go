package webhook_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"tandem/webhook"
)

// A receiver reads the body as it came, verifies it, and only then looks
// inside. It answers 2xx at once, or does anything else and is called again.
func Example_receiver() {
	// In a program: webhook.ParseSecret(os.Getenv("TANDEM_CALLBACK_SECRET")).
	secret := webhook.NewSecret()

	receive := func(w http.ResponseWriter, r *http.Request) {
		// A result has at most 1 MiB; leave room for what surrounds it.
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 2<<20))
		if err != nil {
			http.Error(w, "cannot read the body", http.StatusBadRequest)
			return
		}
		if err := webhook.Verify(r.Header, body, time.Now(), secret); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		var event webhook.Event
		if err := json.Unmarshal(body, &event); err != nil {
			http.Error(w, "not an event", http.StatusBadRequest)
			return
		}
		switch event.Type {
		case webhook.RequestCompleted:
			fmt.Printf("completed, attempt %d: %s\n", event.Metadata.Attempt, event.Result)
		case webhook.RequestFailed:
			fmt.Printf("failed: %s\n", event.Error.Message)
		}
		w.WriteHeader(http.StatusNoContent)
	}

	// What Tandem sends.
	body := `{"type":"request.completed","request_id":"req_1","status":"completed","result":{"sum":3},` +
		`"callback_metadata":{"attempt":1,"max_attempts":3}}`
	r := httptest.NewRequest(http.MethodPost, "/callback", strings.NewReader(body))
	webhook.Sign(r.Header, "req_1", time.Now(), []byte(body), secret)

	w := httptest.NewRecorder()
	receive(w, r)
	fmt.Println(w.Code)

	// What a stranger sends.
	r = httptest.NewRequest(http.MethodPost, "/callback", strings.NewReader(body))
	webhook.Sign(r.Header, "req_1", time.Now(), []byte(body), webhook.NewSecret())
	w = httptest.NewRecorder()
	receive(w, r)
	fmt.Print(w.Code, " ", w.Body)

	// Output:
	// completed, attempt 1: {"sum":3}
	// 204
	// 401 webhook: no signature matches
}

// Callbacks come at least once. The webhook-id is the same on every attempt,
// so remembering it for as long as attempts may come drops the repeats.
func Example_repeats() {
	secret := webhook.NewSecret()
	seen := map[string]bool{} // in a program: a table with a unique key

	receive := func(h http.Header, body []byte) string {
		if err := webhook.Verify(h, body, time.Now(), secret); err != nil {
			return err.Error()
		}
		id := h.Get(webhook.HeaderID) // trusted now: it is part of what was signed
		if seen[id] {
			return "seen before; answer 2xx and do nothing"
		}
		seen[id] = true
		return "new"
	}

	for attempt := range 2 {
		body := fmt.Appendf(nil, `{"request_id":"req_1","callback_metadata":{"attempt":%d}}`, attempt+1)
		h := http.Header{}
		webhook.Sign(h, "req_1", time.Now(), body, secret)
		fmt.Println(receive(h, body))
	}
	// Output:
	// new
	// seen before; answer 2xx and do nothing
}

// While a secret is rotated the sender signs with both, so receivers may
// change over in their own time, one by one.
func ExampleSign_rotation() {
	retiring, fresh := webhook.NewSecret(), webhook.NewSecret()
	body := []byte(`{"type":"request.completed"}`)

	h := http.Header{}
	webhook.Sign(h, "req_1", time.Now(), body, fresh, retiring)

	fmt.Println(webhook.Verify(h, body, time.Now(), retiring))
	fmt.Println(webhook.Verify(h, body, time.Now(), fresh))
	fmt.Println(webhook.Verify(h, body, time.Now(), webhook.NewSecret()))
	// Output:
	// <nil>
	// <nil>
	// webhook: no signature matches
}

// A secret can be printed by mistake without harm.
func ExampleSecret() {
	secret, err := webhook.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	fmt.Println(secret, err)
	fmt.Println(secret.Reveal())
	// Output:
	// [hidden] <nil>
	// whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
}
