package httpapi

import (
	"crypto/sha256"
	"net/http"
	"slices"
	"strings"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/jsonwalk"
)

// maxCallbackURL bounds a callback URL, as most servers bound a request line.
const maxCallbackURL = 2048

// decodeSubmission reads and checks the body of a POST. It is strict: what it
// does not understand it refuses, naming the field, rather than guess. data is
// taken as it was sent, so that its numbers keep their digits.
//
// Under an Idempotency-Key the body's bytes are what tells one submission from
// another.
func decodeSubmission(r *http.Request, mode tandem.Mode) (engine.Submission, error) {
	body, err := readBody(r)
	if err != nil {
		return engine.Submission{}, err
	}
	sub, err := parseSubmission(body, mode)
	if err != nil {
		return sub, err
	}
	sub.Owner = caller(r.Context()).Name
	if sub.Idempotency.Key, err = idempotencyKey(r.Header); sub.Idempotency.Key != "" {
		sub.Idempotency.Fingerprint = sha256.Sum256(append([]byte(r.URL.Path+"\n"), body...))
	}
	return sub, err
}

// maxIdempotencyKey is more than any UUID or hash in text takes.
const maxIdempotencyKey = 255

// idempotencyKey reads the header (draft-ietf-httpapi-idempotency-key-header-07):
// a string of RFC 8941, or the same without its quotes, as many clients send
// it. "" if there is none.
func idempotencyKey(h http.Header) (string, error) {
	values := h.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	key := strings.TrimSpace(values[0])
	if inner, ok := strings.CutPrefix(key, `"`); ok && len(inner) > 0 && strings.HasSuffix(inner, `"`) {
		key = strings.TrimSuffix(inner, `"`)
	}
	plain := !strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
	if len(values) > 1 || key == "" || len(key) > maxIdempotencyKey || !plain {
		return "", tandem.Invalid("Idempotency-Key", "must be one string of 1 to %d printable ASCII characters without spaces, quotes and backslashes, such as a UUID", maxIdempotencyKey)
	}
	return key, nil
}

// parseSubmission checks a body against the API's contract.
func parseSubmission(body []byte, mode tandem.Mode) (engine.Submission, error) {
	sub := engine.Submission{Workload: "compute", Complexity: 1}
	if err := checkJSON(body); err != nil {
		return sub, err
	}
	sawData := false
	err := members(body, "", func(key string, value []byte) error {
		var err error
		switch key {
		case "data":
			sawData = true
			sub.Data, err = parseData(value)
		case "complexity":
			sub.Complexity, err = parseInt(key, value, 1, tandem.MaxComplexity)
		case "workload":
			sub.Workload, err = parseString(key, value, 64)
		case "callback_url":
			sub.CallbackURL, err = parseString(key, value, maxCallbackURL)
		case "callback":
			err = parseCallback(value, &sub)
		case "not_before":
			sub.NotBefore, err = parseTime(key, value)
		case "expires_at":
			sub.ExpiresAt, err = parseTime(key, value)
		default:
			return tandem.Invalid(fieldName(key), "unknown field; known are data, complexity, workload and, for POST /async, callback_url, callback, not_before and expires_at")
		}
		if err == nil && mode == tandem.Sync && slices.Contains(asyncFields, key) {
			return tandem.Invalid(key, "belongs to POST /async, or to POST /sync with the header Prefer: respond-async: else the answer is the result itself")
		}
		return err
	})
	switch {
	case err != nil:
	case !sawData:
		err = tandem.Invalid("data", "is required: a JSON object with at least one key")
	case sub.CallbackURL == "" && (sub.CallbackAttempts != 0 || sub.CallbackTimeout != 0 || sub.CallbackHeader != nil):
		err = tandem.Invalid("callback", "says how to call back, and there is no callback_url to call")
	}
	return sub, err
}

// asyncFields are those that only an async submission has.
var asyncFields = []string{"callback_url", "callback", "not_before", "expires_at"}

func parseData(value []byte) ([]byte, error) {
	if value[0] != '{' {
		return nil, tandem.Invalid("data", "must be a JSON object")
	}
	if len(value) > tandem.MaxData {
		return nil, tandem.Invalid("data", "is %d bytes, over the limit of %d", len(value), tandem.MaxData)
	}
	if value[jsonwalk.Space(value, 1)] == '}' {
		return nil, tandem.Invalid("data", "must have at least one key")
	}
	return value, checkTree(value, "data", 1)
}
