package httpapi

import (
	"net/http"
	"strings"
)

// QueuePath is where operators see the queue.
const QueuePath = "/river"

// queuePolicy lets the pages of the queue load what is on this server. Their
// scripts write styles into the page; no script is in it.
const queuePolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// maxQueueBody bounds what is sent to the pages of the queue: up to a thousand
// ids of jobs.
const maxQueueBody = 64 << 10

// queue serves the pages of the queue.
func (a *API) queue(admin *http.ServeMux) {
	pages := http.MaxBytesHandler(a.opts.Queue, maxQueueBody)
	admin.HandleFunc(QueuePath+"/", func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, QueuePath)
		if refused := refusedByQueue(r.Method, path); refused != nil {
			refused.write(w)
			return
		}
		w.Header().Set("Content-Security-Policy", queuePolicy)
		if strings.HasPrefix(path, "/assets/") { // their names change with their content
			w.Header().Set("Cache-Control", "private, max-age=31536000, immutable")
		}
		pages.ServeHTTP(w, r)
	})
}

// refusedByQueue returns why an exchange is refused, nil if it is not. Whatever
// shows something is let through; of what changes something, what makes sense
// for a queue whose jobs only say that a request is to be looked at: to pause a
// queue and resume it, and to run a job now.
func refusedByQueue(method, path string) *Problem {
	queue, inQueues := strings.CutPrefix(path, "/api/queues/")
	switch {
	case method == http.MethodGet || method == http.MethodHead:
		return nil
	case method == http.MethodPut && inQueues && (strings.HasSuffix(queue, "/pause") || strings.HasSuffix(queue, "/resume")):
		return nil
	case method == http.MethodPost && path == "/api/jobs/retry":
		return nil
	case method == http.MethodPost && (path == "/api/jobs/cancel" || path == "/api/jobs/delete"):
		return newProblem(http.StatusForbidden, "forbidden", "",
			"a job is only the reason to look at its request, and would be made again: cancel the request, with DELETE /requests/{id} of the service")
	default:
		return newProblem(http.StatusMethodNotAllowed, "method_not_allowed", "", "the queue can be looked at, its queues paused and resumed, and its jobs run now; nothing else")
	}
}
