package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tandem"
	"tandem/internal/callback"
	"tandem/internal/egress"
	"tandem/webhook"
	"tandem/work"
)

// Options say how an Engine works. The zero value of each means its default.
type Options struct {
	Workers          int           // slots for CPU-bound work; GOMAXPROCS
	IOConcurrency    int           // slots for waiting work; 512
	SyncQueueTimeout time.Duration // how long a sync caller waits for a slot; 2 s
	WorkTimeout      time.Duration // ends any work; 30 s

	Policy  callback.Policy // when to try a callback again, and how often
	PerHost int             // delivery attempts in flight to one host; 10

	// Paused: accept and store, but run no step and no sync work.
	Paused bool

	Logger  *slog.Logger
	Metrics prometheus.Registerer // nil: metrics are kept and not published
	Now     func() time.Time      // the wall clock; time.Now
	Jitter  func() float64        // spreads retries, from [0, 1); rand.Float64
}

func (o Options) withDefaults() (Options, error) {
	var faults []error
	for _, n := range []struct {
		field *int
		name  string
		zero  int
	}{
		{&o.Workers, "Workers", runtime.GOMAXPROCS(0)},
		{&o.IOConcurrency, "IOConcurrency", 512},
		{&o.PerHost, "PerHost", 10},
	} {
		if *n.field < 0 {
			faults = append(faults, fmt.Errorf("%s must not be negative, is %d", n.name, *n.field))
		}
		if *n.field == 0 {
			*n.field = n.zero
		}
	}
	for _, d := range []struct {
		field *time.Duration
		name  string
		zero  time.Duration
	}{
		{&o.SyncQueueTimeout, "SyncQueueTimeout", 2 * time.Second},
		{&o.WorkTimeout, "WorkTimeout", 30 * time.Second},
	} {
		if *d.field < 0 {
			faults = append(faults, fmt.Errorf("%s must not be negative, is %v", d.name, *d.field))
		}
		if *d.field == 0 {
			*d.field = d.zero
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Jitter == nil {
		o.Jitter = rand.Float64
	}
	return o, errors.Join(faults...)
}

// Engine carries requests through their life on a Backend. It is safe for
// concurrent use.
type Engine struct {
	opts     Options
	backend  Backend
	registry *work.Registry
	guard    *egress.Guard
	sender   *callback.Sender
	secrets  func(owner string) []webhook.Secret
	log      *slog.Logger

	lanes    map[string]*lane    // by the name of a work.Class
	limiters map[string]*limiter // of the sync requests, by the same
	hosts    hosts
	running  running
	// unwritten counts the sync requests whose outcome could not be written yet.
	unwritten atomic.Int64
	seen      *seen
	refusals  refusals // of a backlog that is full
	metrics   *metrics
	drained   chan struct{} // closed by Drain
	drain     sync.Once
	started   time.Time
}

// New returns an Engine that keeps its requests in backend, runs the work in
// registry, and signs the callbacks of each owner with its secrets. All faults
// in opts come back joined.
func New(backend Backend, registry *work.Registry, guard *egress.Guard, sender *callback.Sender, secrets func(owner string) []webhook.Secret, opts Options) (*Engine, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("engine options: %w", err)
	}
	e := &Engine{
		opts:     opts,
		backend:  backend,
		registry: registry,
		guard:    guard,
		sender:   sender,
		secrets:  secrets,
		log:      opts.Logger,
		lanes: map[string]*lane{
			work.CPU.String():   newLane(work.CPU, opts.Workers),
			work.Waits.String(): newLane(work.Waits, opts.IOConcurrency),
		},
		limiters: map[string]*limiter{
			work.CPU.String():   newLimiter(opts.Workers, opts.SyncQueueTimeout/4),
			work.Waits.String(): newLimiter(opts.IOConcurrency, opts.SyncQueueTimeout/4),
		},
		hosts:   newHosts(opts.PerHost),
		running: newRunning(),
		seen:    newSeen(opts.Now()),
		drained: make(chan struct{}),
		started: opts.Now(),
	}
	e.metrics = newMetrics(opts.Metrics, e)
	return e, nil
}

// Run takes up what is owed and works it until ctx ends, then waits for the
// steps that run. Halt cuts that wait short.
func (e *Engine) Run(ctx context.Context) error {
	if e.opts.Paused {
		<-ctx.Done()
		return nil
	}
	return e.backend.Run(ctx, e)
}

// Drain makes the engine refuse new requests from now on, with CodeDraining.
// What was accepted goes on; those who wait for it in Find wait no longer.
func (e *Engine) Drain() { e.drain.Do(func() { close(e.drained) }) }

func (e *Engine) draining() bool {
	select {
	case <-e.drained:
		return true
	default:
		return false
	}
}

// Halt stops the work and the attempts that run. Async requests go back to
// pending as if they had not been started; sync ones fail as interrupted.
func (e *Engine) Halt() { e.running.cancelAll(errHalted) }

// Ready returns nil if the engine can accept requests, else why not.
func (e *Engine) Ready(ctx context.Context) error {
	if e.draining() {
		return errDraining
	}
	for name, l := range e.lanes {
		if n := l.heldByAbandoned(); n > 0 {
			return &tandem.Error{
				Code:    tandem.CodeUnavailable,
				Message: fmt.Sprintf("%d slots for %s work are held by work that ignored its deadline; restart the service", n, name),
			}
		}
	}
	return e.backend.Ready(ctx)
}

// now returns the time as requests carry it: UTC, in whole microseconds.
func (e *Engine) now() time.Time { return e.opts.Now().UTC().Truncate(time.Microsecond) }

var (
	errHalted    = errors.New("the service is shutting down")
	errDraining  = &tandem.Error{Code: tandem.CodeDraining, Message: "the service is shutting down and takes no new requests", RetryAfter: 5 * time.Second}
	errPaused    = &tandem.Error{Code: tandem.CodeBusy, Message: "the service is paused: it accepts async requests and runs no work", RetryAfter: time.Minute}
	errUnwritten = &tandem.Error{Code: tandem.CodeUnavailable, Message: "storage cannot be written right now, and the outcomes of earlier requests wait for it", RetryAfter: 5 * time.Second}
	errSyncQueue = errors.New("no slot became free in time")
)
