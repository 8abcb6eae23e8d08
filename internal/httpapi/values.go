package httpapi

import (
	"strconv"
	"strings"
	"time"

	"tandem"
)

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
