package distributed

import (
	"fmt"
	"net/http"

	"riverqueue.com/riverui"
)

// Pages returns River's own pages and API, which show its jobs and queues, to be
// served under a path such as /river. They ask Postgres when somebody looks, and
// at no other time: River UI's counting in the background is not started, and
// states of more than 10,000 jobs are estimated.
//
// They are River UI, under the MPL-2.0; the module has its source.
//
// They can do all to a job that River can. No request is lost by that, see
// restore; but it is for whoever serves them to decide who may.
func (b *Backend) Pages(prefix string) (http.Handler, error) {
	pages, err := riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(b.insert, nil),
		Logger:    quiet(b.log),
		Prefix:    prefix,
	})
	if err != nil {
		return nil, fmt.Errorf("pages of the queue: %w", err)
	}
	return pages, nil
}
