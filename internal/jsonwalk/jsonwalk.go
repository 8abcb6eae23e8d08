// Package jsonwalk finds its way through JSON that is known to be valid, which
// takes little more than counting brackets outside of strings. On anything else
// it may panic or run past what it was asked for: check with json.Valid before.
//
// Positions are indices of bytes. An object is walked by
//
//	for i, more := jsonwalk.Next(b, i+1, '}'); more; i, more = jsonwalk.Next(b, i, '}') {
//		end, _ := jsonwalk.String(b, i) // b[i:end] is the key
//		start := jsonwalk.Colon(b, end)
//		i = jsonwalk.Value(b, start)    // b[start:i] is its value
//	}
//
// and an array alike, by ']' and without keys.
package jsonwalk

// Space returns the position of the first byte from i on that is no space.
func Space(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r' {
		i++
	}
	return i
}

// Next returns the position of the next member or element, if there is one more
// before the bracket end; else the one behind the bracket. i is behind the opening
// bracket, or behind the member or element before.
func Next(b []byte, i int, end byte) (at int, more bool) {
	i = Space(b, i)
	if b[i] == ',' {
		i = Space(b, i+1)
	}
	if b[i] == end {
		return i + 1, false
	}
	return i, true
}

// Colon returns the position of the value whose key ends at i.
func Colon(b []byte, i int) int { return Space(b, Space(b, i)+1) }

// String returns the position behind the string at i, and whether it is plain:
// nothing in it is escaped, and all is ASCII.
func String(b []byte, i int) (end int, plain bool) {
	plain = true
	for i++; b[i] != '"'; i++ {
		c := b[i]
		if c == '\\' {
			i++
		}
		plain = plain && c != '\\' && c < 0x80
	}
	return i + 1, plain
}

// Literal returns the position behind the number, true, false or null at i.
func Literal(b []byte, i int) int {
	for ; i < len(b); i++ {
		switch b[i] {
		case ' ', '\t', '\n', '\r', ',', ':', ']', '}':
			return i
		}
	}
	return i
}

// Value returns the position behind the value at i.
func Value(b []byte, i int) int {
	for depth := 0; ; {
		switch b[i] {
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case '"':
			for i++; b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			i++
		case ' ', '\t', '\n', '\r', ',', ':':
			i++
			continue
		default:
			i = Literal(b, i)
		}
		if depth == 0 {
			return i
		}
	}
}
