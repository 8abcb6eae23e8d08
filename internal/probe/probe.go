// Package probe looks at a running instance from outside, as somebody who means
// it harm would, and tells which of its defences hold. It needs nothing but the
// instance's URL and API keys, so the tests of the service and an operator who
// has just deployed it ask the same questions.
package probe

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Target is the instance to be probed.
type Target struct {
	URL      string        // where it is, such as https://tandem.example
	Key      string        // an API key; empty if it asks for none
	OtherKey string        // the key of another caller, to look at the first one's requests with
	Patience time.Duration // how long a stalled connection may live; 30 s
	Log      func(string)  // told of waits, may be nil
}

// Probe is one defence put to the test.
type Probe struct {
	Name    string // stable, in kebab case
	Defence string // what holds if it passes
	run     func(ctx context.Context, c *client) error
}

// All are the probes, in the order in which they are run: the one that uses up
// a caller's rate comes last.
var All = []Probe{
	{"transport", "what is sent cannot be read on the way: HTTPS with TLS 1.2 or newer", transport},
	{"headers", "browsers are told not to sniff, frame or keep answers, and the server does not tell its version", securityHeaders},
	{"problems", "every refusal is a problem document with a stable type and code, and repeats nothing that was sent", problems},
	{"missing-key", "nobody enters without an API key", missingKey},
	{"operators-only", "metrics and profiles are not for everybody", operatorsOnly},
	{"callback-urls", "callbacks cannot be turned inward (SSRF)", callbackURLs},
	{"callback-headers", "callers cannot put headers of their own into a callback that mean something to the connection or the signature", callbackHeaders},
	{"large-bodies", "oversized bodies are refused, whether they say their size or not", largeBodies},
	{"malformed-bodies", "malformed and ambiguous bodies are refused", malformedBodies},
	{"deep-nesting", "deeply nested bodies are refused", deepNesting},
	{"parameters", "parameters out of bounds are refused", parameters},
	{"injection", "nothing that is sent ends up in the headers of an answer", injection},
	{"methods", "a method is what the request line says, and unknown ones are refused", methods},
	{"framing", "messages whose length is ambiguous are refused", framing},
	{"slow-headers", "connections that never finish their headers are cut off", slowHeaders},
	{"large-headers", "oversized headers are refused", largeHeaders},
	{"other-origins", "pages of other origins cannot act in a caller's name", otherOrigins},
	{"other-callers", "callers cannot see or touch the requests of others", otherCallers},
	{"wrong-keys", "wrong keys are refused, and cannot be tried without end", wrongKeys},
	{"rate-limit", "callers are held to a rate, and are told what is left of it", rateLimit},
}

// Verdict is what came of a probe.
type Verdict string

// The verdicts. A probe that was Skipped could not be made, which says nothing
// of the defence.
const (
	Passed  Verdict = "pass"
	Failed  Verdict = "fail"
	Skipped Verdict = "skip"
)

// Finding is a verdict and its reasons: one a line, none if the probe passed.
type Finding struct {
	Verdict Verdict
	Reasons []string
}

// skipped is why a probe could not be made.
type skipped string

func (s skipped) Error() string { return string(s) }

// Connect finds out whether the target can be probed at all: whether it answers
// as Tandem does, and takes the keys.
func Connect(ctx context.Context, target Target) (*Instance, error) {
	c, err := newClient(target)
	if err != nil {
		return nil, err
	}
	health, err := c.do(ctx, exchange{path: "/healthz", anonymous: true})
	if err != nil {
		return nil, fmt.Errorf("reach %s: %w", target.URL, err)
	}
	if health.status != 200 || health.field("backend") == "" {
		return nil, fmt.Errorf("GET /healthz of %s answers %d, and not as Tandem does", target.URL, health.status)
	}
	for _, key := range []struct{ name, value string }{{"key", target.Key}, {"other key", target.OtherKey}} {
		if key.value == "" && key.name != "key" {
			continue
		}
		a, err := c.do(ctx, exchange{path: "/requests?limit=1", key: key.value, anonymous: key.value == "", hurried: true})
		switch {
		case err != nil:
			return nil, err
		case a.status == 401 && key.value == "":
			return nil, errors.New("the service asks for an API key, and none was given")
		case a.status != 200:
			return nil, fmt.Errorf("the %s is not taken: GET /requests answers %d", key.name, a.status)
		}
	}
	return &Instance{c}, nil
}

// Instance is a target that can be probed.
type Instance struct{ client *client }

// Run makes one probe. It changes nothing that lasts, but for the history: what
// the instance accepts where it should not is cancelled again.
func (i *Instance) Run(ctx context.Context, p Probe) Finding {
	err := p.run(ctx, i.client)
	if err == nil {
		return Finding{Verdict: Passed}
	}
	if reason, ok := errors.AsType[skipped](err); ok {
		return Finding{Skipped, []string{string(reason)}}
	}
	return Finding{Failed, reasons(err)}
}

// maxReasons bounds what is told of one probe.
const maxReasons = 20

// reasons takes joined errors apart.
func reasons(err error) []string {
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	var text []string
	for n, one := range all {
		if n == maxReasons {
			return append(text, fmt.Sprintf("and %d more", len(all)-n))
		}
		text = append(text, one.Error())
	}
	return text
}
