package httpapi

import (
	"context"
	"runtime"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"tandem"
	"tandem/internal/engine"
)

// Stats is the answer of GET /stats. What could not be measured is null, and so is
// what tells of the requests of others, to a caller who may not see them.
type Stats struct {
	RequestStatistics RequestStatistics `json:"request_statistics"`
	CallbackService   CallbackService   `json:"callback_service"`
	RateLimiting      RateLimiting      `json:"rate_limiting"`
	Errors            Errors            `json:"errors" doc:"Errors by category since the database was made"`
	System            System            `json:"system"`
}

// RequestStatistics counts the requests that are kept: all since the database
// was made, less those deleted by age. Latencies and throughput are of this
// process and of late.
type RequestStatistics struct {
	TotalRequests     int64            `json:"total_requests"`
	PrunedRequests    int64            `json:"pruned_requests" doc:"Deleted since the database was made because they were old; in none of the other counts"`
	SyncRequests      int64            `json:"sync_requests"`
	AsyncRequests     int64            `json:"async_requests"`
	CompletedRequests int64            `json:"completed_requests" doc:"Worked without failure, whatever became of the callback"`
	FailedRequests    int64            `json:"failed_requests"`
	ByStatus          map[string]int64 `json:"by_status"`
	SuccessRate       *float64         `json:"success_rate" doc:"Worked without failure / all worked; null if none is"`
	SyncAvgMS         *float64         `json:"sync_avg_processing_time_ms"`
	AsyncAvgMS        *float64         `json:"async_avg_processing_time_ms"`

	WindowSeconds  float64               `json:"window_seconds" doc:"How far back the latencies look: ten minutes, or since the start"`
	ProcessingTime map[string]*Latencies `json:"processing_time_ms" doc:"By mode; null if there was none"`
	QueueTime      map[string]*Latencies `json:"queue_time_ms" doc:"By mode; null if there was none"`
	PerSecond      map[string]*PerSecond `json:"throughput_per_second" doc:"Requests worked, by mode, over the last minute or since the start; null without an admin key"`
}

// Latencies are percentiles over N samples, to two significant digits.
type Latencies struct {
	N   int64   `json:"n"`
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

// TransformSchema implements huma.SchemaTransformer: wherever Latencies stand,
// they may be null.
func (*Latencies) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	s.Nullable = true
	return s
}

// PerSecond is a rate.
type PerSecond float64

// TransformSchema implements huma.SchemaTransformer: a rate may be null.
func (*PerSecond) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	s.Nullable = true
	return s
}

// CallbackService is how deliveries fare.
type CallbackService struct {
	Delivered    int64        `json:"delivered"`
	Failed       int64        `json:"failed" doc:"Given up"`
	Pending      int64        `json:"pending" doc:"Owed: the request is worked, the receiver has not answered 2xx yet"`
	DeliveryRate *float64     `json:"delivery_rate" doc:"Delivered / (delivered + failed); null if none is either"`
	Lag          *Latencies   `json:"lag_ms" doc:"From the end of the work to the receiver's 2xx; null if there was none of late"`
	Hosts        []HostRecord `json:"hosts" doc:"Hosts with attempts in flight or recent failures, at most 100; null without an admin key"`
}

// HostRecord is one callback host.
type HostRecord struct {
	Host     string `json:"host"`
	Breaker  string `json:"breaker" enum:"closed,open,half_open"`
	InFlight int    `json:"in_flight"`
}

// RateLimiting is how the limit of POST requests fares: for callers without a
// rate of their own, and in the counts for all.
type RateLimiting struct {
	Enabled       bool    `json:"enabled"`
	Limit         int     `json:"limit" doc:"Requests in a window; 0 if there is no limit"`
	WindowSeconds float64 `json:"window_seconds"`
	Allowed       *int64  `json:"allowed" doc:"null without an admin key"`
	Refused       *int64  `json:"refused" doc:"null without an admin key"`
	Clients       *int    `json:"clients" doc:"Clients kept in mind; null without an admin key"`
}

// Errors counts by category.
type Errors struct {
	Work     map[string]int64 `json:"work"`
	Callback map[string]int64 `json:"callback" doc:"Failed attempts, later ones that succeeded or not"`
}

// System is the process itself.
type System struct {
	UptimeSeconds float64      `json:"uptime_seconds"`
	Version       string       `json:"version"`
	Go            string       `json:"go"`
	Backend       string       `json:"backend"`
	Durable       bool         `json:"durable"`
	InFlight      *int         `json:"in_flight" doc:"Work and delivery attempts in progress; null without an admin key"`
	QueueDepth    *int         `json:"queue_depth" doc:"Accepted requests that wait to be started; null without an admin key"`
	Lanes         []LaneRecord `json:"lanes" doc:"The slots for each class of work; null without an admin key"`
	Timestamp     time.Time    `json:"timestamp"`
}

// LaneRecord is the slots for one class of work.
type LaneRecord struct {
	Lane         string `json:"lane" enum:"cpu,io"`
	Slots        int    `json:"slots"`
	Busy         int    `json:"busy"`
	Abandoned    int    `json:"abandoned" doc:"Work that ignored its deadline and still runs"`
	SyncLimit    int    `json:"sync_limit" doc:"Sync requests that may be in flight, in slots or waiting for one; it follows their latency"`
	SyncInFlight int    `json:"sync_in_flight"`
	SyncRefused  int64  `json:"sync_refused" doc:"Sync requests refused since the start, because there were too many"`
}

