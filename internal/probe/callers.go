package probe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
)

func missingKey(ctx context.Context, c *client) error {
	var faults []error
	for _, x := range []exchange{
		{path: "/requests"}, {path: "/stats"}, {path: "/callbacks"},
		{path: "/requests/req_00000000000000000000000000000000"},
		{method: "POST", path: "/sync", body: `{"data":{"a":1},"workload":"wait"}`},
		{method: "POST", path: "/async", body: submission("")},
		{method: "DELETE", path: "/requests/req_00000000000000000000000000000000"},
		{method: "POST", path: "/callbacks/redeliver", body: `{"dry_run":true}`},
	} {
		x.anonymous = true
		faults = append(faults, c.refused(ctx, "without a key", x, 401))
	}
	return errors.Join(faults...)
}

func operatorsOnly(ctx context.Context, c *client) error {
	faults := []error{c.refused(ctx, "the metrics, without a key", exchange{path: "/metrics", anonymous: true}, 401, 403, 404)}
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/admin", "/river/"} {
		faults = append(faults, c.refused(ctx, "what is for operators", exchange{path: path, anonymous: true}, 401, 403, 404))
	}
	return errors.Join(faults...)
}

// guesses is more wrong keys than anybody should have to try.
const guesses = 50

func wrongKeys(ctx context.Context, c *client) error {
	if c.target.Key == "" {
		return skipped("the service asks for no key")
	}
	for n := range guesses {
		a, err := c.do(ctx, exchange{path: "/requests?limit=1", key: fmt.Sprintf("tandem_aaaaaaaaaaaa_%026d", n), hurried: true})
		switch {
		case err != nil:
			return err
		case a.status == http.StatusTooManyRequests:
			if a.header.Get("Retry-After") == "" {
				return errors.New("a 429 without Retry-After")
			}
			return c.stillIn(ctx)
		case a.status != http.StatusUnauthorized:
			return fmt.Errorf("a wrong key: GET /requests answers %d, want 401", a.status)
		}
	}
	return fmt.Errorf("%d wrong keys from one address were not slowed down", guesses)
}

// stillIn makes sure that the right key gets in while wrong ones are refused
// from the same address.
func (c *client) stillIn(ctx context.Context) error {
	a, err := c.do(ctx, exchange{path: "/requests?limit=1"})
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("after wrong keys from its address the right one gets %d", a.status)
	}
	return err
}

func otherCallers(ctx context.Context, c *client) error {
	if c.target.Key == "" || c.target.OtherKey == "" {
		return skipped("it takes the keys of two callers (--key and --other-key)")
	}
	a, err := c.do(ctx, exchange{method: "POST", path: "/async", body: submission("")})
	if err != nil {
		return err
	}
	id := a.field("request_id")
	if a.status != http.StatusAccepted || id == "" {
		return fmt.Errorf("POST /async answers %d, want 202", a.status)
	}
	defer c.withdraw(ctx, a)
	path := "/requests/" + url.PathEscape(id)
	var faults []error
	for _, x := range []exchange{
		{path: path}, {path: path + "?wait=1s"}, {path: path + "/attempts"},
		{method: "POST", path: path + "/redeliver"}, {method: "DELETE", path: path},
	} {
		x.key = c.target.OtherKey
		faults = append(faults, c.refused(ctx, "another caller's request", x, 404))
	}
	list, err := c.do(ctx, exchange{path: "/requests?limit=1000", key: c.target.OtherKey})
	if err == nil && regexp.MustCompile(regexp.QuoteMeta(id)).Match(list.body) {
		err = errors.New("another caller's request is in the history")
	}
	mine, mineErr := c.do(ctx, exchange{path: path})
	if mineErr == nil && mine.status != http.StatusOK {
		mineErr = fmt.Errorf("GET of the caller's own request answers %d, want 200", mine.status)
	}
	return errors.Join(append(faults, err, mineErr)...)
}

func otherOrigins(ctx context.Context, c *client) error {
	const evil = "https://evil.example"
	var faults []error
	for _, x := range []exchange{
		{method: "POST", path: "/async", body: submission("")},
		{method: "POST", path: "/sync", body: `{"data":{"a":1},"workload":"wait"}`},
		{method: "DELETE", path: "/requests/req_00000000000000000000000000000000"},
	} {
		x.header = []string{"Origin", evil, "Sec-Fetch-Site", "cross-site"}
		faults = append(faults, c.refused(ctx, "a page of another origin", x, 403))
	}
	a, err := c.do(ctx, exchange{method: "OPTIONS", path: "/async", header: []string{"Origin", evil, "Access-Control-Request-Method", "POST"}})
	if err == nil {
		if got := a.header.Get("Access-Control-Allow-Origin"); got == "*" || got == evil {
			err = fmt.Errorf("pages of any origin may read answers: Access-Control-Allow-Origin is %q", got)
		}
	}
	return errors.Join(append(faults, err)...)
}

// policyForm is draft-ietf-httpapi-ratelimit-headers' list of one policy.
var policyForm = regexp.MustCompile(`^"[^"]+";q=(\d+);w=(\d+)$`)

var limitForm = regexp.MustCompile(`^"[^"]+";r=\d+;t=\d+$`)

// maxQuota is the largest rate that is tried out.
const maxQuota = 200

// rateLimit uses up the rate of the other caller, if there is one. What it sends
// is counted, and refused as malformed.
func rateLimit(ctx context.Context, c *client) error {
	x := exchange{method: "POST", path: "/sync", body: "{", key: c.target.OtherKey, hurried: true}
	a, err := c.do(ctx, x)
	if err != nil {
		return err
	}
	policy := policyForm.FindStringSubmatch(a.header.Get("RateLimit-Policy"))
	if policy == nil {
		return fmt.Errorf("POST /sync names no rate: RateLimit-Policy is %q", a.header.Get("RateLimit-Policy"))
	}
	if got := a.header.Get("RateLimit"); !limitForm.MatchString(got) {
		return fmt.Errorf("RateLimit is %q, want what is left, such as \"default\";r=12;t=30", got)
	}
	quota, err := strconv.Atoi(policy[1])
	if err != nil || quota > maxQuota {
		return skipped("its rate of " + policy[1] + " in " + policy[2] + " s is too large to be tried out; give --other-key a smaller one")
	}
	for range quota + 1 {
		if a, err = c.do(ctx, x); err != nil {
			return err
		}
		if a.status == http.StatusTooManyRequests {
			if retry, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || retry < 1 {
				return fmt.Errorf("the 429 has Retry-After %q, want seconds", a.header.Get("Retry-After"))
			}
			err := a.checkProblem()
			return err
		}
	}
	return fmt.Errorf("after %d requests within its rate of %s in %s s, nothing is refused", quota+2, policy[1], policy[2])
}
