package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// observed gives every exchange an id, logs it in one line and counts it.
func (a *API) observed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		seen := &observation{ResponseWriter: w, id: r.Header.Get("X-Request-ID")}
		if !plainID(seen.id) {
			seen.id = newExchangeID()
		}
		w.Header().Set("X-Request-ID", seen.id)
		r = r.WithContext(context.WithValue(r.Context(), observationKey{}, seen))
		defer func() { a.seen(seen, r, time.Since(start)) }()
		next.ServeHTTP(seen, r)
	})
}

// seen writes the line of an exchange that was answered, or cut off, and counts it.
func (a *API) seen(o *observation, r *http.Request, took time.Duration) {
	if o.status == 0 {
		o.status = http.StatusOK
	}
	a.metrics.observe(r.Pattern, o.status, took)
	attrs := [7]slog.Attr{
		slog.String("method", r.Method),
		slog.String("path", r.URL.Path),
		slog.Int("status", o.status),
		slog.Float64("ms", float64(took.Microseconds())/1000),
		slog.String("remote", r.RemoteAddr),
		slog.String("id", o.id),
		slog.String("request_id", o.requestID),
	}
	n := len(attrs)
	if o.requestID == "" {
		n--
	}
	a.log.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs[:n]...)
}

// observation is what is learnt of an exchange while it is answered.
type observation struct {
	http.ResponseWriter
	id        string // of the exchange
	requestID string // of the tandem request it is about, if any
	status    int
}

type observationKey struct{}

// note tells the log which request the exchange is about.
func note(ctx context.Context, requestID string) {
	if seen, ok := ctx.Value(observationKey{}).(*observation); ok {
		seen.requestID = requestID
	}
}

func (o *observation) WriteHeader(status int) {
	if o.status == 0 && status >= 200 {
		o.status = status
	}
	o.ResponseWriter.WriteHeader(status)
}

func (o *observation) Write(b []byte) (int, error) {
	if o.status == 0 {
		o.status = http.StatusOK
	}
	return o.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (o *observation) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// recovered turns a panic into a 500 and keeps its stack in the log.
func (a *API) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p != http.ErrAbortHandler {
				a.log.Error("a handler panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			}
			if seen, ok := w.(*observation); p == http.ErrAbortHandler || ok && seen.status != 0 {
				panic(http.ErrAbortHandler) // cut off, an answer that broke off does not look whole
			}
			newProblem(http.StatusInternalServerError, "internal", "", "something went wrong on our side; the log has the reason").write(w)
		}()
		next.ServeHTTP(w, r)
	})
}

// plainID reports whether a client's id for the exchange is fit for our log.
func plainID(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func newExchangeID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// httpMetrics are the instruments of the HTTP face.
type httpMetrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	cache    sync.Map // seriesKey -> *series: label lookups done once
}

type seriesKey struct {
	pattern string
	status  int
}

type series struct {
	requests prometheus.Counter
	seconds  prometheus.Observer
}

func newHTTPMetrics(reg prometheus.Registerer) *httpMetrics {
	m := &httpMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tandem_http_requests_total", Help: "HTTP requests by route, mode and status.",
		}, []string{"route", "mode", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tandem_http_request_seconds", Help: "How long answers took, by route and mode.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"route", "mode"}),
	}
	reg.MustRegister(m.requests, m.seconds)
	return m
}

func (m *httpMetrics) observe(pattern string, status int, took time.Duration) {
	key := seriesKey{pattern, status}
	s, ok := m.cache.Load(key)
	if !ok {
		mode := ""
		switch pattern {
		case "POST /sync":
			mode = "sync"
		case "POST /async":
			mode = "async"
		}
		s, _ = m.cache.LoadOrStore(key, &series{
			requests: m.requests.WithLabelValues(pattern, mode, strconv.Itoa(status)),
			seconds:  m.seconds.WithLabelValues(pattern, mode),
		})
	}
	s.(*series).requests.Inc()
	s.(*series).seconds.Observe(took.Seconds())
}
