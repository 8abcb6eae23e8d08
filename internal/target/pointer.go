package target

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
)

// pointer is a JSON pointer (RFC 6901), by its reference tokens. A nil pointer
// was not given; an empty one points at the whole document.
type pointer []string

// parsePointer reads a pointer such as /report/id.
func parsePointer(text string) (pointer, error) {
	if text == "" {
		return nil, nil
	}
	if text[0] != '/' {
		return nil, errors.New("must be a JSON pointer (RFC 6901), such as /report/id")
	}
	p := pointer{}
	for token := range strings.SplitSeq(text[1:], "/") {
		for rest := token; ; {
			_, after, tilde := strings.Cut(rest, "~")
			if !tilde {
				break
			}
			if after == "" || after[0] != '0' && after[0] != '1' {
				return nil, errors.New("~ must be written ~0, and / within a name ~1 (RFC 6901)")
			}
			rest = after
		}
		p = append(p, strings.ReplaceAll(strings.ReplaceAll(token, "~1", "/"), "~0", "~"))
	}
	return p, nil
}

// value is a JSON value as it stands in a document; empty: there is none.
type value json.RawMessage

// lookUp finds what the pointers point at. valid is false if the document is
// not JSON.
func lookUp(document []byte, pointers ...pointer) (found [2]value, valid bool) {
	if !json.Valid(document) {
		return found, false
	}
	for i, p := range pointers {
		if p != nil {
			found[i] = p.find(document)
		}
	}
	return found, true
}

// find follows the pointer into a document that is valid JSON.
func (p pointer) find(document []byte) value {
	for _, token := range p {
		document = bytes.TrimLeft(document, " \t\r\n")
		switch document[0] {
		case '{':
			var object map[string]json.RawMessage
			if err := json.Unmarshal(document, &object); err != nil {
				return nil
			}
			document = object[token]
		case '[':
			var array []json.RawMessage
			if err := json.Unmarshal(document, &array); err != nil {
				return nil
			}
			n, err := strconv.Atoi(token)
			if err != nil || n < 0 || n >= len(array) || strconv.Itoa(n) != token { // no +1, no 01
				return nil
			}
			document = array[n]
		default:
			return nil
		}
		if len(document) == 0 {
			return nil
		}
	}
	return document
}

// text is a string as it reads, another scalar as it stands, and empty for
// null, an object, an array or nothing.
func (v value) text() string {
	if len(v) == 0 || v[0] == '{' || v[0] == '[' || v[0] == 'n' {
		return ""
	}
	var s string
	if err := json.Unmarshal(v, &s); err == nil {
		return s
	}
	return string(v)
}
