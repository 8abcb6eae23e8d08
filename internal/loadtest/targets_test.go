package loadtest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tandem/internal/target"
	"tandem/webhook"
)

// The examples in docs/targets, run against small servers of those shapes.

func example(t *testing.T, name, secret string) (*target.Target, target.Secret) {
	t.Helper()
	file, err := os.Open("../../docs/targets/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	described, err := target.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := described.ParseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	return described, parsed
}

// deliver sends a callback as a service does.
func deliver(t *testing.T, url string, header http.Header, body []byte) {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return
	}
	request.Header = header
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return
	}
	answer.Body.Close()
}

// renderJobs is the API of github-style.yaml: every tenth job errors.
func renderJobs(t *testing.T, secret, token string) http.Handler {
	var jobs atomic.Int64
	type job struct {
		ID     string `json:"id"`
		State  string `json:"state,omitempty"`
		Output string `json:"output,omitempty"`
	}
	read := func(w http.ResponseWriter, r *http.Request) (hook string, j job, ok bool) {
		var sent struct {
			Ref    string
			Effort int
			Input  any
			Hook   string
		}
		err := json.NewDecoder(r.Body).Decode(&sent)
		if err != nil || sent.Ref == "" || sent.Effort == 0 || sent.Input == nil || r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusBadRequest)
			return "", job{}, false
		}
		n := jobs.Add(1)
		j = job{ID: fmt.Sprint("job-", n), State: "succeeded", Output: "done"}
		if n%10 == 0 {
			j.State, j.Output = "errored", ""
		}
		return sent.Hook, j, true
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/render", func(w http.ResponseWriter, r *http.Request) {
		if _, j, ok := read(w, r); ok {
			if j.State == "errored" {
				w.WriteHeader(http.StatusUnprocessableEntity)
			}
			json.NewEncoder(w).Encode(map[string]job{"job": j})
		}
	})
	mux.HandleFunc("POST /v1/jobs", func(w http.ResponseWriter, r *http.Request) {
		hook, j, ok := read(w, r)
		if !ok {
			return
		}
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(map[string]job{"job": {ID: j.ID}})
		go func() {
			body, _ := json.Marshal(map[string]job{"job": j})
			mac := hmac.New(sha256.New, []byte(secret))
			mac.Write(body)
			deliver(t, hook, http.Header{"X-Render-Signature-256": {"sha256=" + hex.EncodeToString(mac.Sum(nil))}}, body)
		}()
	})
	return mux
}

func TestAnAPIWithGitHubSignatures(t *testing.T) {
	t.Setenv("RENDER_TOKEN", "s3cret")
	for name, row := range map[string]struct {
		signs          string
		failed, forged int
	}{
		"signed as agreed":        {"webhook key", 0, 0},
		"signed with another key": {"another key", 0, 20},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(renderJobs(t, row.signs, "s3cret"))
			defer server.Close()
			described, secret := example(t, "github-style.yaml", "webhook key")
			jobs := spec(40)
			jobs.Concurrency = 20 // each waits in vain for a forged callback
			result, err := Run(t.Context(), jobs, Options{URL: server.URL, Target: described, Secret: secret, Drain: 300 * time.Millisecond, calibration: calibrated()})
			if err != nil {
				t.Fatal(err)
			}
			sync, async := result.Sync.Ledger, result.Async.Ledger
			if sync.Accepted != 20 || async.Accepted != 20 {
				t.Errorf("ledgers %+v and %+v, want 20 accepted each way", sync, async)
			}
			if c := result.Callbacks; c.Verified != 20-row.forged || c.Forged != row.forged || async.Missing != row.forged {
				t.Errorf("callbacks %+v, %d missing; want %d forged", c, async.Missing, row.forged)
			}
			if row.forged == 0 && sync.Failed+async.Failed != 4 {
				t.Errorf("ledgers %+v and %+v, want 4 of the 40 jobs to have failed", sync, async)
			}
			if s := result.Service; s.Name != "Render jobs" || !s.Verified || s.Durable != nil {
				t.Errorf("the service is %+v", s)
			}
		})
	}
}

