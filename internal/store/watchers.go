package store

import "sync"

// Watchers are those in this process who wait for a request to be worked. The
// zero value is empty; its methods may be called at once.
type Watchers struct {
	mu   sync.Mutex
	byID map[string]map[chan struct{}]struct{}
}

// Watch returns a channel that is closed when the request is next worked. stop
// frees what the watch holds; it may be called more than once.
func (w *Watchers) Watch(id string) (worked <-chan struct{}, stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := make(chan struct{})
	if w.byID == nil {
		w.byID = make(map[string]map[chan struct{}]struct{})
	}
	if w.byID[id] == nil {
		w.byID[id] = make(map[chan struct{}]struct{})
	}
	w.byID[id][ch] = struct{}{}
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.byID[id], ch)
		if len(w.byID[id]) == 0 {
			delete(w.byID, id)
		}
	}
}

// Tell tells the watchers of a request that it is worked.
func (w *Watchers) Tell(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.byID[id] {
		close(ch)
	}
	delete(w.byID, id)
}

// IDs returns the requests that are watched, in any order.
func (w *Watchers) IDs() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]string, 0, len(w.byID))
	for id := range w.byID {
		all = append(all, id)
	}
	return all
}
