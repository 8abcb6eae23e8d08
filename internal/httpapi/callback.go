package httpapi

import (
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"tandem"
	"tandem/internal/engine"
)

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
