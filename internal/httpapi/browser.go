package httpapi

import (
	"errors"
	"fmt"
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

// forBrowsers tells browsers what not to do with our answers, lets pages of the
// named origins use what next serves, and turns away requests that a page of any
// other origin makes in somebody's name.
func (a *API) forBrowsers(next http.Handler, origins []string) (http.Handler, error) {
	guard := http.NewCrossOriginProtection()
	for _, origin := range origins {
		if err := guard.AddTrustedOrigin(origin); err != nil {
			return nil, err
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", apiPolicy) // pages set their own
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store") // what can be kept says so
		if r.TLS != nil {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if preflight := share(h, r, origins); preflight {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if err := guard.Check(r); err != nil {
			newProblem(http.StatusForbidden, "cross_origin", "Origin",
				"a page of another origin may not do this; an operator can allow its origin with --cors-origin").write(w)
			return
		}
		next.ServeHTTP(w, r)
	}), nil
}

// share lets a page of a named origin read the answer (the Fetch standard's CORS
// protocol). It reports whether the request is a preflight, which is answered
// then.
func share(h http.Header, r *http.Request, origins []string) (preflight bool) {
	if len(origins) == 0 {
		return false
	}
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if !slices.Contains(origins, origin) {
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
