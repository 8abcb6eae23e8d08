package engine

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"tandem"
)

// seen is what this process has seen lately: the latencies of the last ten
// minutes and the requests worked in the last minute. It starts empty with the
// process; what is counted for ever is in the Store's counters.
type seen struct {
	began      time.Time
	processing map[tandem.Mode]*window
	queue      map[tandem.Mode]*window
	lag        *window // from worked to delivered
	worked     map[tandem.Mode]*meter
}

// Window is how far back Percentiles look.
const Window = 10 * time.Minute

func newSeen(now time.Time) *seen {
	s := &seen{
		began:      now,
		processing: make(map[tandem.Mode]*window),
		queue:      make(map[tandem.Mode]*window),
		lag:        &window{},
		worked:     make(map[tandem.Mode]*meter),
	}
	for _, mode := range tandem.Modes {
		s.processing[mode], s.queue[mode], s.worked[mode] = &window{}, &window{}, &meter{}
	}
	return s
}

// seenWorked notes how long a request has waited and run. One that was stopped
// before it ran has no part in the figures.
func (e *Engine) seenWorked(req *tandem.Request) {
	if req.StartedAt.IsZero() {
		return
	}
	now := e.opts.Now()
	e.seen.processing[req.Mode].add(now, req.ProcessingTime())
	e.seen.queue[req.Mode].add(now, req.QueueTime())
	e.seen.worked[req.Mode].add(now)
	e.metrics.worked(req)
}

func (e *Engine) seenAttempt(req *tandem.Request, a tandem.Attempt) {
	if req.Callback.State == tandem.CallbackDelivered {
		end := a.At.Add(a.Duration)
		e.seen.lag.add(e.opts.Now(), end.Sub(req.WorkedAt))
	}
	e.metrics.attempted(a)
}

// Percentiles sum up a window. They are exact to two significant digits, and
// meaningless when N is zero.
type Percentiles struct {
	N             int64
	P50, P95, P99 time.Duration
}

// window keeps the durations of the last ten minutes in a histogram a minute.
type window struct {
	mu      sync.Mutex
	minutes [11]minute // the one under way and ten whole ones before it
}

type minute struct {
	at   int64 // minutes since 1970
	hist *hdrhistogram.Histogram
}

func (w *window) add(now time.Time, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := now.Unix() / 60
	m := &w.minutes[at%int64(len(w.minutes))]
	if m.hist == nil {
		m.hist = newHistogram()
	}
	if m.at != at {
		m.at = at
		m.hist.Reset()
	}
	// Out of range only beyond the highest trackable value, and clamped to it.
	_ = m.hist.RecordValue(min(max(d.Microseconds(), 0), highestMicros))
}

func (w *window) percentiles(now time.Time) Percentiles {
	w.mu.Lock()
	defer w.mu.Unlock()
	sum := newHistogram()
	oldest := now.Unix()/60 - int64(Window/time.Minute)
	for _, m := range w.minutes {
		if m.hist != nil && m.at >= oldest {
			sum.Merge(m.hist)
		}
	}
	at := func(q float64) time.Duration {
		return time.Duration(sum.ValueAtQuantile(q)) * time.Microsecond
	}
	return Percentiles{N: sum.TotalCount(), P50: at(50), P95: at(95), P99: at(99)}
}

const highestMicros = int64(24 * time.Hour / time.Microsecond)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, highestMicros, 2) }

// meter counts events by the second, over the last minute.
type meter struct {
	mu      sync.Mutex
	seconds [61]struct{ at, n int64 }
}

func (m *meter) add(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := now.Unix()
	s := &m.seconds[at%int64(len(m.seconds))]
	if s.at != at {
		s.at, s.n = at, 0
	}
	s.n++
}

// perSecond returns the mean rate over the last whole minute, or over the time
// since began if that is shorter.
func (m *meter) perSecond(now, began time.Time) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	sum := int64(0)
	for _, s := range m.seconds {
		if s.at < now.Unix() && s.at >= now.Unix()-60 {
			sum += s.n
		}
	}
	return float64(sum) / min(60, max(1, now.Sub(began).Seconds()))
}

// busiest returns the most that any whole second of the last n had.
func (m *meter) busiest(now time.Time, n int64) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	most := int64(0)
	for _, s := range m.seconds {
		if s.at < now.Unix() && s.at >= now.Unix()-n {
			most = max(most, s.n)
		}
	}
	return most
}
