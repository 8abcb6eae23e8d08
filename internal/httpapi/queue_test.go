package httpapi

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"tandem/internal/engine"
)

func TestOfTheQueueOnlyWhatIsHarmlessCanBeChanged(t *testing.T) {
	reached := 0
	api, err := New(newService(t, Options{}, engine.Options{}).engine, Options{Registry: prometheus.NewRegistry(), SeparateAdmin: true, Queue: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ })})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, method, path string
		status             int
	}{
		{"its pages are shown", "GET", "/river/", 200},
		{"so are its jobs", "GET", "/river/api/jobs?state=running", 200},
		{"and whether they are there", "HEAD", "/river/", 200},
		{"a queue can be paused", "PUT", "/river/api/queues/deliver/pause", 200},
		{"and resumed", "PUT", "/river/api/queues/deliver/resume", 200},
		{"a job can be run now", "POST", "/river/api/jobs/retry", 200},
		{"no job can be cancelled", "POST", "/river/api/jobs/cancel", 403},
		{"or deleted", "POST", "/river/api/jobs/delete", 403},
		{"nor by another way to write it", "POST", "/river/api/jobs/dele%74e", 403},
		{"no queue can be changed otherwise", "PATCH", "/river/api/queues/deliver", 405},
		{"nor deleted", "DELETE", "/river/api/queues/deliver", 405},
		{"a queue's name is not a way around", "POST", "/river/api/queues/x/pause", 405},
		{"nor is another path that ends so", "PUT", "/river/api/jobs/delete/api/queues/x/pause", 405},
		{"what is not known is refused", "POST", "/river/api/dead-letters/retry", 405},
	} {
		reached = 0
		w := httptest.NewRecorder()
		api.Admin().ServeHTTP(w, httptest.NewRequest(row.method, row.path, nil))
		if want := row.status == http.StatusOK; w.Code != row.status || (reached == 1) != want {
			t.Errorf("%s: %s %s: got %d and it was reached %d times, want %d", row.name, row.method, row.path, w.Code, reached, row.status)
		}
		if row.status != http.StatusOK && w.Header().Get("Content-Type") != problemMediaType {
			t.Errorf("%s: the refusal is %s", row.name, w.Header().Get("Content-Type"))
		}
	}
}
