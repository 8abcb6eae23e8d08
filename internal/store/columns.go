package store

import (
	"encoding/json"
	"math"
	"strconv"
	"time"

	"tandem"
)

// callbackOptions is the form of the column callback_options.
type callbackOptions struct {
	TimeoutMS int64             `json:"timeout_ms,omitempty"`
	Header    map[string]string `json:"header,omitempty"`
}

// CallbackOptions is the column callback_options of a callback: its timeout and
// header. It is "", to be kept as NULL, if there is neither.
func CallbackOptions(cb *tandem.Callback) string {
	if cb.Timeout == 0 && len(cb.Header) == 0 {
		return ""
	}
	text, err := json.Marshal(callbackOptions{cb.Timeout.Milliseconds(), cb.Header})
	if err != nil {
		panic(err) // unreachable: a number and strings
	}
	return string(text)
}

// ReadCallbackOptions fills in what CallbackOptions returned.
func ReadCallbackOptions(cb *tandem.Callback, text string) error {
	if text == "" {
		return nil
	}
	var o callbackOptions
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	cb.Timeout, cb.Header = time.Duration(o.TimeoutMS)*time.Millisecond, o.Header
	return nil
}

// Cursor is the cursor of the page after the row with the seq.
func Cursor(seq int64) string { return strconv.FormatInt(seq, 36) }

// ReadCursor returns the seq below which the rows of a page are: those after a
// cursor, or all, if it is empty.
func ReadCursor(cursor string) (before int64, err error) {
	if cursor == "" {
		return math.MaxInt64, nil
	}
	before, err = strconv.ParseInt(cursor, 36, 64)
	if err != nil || before < 1 {
		return 0, tandem.Invalid("cursor", "not a cursor of this service; take it from the Link header of the page before")
	}
	return before, nil
}
