package distributed

import "sync"

// watchers are those in this process who wait for a request to be worked.
type watchers struct {
	mu   sync.Mutex
	byID map[string]map[chan struct{}]struct{}
}

func newWatchers() watchers {
	return watchers{byID: make(map[string]map[chan struct{}]struct{})}
}

// Watch implements engine.Store. A request that another process works is
// reported by that one's signal, or by a look at its row should that be lost.
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

// announce tells everybody that a request is worked.
func (b *Backend) announce(id string) {
	b.watchers.tell(id)
	b.signals.tell(workedSignal, id)
}

// tell tells the watchers of a request that it is worked.
func (w *watchers) tell(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.byID[id] {
		close(ch)
	}
	delete(w.byID, id)
}

// ids returns the requests that are watched.
func (w *watchers) ids() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]string, 0, len(w.byID))
	for id := range w.byID {
		all = append(all, id)
	}
	return all
}
