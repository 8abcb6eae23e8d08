package callback_test

import (
	"fmt"
	"testing"

	"tandem"
	"tandem/internal/callback"
)

// What follows from each status, for every status that IANA has registered and
// both sides of every border.
func TestEveryStatus(t *testing.T) {
	const (
		delivered = callback.Delivered
		retry     = callback.Retry
		stop      = callback.Stop
		well      = callback.Well
		ill       = callback.Ill
	)
	tests := []struct {
		from, to int
		class    tandem.ErrorClass
		verdict  callback.Verdict
		sign     callback.Sign
	}{
		{-1, 99, tandem.ClassProtocol, retry, ill},    // not HTTP
		{100, 199, tandem.ClassProtocol, retry, ill},  // not final: Continue, Switching Protocols, Early Hints
		{200, 299, tandem.ClassNone, delivered, well}, // OK, Created, Accepted, No Content ... and unregistered ones
		{300, 399, tandem.ClassRedirect, retry, well}, // never followed
		{400, 407, tandem.ClassClient, retry, well},   // Bad Request ... Proxy Authentication Required
		{408, 408, tandem.ClassClient, retry, well},   // Request Timeout: an answer all the same
		{409, 409, tandem.ClassClient, retry, well},   // Conflict
		{410, 410, tandem.ClassGone, stop, well},      // Gone: wants no more
		{411, 424, tandem.ClassClient, retry, well},   // Length Required ... Failed Dependency
		{425, 428, tandem.ClassClient, retry, well},   // Too Early ... Precondition Required
		{429, 429, tandem.ClassLimited, retry, ill},   // Too Many Requests
		{430, 499, tandem.ClassClient, retry, well},   // 431, 451, and what proxies invent
		{500, 599, tandem.ClassServer, retry, ill},    // Internal Server Error ... and Cloudflare's 52x
		{600, 1000, tandem.ClassProtocol, retry, ill}, // not HTTP
	}
	seen := -2
	for _, tt := range tests {
		if tt.from != seen+1 {
			t.Fatalf("the table leaves out %d to %d", seen+1, tt.from-1)
		}
		seen = tt.to
		for status := tt.from; status <= tt.to; status++ {
			a := callback.Answer{Status: status, Class: callback.Classify(status)}
			if a.Class != tt.class {
				t.Errorf("%d: got class %q, want %q", status, a.Class, tt.class)
			}
			if got := callback.Judge(a); got != tt.verdict {
				t.Errorf("%d: got verdict %v, want %v", status, got, tt.verdict)
			}
			if got := callback.SignOf(a); got != tt.sign {
				t.Errorf("%d: the host is %v, want %v", status, got, tt.sign)
			}
		}
	}
}

func TestEveryErrorWithoutAnAnswer(t *testing.T) {
	tests := []struct {
		class tandem.ErrorClass
		sign  callback.Sign
	}{
		{tandem.ClassDNS, callback.Ill},
		{tandem.ClassConnect, callback.Ill},
		{tandem.ClassTLS, callback.Ill},
		{tandem.ClassTimeout, callback.Ill},
		{tandem.ClassProtocol, callback.Ill},
		{tandem.ClassDenied, callback.Silent},
		{tandem.ClassInternal, callback.Silent},
		{"one that a later version wrote", callback.Silent},
	}
	for _, tt := range tests {
		t.Run(string(tt.class), func(t *testing.T) {
			a := callback.Answer{Class: tt.class}
			if got := callback.Judge(a); got != callback.Retry {
				t.Errorf("got verdict %v, want retry", got)
			}
			if got := callback.SignOf(a); got != tt.sign {
				t.Errorf("the host is %v, want %v", got, tt.sign)
			}
			a.Interrupted = true
			if got := callback.SignOf(a); got != callback.Silent {
				t.Errorf("after an interrupted attempt the host is %v, want %v", got, callback.Silent)
			}
		})
	}
}

func TestVerdictsHaveNames(t *testing.T) {
	got := fmt.Sprint([]callback.Verdict{callback.Delivered, callback.Retry, callback.Stop})
	if want := "[delivered retry stop]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// A verdict that nobody set must not lose a callback.
	if got := callback.Verdict(0); got != callback.Retry {
		t.Errorf("the zero Verdict is %v, want retry", got)
	}
}
