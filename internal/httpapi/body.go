package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"tandem"
	"tandem/internal/jsonwalk"
)

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
	if body[jsonwalk.Space(body, 0)] != '{' {
		return tandem.Invalid("body", "must be a JSON object")
	}
	return nil
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

// members calls f for each member of an object, and refuses a key that comes
// twice. path is where the object stands, for the message.
func members(object []byte, path string, f func(key string, value []byte) error) error {
	var few [16]string
	seen := few[:0]
	var many map[string]bool
	i, more := jsonwalk.Next(object, jsonwalk.Space(object, 0)+1, '}')
	for more {
		end, _ := jsonwalk.String(object, i)
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
		start := jsonwalk.Colon(object, end)
		end = jsonwalk.Value(object, start)
		if err := f(key, object[start:end]); err != nil {
			return err
		}
		i, more = jsonwalk.Next(object, end, '}')
	}
	return nil
}

func elements(array []byte, f func(value []byte) error) error {
	i, more := jsonwalk.Next(array, 1, ']')
	for more {
		end := jsonwalk.Value(array, i)
		if err := f(array[i:end]); err != nil {
			return err
		}
		i, more = jsonwalk.Next(array, end, ']')
	}
	return nil
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
