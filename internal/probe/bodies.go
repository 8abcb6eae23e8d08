package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// jsonString is s as JSON has it.
func jsonString(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // unreachable: any string has a form in JSON
	}
	return string(text)
}

// submits are the two routes that take work.
var submits = []string{"/sync", "/async"}

func largeBodies(ctx context.Context, c *client) error {
	large := `{"data":{"a":"` + strings.Repeat("a", 1<<20) + `"}}`
	medium := `{"data":{"a":"` + strings.Repeat("a", 20_000) + `"}}` // within the body's limit, over that of data
	var faults []error
	for _, path := range submits {
		faults = append(faults,
			c.refused(ctx, "1 MiB", exchange{method: "POST", path: path, body: large}, 413),
			c.refused(ctx, "1 MiB of unknown length", exchange{method: "POST", path: path, body: large, chunked: true}, 413),
			c.refused(ctx, "20 kB of data", exchange{method: "POST", path: path, body: medium}, 413, 422),
			c.refused(ctx, "compressed", exchange{method: "POST", path: path, body: "x", header: []string{"Content-Encoding", "gzip"}}, 415))
	}
	status, err := c.raw(ctx, c.head("POST", "/sync", "Content-Type: application/json", "Content-Length: 9999999999999")+"\r\n")
	switch {
	case err != nil:
		faults = append(faults, fmt.Errorf("10 TB announced: %w", err))
	case status != 413 && status != 400:
		faults = append(faults, fmt.Errorf("10 TB announced: answers %d, want 413", status))
	}
	return errors.Join(faults...)
}

func malformedBodies(ctx context.Context, c *client) error {
	var faults []error
	for _, path := range submits {
		for _, b := range []struct {
			what, body string
			statuses   []int
		}{
			{"no JSON", "x", []int{400}},
			{"JSON that breaks off", `{"data":{"a":1}`, []int{400}},
			{"bytes behind the object", `{"data":{"a":1}} {}`, []int{400}},
			{"NaN", `{"data":{"a":NaN}}`, []int{400}},
			{"a comment", `{"data":{"a":1}/* */}`, []int{400}},
			{"invalid UTF-8", "{\"data\":{\"a\":\"\xff\xfe\"}}", []int{400}},
			{"an array", `[{"data":{"a":1}}]`, []int{422}},
			{"null", `null`, []int{422}},
			{"no data", `{}`, []int{422}},
			{"empty data", `{"data":{}}`, []int{422}},
			{"data that is a string", `{"data":"a"}`, []int{422}},
			{"a field that comes twice", `{"data":{"a":1},"data":{"b":2}}`, []int{422}},
			{"a field that comes twice within data", `{"data":{"a":1,"a":2}}`, []int{422}},
			{"an unknown field", `{"data":{"a":1},"admin":true}`, []int{422}},
			{"a field in another case", `{"DATA":{"a":1}}`, []int{422}},
			{"a prototype", `{"data":{"a":1},"__proto__":{"admin":true}}`, []int{422}},
			{"too much work", `{"data":{"a":1},"complexity":1000000}`, []int{422}},
			{"negative work", `{"data":{"a":1},"complexity":-1}`, []int{422}},
			{"fractional work", `{"data":{"a":1},"complexity":1.5}`, []int{422}},
			{"work as a string", `{"data":{"a":1},"complexity":"1"}`, []int{422}},
			{"unknown work", `{"data":{"a":1},"workload":"../../etc/passwd"}`, []int{422}},
		} {
			faults = append(faults, c.refused(ctx, b.what, exchange{method: "POST", path: path, body: b.body}, b.statuses...))
		}
		faults = append(faults, c.refused(ctx, "no JSON by its type",
			exchange{method: "POST", path: path, body: `{"data":{"a":1}}`, header: []string{"Content-Type", "text/plain"}}, 415))
	}
	return errors.Join(faults...)
}

func deepNesting(ctx context.Context, c *client) error {
	var faults []error
	for _, path := range submits {
		for _, depth := range []int{11, 1000, 30_000} {
			arrays := `{"data":{"a":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}}`
			objects := `{"data":` + strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth) + `}`
			faults = append(faults,
				c.refused(ctx, fmt.Sprintf("%d arrays", depth), exchange{method: "POST", path: path, body: arrays}, 400, 413, 422),
				c.refused(ctx, fmt.Sprintf("%d objects", depth), exchange{method: "POST", path: path, body: objects}, 400, 413, 422))
		}
	}
	return errors.Join(faults...)
}

func parameters(ctx context.Context, c *client) error {
	unknown := "req_" + strings.Repeat("0", 32)
	var faults []error
	for _, q := range []struct {
		path     string
		statuses []int
	}{
		{"/requests?limit=0", []int{422}},
		{"/requests?limit=1000000000", []int{422}},
		{"/requests?limit=1%20OR%201=1", []int{422}},
		{"/requests?offset=-1", []int{422}},
		{"/requests?offset=10000000", []int{422}},
		{"/requests?cursor=%27%3B--", []int{422}},
		{"/requests?mode=both", []int{422}},
		{"/requests?status=done", []int{422}},
		{"/callbacks?state=%3Cscript%3E", []int{422}},
		{"/requests/" + unknown, []int{404}},
		{"/requests/" + unknown + "/attempts", []int{404}},
		{"/requests/..%2f..%2fetc%2fpasswd", []int{404}},
		{"/requests/%00", []int{404}},
		{"/requests/" + strings.Repeat("a", 4000), []int{404}},
		{"/requests/" + unknown + "?wait=10h", []int{404, 422}},
	} {
		faults = append(faults, c.refused(ctx, q.path[:min(60, len(q.path))], exchange{path: q.path}, q.statuses...))
	}
	return errors.Join(faults...)
}
