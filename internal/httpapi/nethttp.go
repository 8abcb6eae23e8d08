package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// RewriteRefusal is for what net/http refuses by itself, without asking a handler:
// that a message is no HTTP, or that its headers are too large. Given all that is
// written to a connection at once, it returns the same refusal as a problem
// document, or nil for everything else.
//
// Nothing that a handler answers looks the same: its headers have a Date, and
// its bodies, but for the pages of the docs, no carriage return.
func RewriteRefusal(written []byte) []byte {
	line, rest, whole := bytes.Cut(written, []byte("\r\n"))
	if !whole || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return nil
	}
	var p *Problem
	switch text := bytes.HasPrefix(rest, []byte("Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")); {
	case bytes.HasPrefix(rest, []byte("\r\nClient sent an HTTP request to an HTTPS server")):
		p = newProblem(http.StatusBadRequest, "malformed_message", "", "this is plain HTTP, and here HTTPS is spoken: begin the URL with https://")
	case isStatus(line, http.StatusExpectationFailed):
		p = newProblem(http.StatusExpectationFailed, "malformed_message", "Expect", "can only be 100-continue; leave it out")
	case text && isStatus(line, http.StatusRequestHeaderFieldsTooLarge):
		p = newProblem(http.StatusRequestHeaderFieldsTooLarge, "headers_too_large", "", "the request line and the headers are over the limit; send fewer or shorter ones")
	case text && isStatus(line, http.StatusNotImplemented):
		p = newProblem(http.StatusNotImplemented, "malformed_message", "Transfer-Encoding", "can only be chunked")
	case text && isStatus(line, http.StatusHTTPVersionNotSupported):
		p = newProblem(http.StatusHTTPVersionNotSupported, "malformed_message", "", "this version of HTTP is not spoken here; send HTTP/1.1")
	case text && isStatus(line, http.StatusBadRequest):
		detail := "this is not HTTP/1.1 as it must be: look at the request line, the names of the headers and the length"
		if _, reason, ok := strings.Cut(string(line), ": "); ok { // one of a few texts of net/http's
			detail = "this is not HTTP/1.1 as it must be: " + reason
		}
		p = newProblem(http.StatusBadRequest, "malformed_message", "", detail)
	default:
		return nil
	}
	body, err := json.Marshal(p)
	if err != nil {
		return nil // unreachable: a Problem is plain text
	}
	return append([]byte("HTTP/1.1 "+strconv.Itoa(p.Status)+" "+p.Title+"\r\n"+
		"Content-Type: "+problemMediaType+"\r\n"+
		"Cache-Control: no-store\r\n"+
		"X-Content-Type-Options: nosniff\r\n"+
		"Content-Length: "+strconv.Itoa(len(body)+1)+"\r\n"+
		"Connection: close\r\n\r\n"), append(body, '\n')...)
}

// isStatus reports whether an answer that begins with line has the status, in its
// own words or with a reason behind them.
func isStatus(line []byte, status int) bool {
	words, ok := bytes.CutPrefix(line[min(len(line), len("HTTP/1.1 ")):], []byte(strconv.Itoa(status)+" "+http.StatusText(status)))
	return ok && (len(words) == 0 || bytes.HasPrefix(words, []byte(": ")))
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
