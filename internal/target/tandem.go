package target

import "fmt"

// Tandem is Tandem's own API.
func Tandem() *Target {
	const work = `{"data":{{.Data}},"workload":"{{.Workload}}","complexity":{{.Complexity}}`
	t := &Target{
		Name: "Tandem",
		// A problem document that names the request is of work that failed: one
		// that was not taken up has no request_id.
		Sync: Call{
			Path: "/sync", Body: work + `}`,
			Accept: []int{200}, ID: "/request_id", Result: "/result", Failed: []int{409, 500, 502, 503, 504},
		},
		Async: Call{
			Path: "/async", Body: work + `,"callback_url":"{{.CallbackURL}}"}`,
			Accept: []int{202}, ID: "/request_id",
		},
		Callback: Callback{
			Verify: StandardWebhooks,
			Outcomes: Outcomes{
				ID: "/request_id", Status: "/type", Done: []string{"request.completed"}, Failed: []string{"request.failed"},
			},
		},
		Poll: &Poll{
			Path: "/requests/{{.ID}}?wait=30s", Body: work + `}`,
			Outcomes: Outcomes{
				ID: "/request_id", Status: "/status",
				Done: []string{"completed", "callback_sent", "callback_failed"}, Failed: []string{"failed"},
			},
		},
	}
	if err := t.prepare(); err != nil {
		panic(fmt.Sprintf("the description of Tandem: %v", err)) // unreachable: it is above
	}
	return t
}