// stats answers GET /stats. To a caller without an admin key it tells of its own
// requests.
func (a *API) stats(ctx context.Context, in *struct{ exchange }) (*struct{ Body Stats }, error) {
	s, err := a.engine.Stats(ctx, caller(ctx))
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	answer := Stats{
		RequestStatistics: requestStatistics(&s),
		CallbackService:   callbackService(&s),
		RateLimiting:      RateLimiting{Enabled: a.opts.Rate.N > 0, Limit: a.opts.Rate.N, WindowSeconds: a.opts.Rate.Window.Seconds()},
		Errors:            errorsByCategory(&s),
		System: System{
			UptimeSeconds: s.Uptime.Seconds(),
			Version:       a.opts.Version,
			Go:            runtime.Version(),
			Backend:       s.Backend,
			Durable:       s.Durable,
			Timestamp:     time.Now().UTC(),
		},
	}
	if s.Activity != nil {
		allowed, refused, clients := a.rates.counts()
		limits, system := &answer.RateLimiting, &answer.System
		limits.Allowed, limits.Refused, limits.Clients = &allowed, &refused, &clients
		system.InFlight, system.QueueDepth, system.Lanes = &s.InFlight, &s.Backlog, laneRecords(s.Activity)
	}
	return &struct{ Body Stats }{answer}, nil
}

func requestStatistics(s *engine.Stats) RequestStatistics {
	r := RequestStatistics{
		ByStatus:       make(map[string]int64),
		WindowSeconds:  min(engine.Window, s.Uptime).Seconds(),
		ProcessingTime: make(map[string]*Latencies),
		QueueTime:      make(map[string]*Latencies),
		PerSecond:      make(map[string]*PerSecond),
	}
	for _, status := range tandem.Statuses {
		r.ByStatus[string(status)] = 0
	}
	total, worked := make(map[tandem.Mode]int64), make(map[tandem.Mode]int64)
	processing := make(map[tandem.Mode]time.Duration)
	for _, c := range s.Counts.Requests {
		r.ByStatus[string(c.Status)] += c.N
		total[c.Mode] += c.N
		if c.Status.Worked() {
			worked[c.Mode] += c.N
			processing[c.Mode] += c.Processing
		}
		if c.Status.Succeeded() {
			r.CompletedRequests += c.N
		}
	}
	r.SyncRequests, r.AsyncRequests = total[tandem.Sync], total[tandem.Async]
	r.TotalRequests = r.SyncRequests + r.AsyncRequests
	r.PrunedRequests = s.Counts.Pruned
	r.FailedRequests = r.ByStatus[string(tandem.Failed)]
	r.SuccessRate = ratio(float64(r.CompletedRequests), r.CompletedRequests+r.FailedRequests)
	r.SyncAvgMS = ratio(engine.Milliseconds(processing[tandem.Sync]), worked[tandem.Sync])
	r.AsyncAvgMS = ratio(engine.Milliseconds(processing[tandem.Async]), worked[tandem.Async])
	for _, mode := range tandem.Modes {
		r.ProcessingTime[string(mode)], r.QueueTime[string(mode)], r.PerSecond[string(mode)] = nil, nil, nil
		if s.Activity != nil {
			r.ProcessingTime[string(mode)] = latencies(s.Processing[mode])
			r.QueueTime[string(mode)] = latencies(s.Queue[mode])
			r.PerSecond[string(mode)] = new(PerSecond(s.PerSecond[mode]))
		}
	}
	return r
}

func callbackService(s *engine.Stats) CallbackService {
	var c CallbackService
	for _, n := range s.Counts.Requests {
		switch {
		case n.Callback == tandem.CallbackDelivered:
			c.Delivered += n.N
		case n.Callback == tandem.CallbackGivenUp:
			c.Failed += n.N
		case n.Callback == tandem.CallbackPending && n.Status.Worked():
			c.Pending += n.N
		}
	}
	c.DeliveryRate = ratio(float64(c.Delivered), c.Delivered+c.Failed)
	if s.Activity != nil {
		c.Lag, c.Hosts = latencies(s.Lag), []HostRecord{}
		for _, h := range s.Hosts {
			c.Hosts = append(c.Hosts, HostRecord{h.Host, h.Breaker, h.InFlight})
		}
	}
	return c
}

func laneRecords(a *engine.Activity) []LaneRecord {
	records := []LaneRecord{}
	for _, l := range a.Lanes {
		records = append(records, LaneRecord(l))
	}
	return records
}

func errorsByCategory(s *engine.Stats) Errors {
	e := Errors{Work: make(map[string]int64), Callback: make(map[string]int64)}
	for _, n := range s.Counts.Errors {
		if n.Source == "work" {
			e.Work[n.Category] += n.N
		} else {
			e.Callback[n.Category] += n.N
		}
	}
	return e
}

func latencies(p engine.Percentiles) *Latencies {
	if p.N == 0 {
		return nil
	}
	return &Latencies{p.N, engine.Milliseconds(p.P50), engine.Milliseconds(p.P95), engine.Milliseconds(p.P99)}
}

// ratio is a/n, or null if n is zero.
func ratio(a float64, n int64) *float64 {
	if n == 0 {
		return nil
	}
	return new(a / float64(n))
}
