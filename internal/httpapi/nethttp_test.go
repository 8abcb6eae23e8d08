package httpapi

import "testing"

func TestWhatHandlersAnswerIsLeftAsItIs(t *testing.T) {
	for _, written := range []string{
		"",
		"HTTP/1.1",
		"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Wed, 25 Nov 2026 07:00:40 GMT\r\n\r\n{}",
		"HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\n\r\n{}",
		"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nDate: x\r\nConnection: close\r\n\r\n400 Bad Request",
		"HTTP/1.1 417 Expectation Failed and so on, in the middle of a body",
		`HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n`,
		"HTTP/1.1 4x0 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n",
		"\x17\x03\x03HTTP/1.1 417 Expectation Failed\r\n",
	} {
		if made := RewriteRefusal([]byte(written)); made != nil {
			t.Errorf("%q becomes %q", written, made)
		}
	}
}
