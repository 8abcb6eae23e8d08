package engine

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tandem"
)

// metrics are the engine's Prometheus instruments.
type metrics struct {
	processing *prometheus.HistogramVec // by mode, outcome
	queue      *prometheus.HistogramVec // by mode
	attempts   *prometheus.CounterVec   // by outcome
	delivery   prometheus.Histogram

	// The label lookups of the hot path, done once.
	processed map[tandem.Mode]map[tandem.Status]prometheus.Observer
	queued    map[tandem.Mode]prometheus.Observer
}

var latencyBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

func newMetrics(reg prometheus.Registerer, e *Engine) *metrics {
	m := &metrics{
		processing: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tandem_processing_seconds", Help: "How long the work of a request ran.", Buckets: latencyBuckets,
		}, []string{"mode", "status"}),
		queue: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tandem_queue_seconds", Help: "How long a request waited before its work began.", Buckets: latencyBuckets,
		}, []string{"mode"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tandem_callback_attempts_total", Help: "Delivery attempts by outcome: sent, or the class of the error.",
		}, []string{"outcome"}),
		delivery: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tandem_callback_attempt_seconds", Help: "How long a delivery attempt took.", Buckets: latencyBuckets,
		}),
		processed: make(map[tandem.Mode]map[tandem.Status]prometheus.Observer),
		queued:    make(map[tandem.Mode]prometheus.Observer),
	}
	for _, mode := range tandem.Modes {
		m.queued[mode] = m.queue.WithLabelValues(string(mode))
		m.processed[mode] = make(map[tandem.Status]prometheus.Observer)
		for _, status := range []tandem.Status{tandem.Completed, tandem.Failed} {
			m.processed[mode][status] = m.processing.WithLabelValues(string(mode), string(status))
		}
	}
	reg.MustRegister(m.processing, m.queue, m.attempts, m.delivery, gauges{e})
	return m
}

func (m *metrics) worked(req *tandem.Request) {
	m.processed[req.Mode][req.Status].Observe(req.ProcessingTime().Seconds())
	m.queued[req.Mode].Observe(req.QueueTime().Seconds())
}

func (m *metrics) attempted(a tandem.Attempt) {
	outcome := string(a.Class)
	if a.Class == tandem.ClassNone {
		outcome = "sent"
	}
	m.attempts.WithLabelValues(outcome).Inc()
	m.delivery.Observe(a.Duration.Seconds())
}

// gauges are read when they are asked for.
type gauges struct{ e *Engine }

var (
	descDepth        = prometheus.NewDesc("tandem_queue_depth", "Accepted requests that may begin, and wait to be started.", nil, nil)
	descAge          = prometheus.NewDesc("tandem_queue_age_seconds", "How long the oldest of them waits.", nil, nil)
	descInFlight     = prometheus.NewDesc("tandem_in_flight", "Work and delivery attempts in progress.", nil, nil)
	descSlots        = prometheus.NewDesc("tandem_slots", "Slots for work.", []string{"lane"}, nil)
	descBusy         = prometheus.NewDesc("tandem_slots_busy", "Slots in use.", []string{"lane"}, nil)
	descAbandoned    = prometheus.NewDesc("tandem_abandoned_work", "Work that ignored its deadline and still runs.", []string{"lane"}, nil)
	descSyncLimit    = prometheus.NewDesc("tandem_sync_limit", "Sync requests that may be in flight; it follows their latency.", []string{"lane"}, nil)
	descSyncInFlight = prometheus.NewDesc("tandem_sync_in_flight", "Sync requests in flight, in slots or waiting for one.", []string{"lane"}, nil)
	descSyncRefused  = prometheus.NewDesc("tandem_sync_refused_total", "Sync requests that were refused because there were too many.", []string{"lane"}, nil)
	descBreaker      = prometheus.NewDesc("tandem_breaker_hosts", "Callback hosts with recent failures or attempts in flight, by breaker state.", []string{"state"}, nil)
)

func (g gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descDepth, descAge, descInFlight, descSlots, descBusy, descAbandoned, descSyncLimit, descSyncInFlight, descSyncRefused, descBreaker} {
		out <- d
	}
}

func (g gauges) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if depth, oldest, err := g.e.backend.Backlog(ctx); err == nil { // else: no figure rather than a wrong one
		age := time.Duration(0)
		if !oldest.IsZero() {
			age = max(0, g.e.opts.Now().Sub(oldest))
		}
		gauge(descDepth, float64(depth))
		gauge(descAge, age.Seconds())
	}
	gauge(descInFlight, float64(g.e.running.count()))
	for _, l := range g.e.laneStates() {
		gauge(descSlots, float64(l.Slots), l.Lane)
		gauge(descBusy, float64(l.Busy), l.Lane)
		gauge(descAbandoned, float64(l.Abandoned), l.Lane)
		gauge(descSyncLimit, float64(l.SyncLimit), l.Lane)
		gauge(descSyncInFlight, float64(l.SyncInFlight), l.Lane)
		out <- prometheus.MustNewConstMetric(descSyncRefused, prometheus.CounterValue, float64(l.SyncRefused), l.Lane)
	}
	for state, n := range g.e.hosts.byBreaker(g.e.opts.Now()) {
		gauge(descBreaker, float64(n), state)
	}
}
