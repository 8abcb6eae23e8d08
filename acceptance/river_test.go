package acceptance

import (
	"context"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem/internal/postgrestest"
)

// operators returns the service as it is seen at its address for operators.
func (s *service) operators(t *testing.T) *service {
	t.Helper()
	s.says(t, "listening for operators")
	found := regexp.MustCompile(`listening for operators","addr":"([^"]+)"`).FindStringSubmatch(s.stderr.String())
	if found == nil {
		t.Fatalf("the log does not tell the address:\n%s", s.stderr.String())
	}
	admin := *s
	admin.addr = found[1]
	return &admin
}

func TestOperatorsSeeTheQueueOfAPostgres(t *testing.T) {
	parallel(t)
	const app = "https://app.example"
	rcv := receive(t, nil)
	s := serve(t, "--database", postgrestest.Database(t), "--admin-addr", "127.0.0.1:0", "--cors-origin", app)
	admin := s.operators(t)

	page := admin.get("/river/")
	policy := page.header.Get("Content-Security-Policy")
	if page.status != http.StatusOK || !strings.HasPrefix(page.header.Get("Content-Type"), "text/html") || page.header.Get("X-Frame-Options") != "DENY" {
		t.Errorf("GET /river/: %d %v", page.status, page.header)
	}
	if !strings.Contains(policy, "default-src 'none'; script-src 'self'; ") || !strings.Contains(policy, "connect-src 'self'") || strings.Contains(policy, "http") {
		t.Errorf("the page may load from elsewhere: %s", policy)
	}
	parts := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(string(page.body), -1)
	if len(parts) < 2 {
		t.Errorf("the page has no parts:\n%s", page.body)
	}
	for _, part := range parts {
		if a := admin.get(part[1]); a.status != http.StatusOK || len(a.body) == 0 || strings.HasPrefix(a.header.Get("Content-Type"), "text/html") {
			t.Errorf("GET %s, a part of the page: %d %v", part[1], a.status, a.header)
		}
	}
	if a := admin.get("/river/queues"); a.status != http.StatusOK || string(a.body) != string(page.body) {
		t.Errorf("GET /river/queues, which a browser may load anew: %d", a.status)
	}

	// A request that is put off has a job, which cannot be cancelled here.
	a := s.post("/async", map[string]any{"data": data, "not_before": time.Now().Add(time.Hour)})
	if a.status != http.StatusAccepted {
		t.Fatalf("POST /async: %d %s", a.status, a.body)
	}
	id := strings.TrimPrefix(a.header.Get("Location"), "/requests/")
	var states map[string]struct{ Count int }
	admin.get("/river/api/states").decode(t, http.StatusOK, &states)
	if states["scheduled"].Count != 1 {
		t.Errorf("the states are %v, want one job scheduled", states)
	}
	var jobs struct {
		Data []struct {
			ID   any
			Args string
		}
	}
	admin.get("/river/api/jobs?state=scheduled").decode(t, http.StatusOK, &jobs)
	if len(jobs.Data) != 1 || !strings.Contains(jobs.Data[0].Args, id) {
		t.Errorf("the jobs are %v, want that of %s", jobs, id)
	}
	for _, route := range []string{"/river/api/jobs/cancel", "/river/api/jobs/delete"} {
		p := admin.send("POST", route, `{"ids":["1"]}`).problem(t, http.StatusForbidden)
		if !strings.Contains(p.Detail, "DELETE /requests/{id}") {
			t.Errorf("POST %s does not tell the way out: %s", route, p.Detail)
		}
	}
	admin.send("PATCH", "/river/api/queues/deliver", `{}`).problem(t, http.StatusMethodNotAllowed)
	admin.get("/river/api/jobs?state=scheduled").decode(t, http.StatusOK, &jobs)
	if len(jobs.Data) != 1 {
		t.Errorf("the job is gone")
	}

	// A paused queue keeps what is in it.
	const pause, resume = "/river/api/queues/deliver/pause", "/river/api/queues/deliver/resume"
	admin.send("PUT", pause, nil, "Sec-Fetch-Site", "cross-site").problem(t, http.StatusForbidden)
	admin.send("PUT", pause, nil, "Origin", app).problem(t, http.StatusForbidden)
	var queues struct {
		Data []struct {
			Name     string
			PausedAt *time.Time `json:"paused_at"`
		}
	}
	eventually(t, "the process serves its queues", func() bool {
		admin.get("/river/api/queues").decode(t, http.StatusOK, &queues)
		return len(queues.Data) == 3
	})
	if a := admin.send("PUT", pause, nil, "Sec-Fetch-Site", "same-origin"); a.status != http.StatusOK {
		t.Fatalf("PUT %s: %d %s", pause, a.status, a.body)
	}
	admin.get("/river/api/queues").decode(t, http.StatusOK, &queues)
	for _, q := range queues.Data {
		if paused := q.PausedAt != nil; paused != (q.Name == "deliver") {
			t.Errorf("queue %s is paused: %v", q.Name, paused)
		}
	}
	if a := admin.send("PUT", resume, nil); a.status != http.StatusOK {
		t.Fatalf("PUT %s: %d %s", resume, a.status, a.body)
	}
	s.async(submission{Data: data, CallbackURL: rcv.url})
	rcv.next().verify(t, secret)

	for _, path := range []string{"/river", "/river/", "/river/api/states", "/river/api/jobs"} {
		s.get(path).problem(t, http.StatusNotFound)
	}
	s.send("PUT", pause, nil).problem(t, http.StatusNotFound)
}

func TestWithoutAPostgresThereIsNoQueueToSee(t *testing.T) {
	parallel(t)
	s := serve(t, "--database", newFile(t), "--admin-addr", "127.0.0.1:0")
	for _, path := range []string{"/river", "/river/", "/river/api/states"} {
		s.operators(t).get(path).problem(t, http.StatusNotFound)
		s.get(path).problem(t, http.StatusNotFound)
	}
	serve(t, "--database", postgrestest.Database(t)).get("/river/").problem(t, http.StatusNotFound)
}

func TestARequestOutlivesItsJob(t *testing.T) {
	parallel(t)
	database := postgrestest.Database(t)
	rcv := receive(t, nil)
	api := serve(t, "--database", database, "--roles", "api")
	deleted, cancelled := api.async(submission{Data: data, CallbackURL: rcv.url}), api.async(submission{Data: data, CallbackURL: rcv.url})
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	for id, statement := range map[string]string{
		deleted:   `DELETE FROM river_job WHERE args->>'id' = $1`,
		cancelled: `UPDATE river_job SET state = 'cancelled', finalized_at = now() WHERE args->>'id' = $1`,
	} {
		if done, err := conn.Exec(t.Context(), statement, id); err != nil || done.RowsAffected() != 1 {
			t.Fatalf("%s: %v %v", statement, done, err)
		}
	}
	worker := serve(t, "--database", database, "--roles", "worker")
	for range 2 {
		eventually(t, "the callback comes", func() bool { return len(rcv.got) > 0 })
		rcv.next().verify(t, secret)
	}
	for _, id := range []string{deleted, cancelled} {
		if rec := worker.settled(id); rec.Status != "callback_sent" {
			t.Errorf("the request reads %v", rec)
		}
	}
}
