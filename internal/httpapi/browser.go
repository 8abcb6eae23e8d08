package httpapi

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// CheckOrigin returns an error for what is not one exact origin (RFC 6454), such
// as https://app.example.
func CheckOrigin(origin string) error {
	if origin == "*" {
		return errors.New("must be one exact origin: * would open the service to the pages of everybody")
	}
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || origin != u.Scheme+"://"+u.Host || origin != strings.ToLower(origin) {
		return fmt.Errorf("must be an origin such as https://app.example, without a path, is %q", origin)
	}
	return nil
}

// What pages of other origins that the operator named may send and read.
const (
	corsMethods = "GET, HEAD, POST, DELETE"
	corsHeaders = "Authorization, Content-Type, Idempotency-Key, If-None-Match, Prefer, X-Request-ID"
	corsExposed = "ETag, Idempotency-Replayed, Link, Location, Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, X-Request-ID"
)

// apiPolicy is for answers that are not meant to be shown as a page.
const apiPolicy = "default-src 'none'; frame-ancestors 'none'"

// originGuard turns away requests that a page of an origin which the operator did
// not name makes in somebody's name.
func originGuard(named []string) (*http.CrossOriginProtection, error) {
	guard := http.NewCrossOriginProtection()
	for _, origin := range named {
		if err := guard.AddTrustedOrigin(origin); err != nil {
			return nil, err
		}
	}
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { crossOrigin().write(w) }))
	return guard, nil
}

func crossOrigin() *Problem {
	return newProblem(http.StatusForbidden, "cross_origin", "Origin", "a page of another origin may not do this; an operator can allow its origin with --cors-origin")
}

// everyAnswer is the header that each answer begins with.
var everyAnswer = http.Header{
	"X-Content-Type-Options":       {"nosniff"},
	"X-Frame-Options":              {"DENY"},
	"Referrer-Policy":              {"no-referrer"},
	"Content-Security-Policy":      {apiPolicy}, // pages set their own
	"Cross-Origin-Resource-Policy": {"same-origin"},
	"Cache-Control":                {"no-store"}, // what can be kept says so
}

// forBrowsers tells browsers what not to do with our answers, and lets pages of
// the named origins use what next serves.
func forBrowsers(next http.Handler, named []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		maps.Copy(h, everyAnswer)
		if r.TLS != nil {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if preflight := share(h, r, named); preflight {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// share lets a page of a named origin read the answer (the Fetch standard's CORS
// protocol). It reports whether the request is a preflight, which is answered
// then.
func share(h http.Header, r *http.Request, named []string) (preflight bool) {
	if len(named) == 0 {
		return false
	}
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if !slices.Contains(named, origin) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", corsExposed)
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", corsHeaders)
	h.Set("Access-Control-Max-Age", "600")
	return true
}
