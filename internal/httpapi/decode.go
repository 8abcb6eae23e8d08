package httpapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"golang.org/x/net/http/httpguts"

	"tandem"
	"tandem/internal/engine"
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

// readBody reads a JSON body of at most tandem.MaxBody bytes.
func readBody(r *http.Request) ([]byte, error) {
	if !isJSON(r.Header.Get("Content-Type")) {
		return nil, newProblem(http.StatusUnsupportedMediaType, "unsupported_media_type", "Content-Type", "send JSON, with the header Content-Type: application/json")
	}
	if r.Header.Get("Content-Encoding") != "" {
		return nil, newProblem(http.StatusUnsupportedMediaType, "unsupported_media_type", "Content-Encoding", "send the body without a content encoding")
	}
	if r.ContentLength > tandem.MaxBody {
		return nil, tooLarge()
	}
	body := make([]byte, 0, max(512, r.ContentLength+1))
	for { // io.ReadAll, into a slice of the right size
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case len(body) > tandem.MaxBody:
			return nil, tooLarge()
		case errors.Is(err, io.EOF):
			return body, nil
		case err != nil:
			return nil, bodyProblem(err)
		case len(body) == cap(body):
			body = slices.Grow(body, len(body))
		}
	}
}

// isJSON reports whether a Content-Type is that of JSON in UTF-8.
func isJSON(contentType string) bool {
	if contentType == "application/json" {
		return true
	}
	kind, params, err := mime.ParseMediaType(contentType)
	charset := strings.ToLower(params["charset"])
	return err == nil && kind == "application/json" && (charset == "" || charset == "utf-8")
}

func tooLarge() error {
	return newProblem(http.StatusRequestEntityTooLarge, "body_too_large", "body", fmt.Sprintf("the body is over %d bytes", tandem.MaxBody))
}

func bodyProblem(err error) error {
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return newProblem(http.StatusRequestTimeout, "body_timeout", "body", "the body did not arrive in time")
	}
	return newProblem(http.StatusBadRequest, "malformed_body", "body", "the body could not be read: it ended early or is badly chunked")
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

