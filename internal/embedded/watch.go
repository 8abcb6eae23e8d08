package embedded

import "sync"

// watchers are those who wait for a request to be worked.
type watchers struct {
	mu   sync.Mutex
	byID map[string]map[chan struct{}]struct{}
}

func newWatchers() watchers {
	return watchers{byID: make(map[string]map[chan struct{}]struct{})}
}

// Watch implements engine.Store.
func (b *Backend) Watch(id string) (worked <-chan struct{}, stop func()) {
	w := &b.watchers
	w.mu.Lock()
	defer w.mu.Unlock()
	ch := make(chan struct{})
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

// announce tells the watchers of a request that it is worked.
func (w *watchers) announce(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.byID[id] {
		close(ch)
	}
	delete(w.byID, id)
}
