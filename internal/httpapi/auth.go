package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"tandem"
	"tandem/internal/access"
	"tandem/internal/limit"
)

// callerKey is the key of a request's tandem.Caller in its context.
type callerKey struct{}

// caller is who asks.
func caller(ctx context.Context) tandem.Caller {
	who, _ := ctx.Value(callerKey{}).(tandem.Caller)
	return who
}

// authorized lets through who may.
func (a *API) authorized(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		known := a.authorize(w, r)
		if known == nil {
			return
		}
		defer func() { r.Pattern = known.Pattern }() // for those who observe r
		next.ServeHTTP(w, known)
	})
}

// authorize finds out who asks, turns away who may not, and holds everyone to their
// rate. It comes back with the request to go on with, or nil if it has answered.
func (a *API) authorize(w http.ResponseWriter, r *http.Request) *http.Request {
	who, key, refused := a.identify(w, r)
	if refused == nil && isRateLimited(r) { // first of all, so that every answer tells what is left
		refused = a.limitRate(w, r, key)
	}
	switch {
	case a.origins.Check(r) != nil:
		refused = crossOrigin()
	case refused != nil:
	case key != nil && !key.Admin && isAdminOnly(r.URL.Path):
		refused = newProblem(http.StatusForbidden, "forbidden", "", "this is for admin keys; make one with tandem keys create --admin")
	case isRateLimited(r) && a.opts.NoSubmissions:
		refused = newProblem(http.StatusServiceUnavailable, "not_here", "", "this process takes no requests; send them to one with the role api")
	}
	if refused != nil {
		r.Pattern = "" // the route it is counted under
		if isRateLimited(r) {
			r.Pattern = r.Method + " " + r.URL.Path
		}
		refused.write(w)
		return nil
	}
	return r.WithContext(context.WithValue(r.Context(), callerKey{}, who))
}

// isPublic reports whether a path needs no key: those that tell a load balancer
// whether the service is there.
func isPublic(path string) bool { return path == "/healthz" || path == "/readyz" }

// isAdminOnly reports whether a path tells of the requests of all.
func isAdminOnly(path string) bool { return path == "/metrics" }

// identify finds out who asks. key is nil where callers are not told apart. Whoever
// is turned away is told how many wrong keys may still be tried.
func (a *API) identify(w http.ResponseWriter, r *http.Request) (who tandem.Caller, key *access.Key, refused *Problem) {
	if a.opts.Keys == nil || isPublic(r.URL.Path) || r.Method == http.MethodOptions {
		return tandem.Anyone, nil, nil
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		if key, ok := a.opts.Keys.Open(strings.TrimSpace(token)); ok {
			return tandem.Caller{Name: key.Name, Admin: key.Admin}, key, nil
		}
	}
	detail, d := "send the header Authorization: Bearer and an API key", limit.Decision{}
	if scheme == "" { // one who has yet to learn of keys: that is no guess
		d = a.guesses.Look(a.address(r), time.Now())
	} else {
		detail, d = "this is not a key of this service, or it was revoked", a.guesses.Take(a.address(r), time.Now())
	}
	tellLimit(w.Header(), "wrong-keys", d)
	if scheme != "" && !d.OK {
		return who, nil, newProblem(http.StatusTooManyRequests, "rate_limited", "Authorization",
			fmt.Sprintf("over %d wrong keys from this address in %s s; a right one would be let in", d.Limit, wholeSeconds(d.Window))).
			with("Retry-After", wholeSeconds(d.Retry))
	}
	return who, nil, newProblem(http.StatusUnauthorized, "unauthorized", "Authorization", detail).
		with("WWW-Authenticate", `Bearer realm="tandem"`)
}

// wrongKeys is how many an address may try.
var wrongKeys = limit.Rate{N: 10, Window: time.Minute}

// isRateLimited reports whether the exchange counts against its caller's rate: both
// POST routes do, together.
func isRateLimited(r *http.Request) bool {
	return r.Method == http.MethodPost && (r.URL.Path == "/sync" || r.URL.Path == "/async")
}

// tellLimit says in an answer what is left of a limit
// (draft-ietf-httpapi-ratelimit-headers).
func tellLimit(h http.Header, name string, d limit.Decision) {
	h.Set("RateLimit-Policy", `"`+name+`";q=`+strconv.Itoa(d.Limit)+`;w=`+wholeSeconds(d.Window))
	h.Set("RateLimit", `"`+name+`";r=`+strconv.Itoa(d.Remaining)+`;t=`+wholeSeconds(d.Reset))
}

// limitRate counts the request against its caller's rate, and says in the answer
// what is left of it. Without a key the caller is the address.
func (a *API) limitRate(w http.ResponseWriter, r *http.Request, key *access.Key) (refused *Problem) {
	rate := a.opts.Rate
	if key != nil && key.Rate != (limit.Rate{}) {
		rate = key.Rate
	}
	if rate == (limit.Rate{}) {
		return nil
	}
	var who string
	if key != nil {
		who = "key " + key.Name
	} else {
		who = a.address(r)
	}
	d := a.rates.of(rate).Take(who, time.Now())
	tellLimit(w.Header(), "default", d)
	if d.OK {
		return nil
	}
	return newProblem(http.StatusTooManyRequests, "rate_limited", "", fmt.Sprintf("over %d requests in %s s; come back after the time in Retry-After", d.Limit, wholeSeconds(d.Window))).
		with("Retry-After", wholeSeconds(d.Retry))
}

// rates are the limiters, one for each rate that somebody has.
type rates struct {
	limiter func(limit.Rate) limit.Taker // makes one; nil: limit.New

	mu     sync.Mutex
	byRate map[limit.Rate]limit.Taker
}

func (r *rates) of(rate limit.Rate) limit.Taker {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.byRate[rate]
	if l == nil {
		if r.limiter != nil {
			l = r.limiter(rate)
		} else {
			l = limit.New(rate)
		}
		if r.byRate == nil {
			r.byRate = make(map[limit.Rate]limit.Taker)
		}
		r.byRate[rate] = l
	}
	return l
}

// counts adds up all limiters.
func (r *rates) counts() (allowed, refused int64, callers int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.byRate {
		a, f, c := l.Counts()
		allowed, refused, callers = allowed+a, refused+f, callers+c
	}
	return allowed, refused, callers
}

// address is where a request comes from, for counting: the address, and of IPv6
// the /64 that one subscriber gets. Behind a trusted proxy it is the last
// address in X-Forwarded-For that is no proxy of ours; what stands before it
// anybody can write.
func (a *API) address(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	ip := peer.Addr().Unmap().WithZone("")
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && a.trusted(ip); i-- {
		next, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		ip = next.Unmap().WithZone("")
	}
	if ip.Is6() {
		return netip.PrefixFrom(ip, 64).Masked().String()
	}
	return ip.String()
}

func (a *API) trusted(ip netip.Addr) bool {
	for _, prefix := range a.opts.TrustedProxies {
		if prefix.Contains(ip) {
			return true
		}
	}
	return false
}