// parseTime reads a time of RFC 3339.
func parseTime(field string, value []byte) (time.Time, error) {
	text, err := parseString(field, value, 64)
	if err != nil {
		return time.Time{}, err
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || at.Year() < 1970 || at.Year() > 9999 {
		return time.Time{}, tandem.Invalid(field, "must be a time such as 2030-01-31T12:00:00Z (RFC 3339)")
	}
	return at.UTC().Truncate(time.Microsecond), nil
}

// What a caller may ask of its callback.
const (
	maxCallbackAttempts = 20
	maxCallbackTimeout  = 30 * time.Second
	maxCallbackHeaders  = 20
	maxCallbackHeader   = 1024 // bytes of one value
)

// parseCallback reads how to call back.
func parseCallback(value []byte, sub *engine.Submission) (err error) {
	if value[0] != '{' {
		return tandem.Invalid("callback", "must be an object with max_attempts, timeout or headers")
	}
	return members(value, "callback", func(key string, value []byte) error {
		field := "callback." + fieldName(key)
		switch key {
		case "max_attempts":
			sub.CallbackAttempts, err = parseInt(field, value, 1, maxCallbackAttempts)
			return err
		case "timeout":
			text, err := parseString(field, value, 32)
			if err != nil {
				return err
			}
			d, err := time.ParseDuration(text)
			if err != nil || d < time.Second || d > maxCallbackTimeout {
				return tandem.Invalid(field, "must be a duration from 1s to %v, such as 10s", maxCallbackTimeout)
			}
			sub.CallbackTimeout = d
		case "headers":
			sub.CallbackHeader, err = parseCallbackHeaders(value)
			return err
		default:
			return tandem.Invalid(field, "unknown field; known are max_attempts, timeout and headers")
		}
		return nil
	})
}

func parseCallbackHeaders(value []byte) (map[string]string, error) {
	const field = "callback.headers"
	if value[0] != '{' {
		return nil, tandem.Invalid(field, "must be an object of strings")
	}
	headers := make(map[string]string)
	err := members(value, field, func(key string, value []byte) error {
		name := http.CanonicalHeaderKey(key)
		where := field + "." + fieldName(key)
		if !httpguts.ValidHeaderFieldName(key) {
			return tandem.Invalid(where, "is not the name of a header")
		}
		if _, twice := headers[name]; twice {
			return tandem.Invalid(where, "comes twice")
		}
		if reservedHeader(name) {
			return tandem.Invalid(where, "is set by the service itself, or means something to the connection only")
		}
		if value[0] != '"' {
			return tandem.Invalid(where, "must be a string")
		}
		text := unquote(value)
		if len(text) > maxCallbackHeader || !httpguts.ValidHeaderFieldValue(text) {
			return tandem.Invalid(where, "must be at most %d bytes without line breaks and control characters", maxCallbackHeader)
		}
		if len(headers) == maxCallbackHeaders {
			return tandem.Invalid(field, "must be at most %d", maxCallbackHeaders)
		}
		headers[name] = text
		return nil
	})
	return headers, err
}

// reservedHeader reports whether a caller may not set a header of its
// callbacks: those of the message itself, of its signature, and of the
// connection (RFC 9110, section 7.6.1).
func reservedHeader(name string) bool {
	switch name {
	case "Accept-Encoding", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Date", "Expect", "Host",
		"Http2-Settings", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent", "Via":
		return true
	}
	for _, prefix := range []string{"Webhook-", "Svix-", "Proxy-", "Sec-", "X-Forwarded-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return name == "Forwarded"
}

// onlyKnownParameters is as strict with the query as parseSubmission is with the
// body: a parameter that was mistyped would be left out of account silently. The
// health routes take what load balancers add.
func onlyKnownParameters(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	if r.URL.RawQuery != "" && !isPublic(r.URL.Path) {
		if err := checkQuery(r.URL.RawQuery, ctx.Operation().Parameters); err != nil {
			problemOf(err).write(w)
			return
		}
	}
	next(ctx)
}

// checkQuery refuses what is not in known, or comes twice.
func checkQuery(query string, known []*huma.Param) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return tandem.Invalid("query", "must be parameters such as limit=10, joined by & and with %%XX for what is not plain")
	}
	var names []string
	for _, p := range known {
		if p.In == "query" {
			names = append(names, p.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch {
		case len(names) == 0:
			return tandem.Invalid(fieldName(name), "unknown parameter; there are none here")
		case !slices.Contains(names, name):
			return tandem.Invalid(fieldName(name), "unknown parameter; known are %s", strings.Join(names, ", "))
		case len(values[name]) > 1:
			return tandem.Invalid(name, "comes twice")
		}
	}
	return nil
}

// checkJSON refuses what is not one JSON object in UTF-8.
func checkJSON(body []byte) error {
	malformed := func(format string, args ...any) error {
		return newProblem(http.StatusBadRequest, "malformed_json", "body", fmt.Sprintf(format, args...))
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return malformed("the body is empty; send a JSON object")
	}
	if !json.Valid(body) {
		var sink json.RawMessage
		err := json.Unmarshal(body, &sink)
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			return malformed("not JSON: %s, at byte %d", strings.TrimPrefix(syntax.Error(), "json: "), syntax.Offset)
		}
		return malformed("not JSON")
	}
	if !utf8.Valid(body) {
		return malformed("not UTF-8")
	}
	if body[skipSpace(body, 0)] != '{' {
		return tandem.Invalid("body", "must be a JSON object")
	}
	return nil
}

func parseData(value []byte) ([]byte, error) {
	if value[0] != '{' {
		return nil, tandem.Invalid("data", "must be a JSON object")
	}
	if len(value) > tandem.MaxData {
		return nil, tandem.Invalid("data", "is %d bytes, over the limit of %d", len(value), tandem.MaxData)
	}
	if value[skipSpace(value, 1)] == '}' {
		return nil, tandem.Invalid("data", "must have at least one key")
	}
	return value, checkTree(value, "data", 1)
}

// checkTree refuses duplicate keys and deep nesting anywhere in valid JSON.
func checkTree(value []byte, path string, depth int) error {
	if value[0] != '{' && value[0] != '[' {
		return nil
	}
	if depth > tandem.MaxDepth {
		return tandem.Invalid("data", "is nested more than %d levels deep", tandem.MaxDepth)
	}
	if value[0] == '{' {
		return members(value, path, func(key string, member []byte) error {
			return checkTree(member, path+"."+fieldName(key), depth+1)
		})
	}
	return elements(value, func(element []byte) error {
		return checkTree(element, path+"[]", depth+1)
	})
}

func parseInt(field string, value []byte, low, high int) (int, error) {
	n, err := strconv.Atoi(string(value))
	if err != nil || n < low || n > high {
		return 0, tandem.Invalid(field, "must be an integer from %d to %d", low, high)
	}
	return n, nil
}

func parseString(field string, value []byte, limit int) (string, error) {
	if value[0] != '"' {
		return "", tandem.Invalid(field, "must be a string")
	}
	s := unquote(value)
	if s == "" {
		return "", tandem.Invalid(field, "must not be empty; leave the field out instead")
	}
	if len(s) > limit {
		return "", tandem.Invalid(field, "is longer than %d bytes", limit)
	}
	return s, nil
}

// fieldName is a key as an error may quote it.
func fieldName(key string) string {
	if key == "" {
		return `""`
	}
	if len(key) > 64 {
		key = strings.ToValidUTF8(key[:64], "") + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, key)
}

// The rest walks JSON that is known to be valid, which takes little more than
// counting brackets outside of strings.

// members calls f for each member of an object, and refuses a key that comes
// twice. path is where the object stands, for the message.
func members(object []byte, path string, f func(key string, value []byte) error) error {
	var few [16]string
	seen := few[:0]
	var many map[string]bool
	for i := skipSpace(object, skipSpace(object, 0)+1); object[i] != '}'; {
		end := skipValue(object, i)
		key := unquote(object[i:end])
		if duplicate := many[key] || many == nil && slices.Contains(seen, key); duplicate {
			return tandem.Invalid(strings.TrimPrefix(path+"."+fieldName(key), "."), "comes twice")
		}
		if len(seen) < cap(few) {
			seen = append(seen, key)
		} else {
			if many == nil {
				many = make(map[string]bool)
				for _, k := range seen {
					many[k] = true
				}
			}
			many[key] = true
		}
		start := skipSpace(object, skipSpace(object, end)+1) // behind the colon
		end = skipValue(object, start)
		if err := f(key, object[start:end]); err != nil {
			return err
		}
		i = skipComma(object, end)
	}
	return nil
}

func elements(array []byte, f func(value []byte) error) error {
	for i := skipSpace(array, 1); array[i] != ']'; {
		end := skipValue(array, i)
		if err := f(array[i:end]); err != nil {
			return err
		}
		i = skipComma(array, end)
	}
	return nil
}

func skipSpace(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r' {
		i++
	}
	return i
}

func skipComma(b []byte, i int) int {
	i = skipSpace(b, i)
	if b[i] == ',' {
		i = skipSpace(b, i+1)
	}
	return i
}

// skipValue returns the index behind the value that begins at i.
func skipValue(b []byte, i int) int {
	for depth := 0; ; {
		switch b[i] {
		case '"':
			i = skipString(b, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ' ', '\t', '\n', '\r', ',', ':':
			i++
			continue
		default:
			for i < len(b) && strings.IndexByte(" \t\n\r,:]}", b[i]) < 0 {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
}

func skipString(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var s string
	if err := json.Unmarshal(quoted, &s); err != nil {
		return string(quoted) // unreachable: the JSON is valid
	}
	return s
}
