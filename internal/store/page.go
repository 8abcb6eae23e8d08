package store

import (
	"tandem"
	"tandem/internal/engine"
)

// Pager fills a page of the history with the rows that are read, the newest first.
type Pager struct {
	engine.Page
	limit, weight int
	last          int64 // the seq of the last request on the page
}

// NewPager begins a page of at most limit requests.
func NewPager(limit int) *Pager {
	return &Pager{Page: engine.Page{Requests: []tandem.Request{}}, limit: limit}
}

// Add puts the next request on the page. If the page has what it can hold it notes
// instead that another begins with the request, and returns false.
func (p *Pager) Add(req *tandem.Request) bool {
	if len(p.Requests) == p.limit || p.weight >= engine.MaxPage {
		p.Next = Cursor(p.last)
		return false
	}
	p.Requests = append(p.Requests, *req)
	p.weight += engine.Weight(req)
	p.last = req.Seq
	return true
}
