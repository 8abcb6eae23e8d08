package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// Unasked is for what net/http answers by itself, without asking a handler: that
// a message is no HTTP, or that its headers are too large. Given all that is
// written to a connection at once, it returns the same refusal as a problem
// document, or nil for everything else.
//
// Nothing that a handler answers looks the same: its headers have a Date, and
// its bodies, but for the pages of the docs, no carriage return.
func Unasked(written []byte) []byte {
	line, rest, whole := bytes.Cut(written, []byte("\r\n"))
	if !whole || !bytes.HasPrefix(line, []byte("HTTP/1.")) || len(line) < len("HTTP/1.1 400 ") {
		return nil
	}
	status, err := strconv.Atoi(string(line[len("HTTP/1.1 "):len("HTTP/1.1 400")]))
	if err != nil {
		return nil
	}
	const why = "the message is not HTTP/1.1 as it must be"
	var p *Problem
	switch {
	case status == http.StatusExpectationFailed:
		p = newProblem(status, "malformed_message", "Expect", "can only be 100-continue; leave it out")
	case bytes.HasPrefix(rest, []byte("\r\nClient sent an HTTP request to an HTTPS server")):
		p = newProblem(status, "malformed_message", "", "this is plain HTTP, and here HTTPS is spoken: begin the URL with https://")
	case !bytes.HasPrefix(rest, []byte("Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")):
		return nil
	case status == http.StatusRequestHeaderFieldsTooLarge:
		p = newProblem(status, "headers_too_large", "", "the request line and the headers are over the limit; send fewer or shorter ones")
	case status == http.StatusNotImplemented:
		p = newProblem(status, "malformed_message", "Transfer-Encoding", "can only be chunked")
	default:
		detail := why + ": look at its request line, the names of its headers and its length"
		if _, reason, ok := strings.Cut(string(line), ": "); ok { // one of a few texts of net/http's
			detail = why + ": " + reason
		}
		p = newProblem(status, "malformed_message", "", detail)
	}
	body, err := json.Marshal(p)
	if err != nil {
		return nil // unreachable: a Problem is plain text
	}
	return append([]byte("HTTP/1.1 "+strconv.Itoa(status)+" "+http.StatusText(status)+"\r\n"+
		"Content-Type: "+problemMediaType+"\r\n"+
		"Cache-Control: no-store\r\n"+
		"X-Content-Type-Options: nosniff\r\n"+
		"Content-Length: "+strconv.Itoa(len(body)+1)+"\r\n"+
		"Connection: close\r\n\r\n"), append(body, '\n')...)
}

// plainPaths keeps from next, a mux, what it would redirect to a cleaner path or
// refuse in a line of text: paths with empty segments or dots, and targets that
// have no path, as of CONNECT.
func plainPaths(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.EscapedPath()
		if !strings.HasPrefix(path, "/") || strings.Contains(path, "//") || strings.Contains(path+"/", "/./") || strings.Contains(path+"/", "/../") {
			nothingHere(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}