// reports is the API of report-service.yaml.
func reports(t *testing.T, secret webhook.Secret) http.Handler {
	var made atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /reports/{name}", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("prefer") != "sync" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		io.WriteString(w, `{"rows":[1,2]}`)
	})
	mux.HandleFunc("POST /reports", func(w http.ResponseWriter, r *http.Request) {
		var sent struct {
			Rows   int
			Notify struct{ URL string }
		}
		if err := json.NewDecoder(r.Body).Decode(&sent); err != nil || sent.Rows == 0 || r.Header.Get("X-Client") != "tandem-lab" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		id := fmt.Sprint("r/", made.Add(1))
		if sent.Notify.URL != "" { // before the answer, which must be joined, too
			body := fmt.Appendf(nil, `{"type":"report.ready","data":{"report":%q}}`, id)
			header := http.Header{}
			webhook.Sign(header, id, time.Now(), body, secret)
			deliver(t, sent.Notify.URL, header, body)
		}
		w.Header().Set("Location", "states/"+strings.ReplaceAll(id, "/", "%2F")+"?of=report") // beside reports
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"report":%q}`, id)
	})
	var asked atomic.Int64
	mux.HandleFunc("GET /states/{id}", func(w http.ResponseWriter, r *http.Request) {
		state := "making"
		if asked.Add(1)%3 == 0 { // not at the first time
			state = "ready"
		}
		fmt.Fprintf(w, `{"report":%q,"state":%q}`, r.PathValue("id"), state)
	})
	return mux
}

func TestAnAPIWithStandardWebhooksThatCanBePolled(t *testing.T) {
	t.Parallel() // it mostly waits
	secret := webhook.NewSecret()
	for _, completion := range []Completion{Callback, Poll} {
		t.Run(string(completion), func(t *testing.T) {
			server := httptest.NewServer(http.StripPrefix("/api/v1", reports(t, secret)))
			defer server.Close()
			described, parsed := example(t, "report-service.yaml", secret.Reveal())
			result, err := Run(t.Context(), spec(20), Options{URL: server.URL + "/api/v1", Target: described, Secret: parsed, Completion: completion, calibration: calibrated()})
			if err != nil {
				t.Fatal(err)
			}
			want := Ledger{Planned: 10, Sent: 10, Accepted: 10, Completed: 10}
			if result.Sync.Ledger != want || result.Async.Ledger != want {
				t.Errorf("ledgers %+v and %+v, want %+v", result.Sync.Ledger, result.Async.Ledger, want)
			}
			callbacks := 0
			if completion == Callback {
				callbacks = 10
			}
			if c := result.Callbacks; c.Verified != callbacks || c.Early != callbacks || result.Service.Verified != (callbacks > 0) {
				t.Errorf("callbacks %+v, service %+v, want %d early ones", c, result.Service, callbacks)
			}
		})
	}
}

// TestPollsThatFailAreExplained: requests whose outcome cannot be asked for are
// missing, or were not taken at all, and the report can say why.
func TestPollsThatFailAreExplained(t *testing.T) {
	answering := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	for name, row := range map[string]struct {
		location string
		state    http.HandlerFunc
		want     Ledger // beside Planned and Sent
		warning  string
	}{
		"without a key": {"state", answering(401, `{"detail":"no key"}`), Ledger{Accepted: 1, Missing: 1},
			`The first accepted request that was polled for in vain was last answered with 401: "no key".`},
		"by a page": {"state", answering(200, `<html>`), Ledger{Accepted: 1, Missing: 1},
			`The first accepted request that was polled for in vain was last answered with 200: "<html>".`},
		"by another request's outcome": {"state", answering(200, `{"report":"b","state":"ready"}`), Ledger{Accepted: 1, Missing: 1},
			`The first accepted request that was polled for in vain was last answered with 200: "the outcome of another request, b".`},
		"by no answer": {"state", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, Ledger{Accepted: 1, Missing: 1},
			"The first accepted request that was polled for in vain was last not answered: "},
		"without a Location": {"", nil, Ledger{Errored: 1},
			`The first async request that was not taken was answered with 202: "there is no Location to poll".`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			mux := http.NewServeMux()
			mux.HandleFunc("POST /reports", func(w http.ResponseWriter, _ *http.Request) {
				if row.location != "" {
					w.Header().Set("Location", row.location)
				}
				w.WriteHeader(http.StatusAccepted)
				io.WriteString(w, `{"report":"a"}`)
			})
			if row.state != nil {
				mux.HandleFunc("GET /state", row.state)
			}
			server := httptest.NewServer(mux)
			t.Cleanup(server.Close)
			described, _ := example(t, "report-service.yaml", webhook.NewSecret().Reveal())
			one := spec(1)
			one.SyncRatio = 0
			result, err := Run(t.Context(), one, Options{URL: server.URL, Target: described, Completion: Poll, Drain: 200 * time.Millisecond, calibration: calibrated()})
			if err != nil {
				t.Fatal(err)
			}
			row.want.Planned, row.want.Sent = 1, 1
			if result.Async.Ledger != row.want {
				t.Errorf("the ledger is %+v, want %+v", result.Async.Ledger, row.want)
			}
			if !slices.ContainsFunc(result.Warnings, func(w string) bool { return strings.HasPrefix(w, row.warning) }) {
				t.Errorf("the warnings are %q, want %q", result.Warnings, row.warning)
			}
		})
	}
}

// TestAPollThatIsHeldDoesNotHoldTheEnd: a service that holds its answer until
// there is an outcome must not keep a run that is interrupted.
func TestAPollThatIsHeldDoesNotHoldTheEnd(t *testing.T) {
	t.Parallel() // it mostly waits
	ctx, cancel := context.WithCancel(t.Context())
	mux := http.NewServeMux()
	mux.HandleFunc("POST /reports", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "state")
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, `{"report":"a"}`)
	})
	mux.HandleFunc("GET /state", func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		select { // longer than anybody waits who was interrupted
		case <-r.Context().Done():
		case <-time.After(time.Minute):
			t.Error("the poll was held to its end")
		}
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	described, _ := example(t, "report-service.yaml", webhook.NewSecret().Reveal())
	one := spec(10)
	one.SyncRatio = 0
	result, err := Run(ctx, one, Options{URL: server.URL, Target: described, Completion: Poll, Timeout: 5 * time.Minute, calibration: calibrated()})
	if err != nil {
		t.Fatal(err)
	}
	if l := result.Async.Ledger; l.Balance() != nil || l.Missing == 0 {
		t.Errorf("the ledger is %+v, want some missing", l)
	}
	if len(result.Void) != 1 {
		t.Errorf("void as %q, want that it was interrupted", result.Void)
	}
}

// TestWhatIsPolledForTooShortIsSaid: what is not over when nobody waits for it any
// longer may be completed all the same, and in a closed run it is outstanding
// beside the next one.
func TestWhatIsPolledForTooShortIsSaid(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /reports", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "state")
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, `{"report":"a"}`)
	})
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"report":"a","state":"making"}`) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	described, _ := example(t, "report-service.yaml", webhook.NewSecret().Reveal())
	run := func(s Spec) *Result {
		s.SyncRatio = 0
		result, err := Run(t.Context(), s, Options{URL: server.URL, Target: described, Completion: Poll, Drain: 100 * time.Millisecond, calibration: calibrated()})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	closed := spec(2)
	closed.Concurrency = 1
	if got := run(closed); len(got.Void) != 1 || !strings.Contains(got.Void[0], "went on: 2.") {
		t.Errorf("void as %q, want that two were under way", got.Void)
	}
	open := open200(50 * time.Millisecond)
	if got := run(open); !slices.ContainsFunc(got.Warnings, func(w string) bool { return strings.Contains(w, "still under way: 10.") }) {
		t.Errorf("the warnings are %q, want that ten were under way", got.Warnings)
	}
}
