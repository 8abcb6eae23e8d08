package loadtest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"tandem"
	"tandem/webhook"
)

// Options say against what and how a Spec is run. URL and Secret are required.
type Options struct {
	URL    string         // of the service, without a slash at its end
	Secret webhook.Secret // that the service signs callbacks with

	Timeout time.Duration // of one request; 60 s
	// Quiet is how long no callback may come before those of a burst are given
	// up for now; Drain is the same at the end of the run, for good.
	Quiet time.Duration // 10 s
	Drain time.Duration // 30 s

	// Usage reads what the service has used so far. Without it, or when it
	// fails, the Result has no Usage.
	Usage func() (Usage, error)
	// Progress is called every quarter of a second and at the end, from one
	// goroutine at a time.
	Progress func(Progress)
}

// Progress is how far a run is.
type Progress struct {
	Elapsed   time.Duration
	Planned   int
	Sent      int
	Answered  int // well or not
	Callbacks int // received and verified
	Done      bool
}

// Run sends what spec says and accounts for all of it. An error means that the
// run could not be begun. A run that ctx ends early is a Result, too: what was
// not sent is unsent.
func Run(ctx context.Context, spec Spec, opts Options) (*Result, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	r := &runner{
		opts:    opts,
		epoch:   time.Now(),
		samples: make([]sample, spec.Requests),
		usage:   map[tandem.Mode]*Usage{tandem.Sync: {}, tandem.Async: {}},
		busy:    map[tandem.Mode]time.Duration{},
		client: &http.Client{
			Transport:     &http.Transport{MaxIdleConnsPerHost: spec.Concurrency, DisableCompression: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	defer r.client.CloseIdleConnections()
	setDefault(&r.opts.Timeout, time.Minute)
	setDefault(&r.opts.Quiet, 10*time.Second)
	setDefault(&r.opts.Drain, 30*time.Second)

	service, err := r.askService(ctx)
	if err != nil {
		return nil, err
	}
	if r.receiver, err = newReceiver(spec.Requests, opts.Secret, rand.Text(), r.epoch); err != nil {
		return nil, err
	}
	defer r.receiver.close()

	bursts := plan(spec)
	stop := r.reportProgress(spec.Requests)
	for _, b := range bursts {
		if ctx.Err() != nil {
			break
		}
		r.burst(ctx, b)
	}
	r.receiver.await(ctx, r.unanswered(bursts), r.opts.Drain)
	stop()
	return r.result(spec, service, bursts), nil
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// runner is one run under way.
type runner struct {
	opts     Options
	epoch    time.Time
	client   *http.Client
	receiver *receiver

	samples        []sample // by seq; each is written by its sender alone
	sent, answered atomic.Int64

	usage    map[tandem.Mode]*Usage
	usageErr error
	busy     map[tandem.Mode]time.Duration
}

// now is run time: monotonic, from the beginning of the run, never zero.
func (r *runner) now() time.Duration { return max(time.Since(r.epoch), 1) }

// burst sends the requests of one burst at once, and returns when all of them
// are completed or given up for now.
func (r *runner) burst(ctx context.Context, b burst) {
	before, err := r.readUsage()
	r.usageErr = errors.Join(r.usageErr, err)
	start := r.now()

	var senders sync.WaitGroup
	for _, p := range b.posts {
		senders.Go(func() {
			r.sent.Add(1)
			r.samples[p.seq] = r.post(ctx, p)
			r.answered.Add(1)
		})
	}
	senders.Wait()
	end := r.now()
	if b.mode == tandem.Async {
		r.receiver.await(ctx, r.unanswered([]burst{b}), r.opts.Quiet)
		for _, p := range b.posts {
			if a, ok := r.receiver.arrived(p.seq); ok {
				end = max(end, a.verified)
			}
		}
	}
	r.busy[b.mode] += end - start

	after, err := r.readUsage()
	r.usageErr = errors.Join(r.usageErr, err)
	u := r.usage[b.mode]
	u.CPU += after.CPU - before.CPU
	u.PeakBytes = max(u.PeakBytes, after.PeakBytes)
	u.Bursts++
}

var errNoUsage = errors.New("the service's process is not known")

func (r *runner) readUsage() (Usage, error) {
	if r.usageErr != nil {
		return Usage{}, nil // one failure is enough: nothing will be reported
	}
	if r.opts.Usage == nil {
		return Usage{}, errNoUsage
	}
	return r.opts.Usage()
}

// unanswered returns the requests of these bursts that were accepted and whose
// callback has not arrived.
func (r *runner) unanswered(bursts []burst) []int {
	var seqs []int
	for _, b := range bursts {
		for _, p := range b.posts {
			if p.mode != tandem.Async || r.samples[p.seq].outcome != accepted {
				continue
			}
			if _, ok := r.receiver.arrived(p.seq); !ok {
				seqs = append(seqs, p.seq)
			}
		}
	}
	return seqs
}

// reportProgress calls Progress until the returned function is called, and
// then once more.
func (r *runner) reportProgress(planned int) (stop func()) {
	if r.opts.Progress == nil {
		return func() {}
	}
	report := func(done bool) {
		r.opts.Progress(Progress{
			Elapsed:   r.now(),
			Planned:   planned,
			Sent:      int(r.sent.Load()),
			Answered:  int(r.answered.Load()),
			Callbacks: r.receiver.callbacks().Verified,
			Done:      done,
		})
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(250 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				report(false)
			case <-done:
				report(true)
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}

// askService asks the service what it is, which also shows that it is there.
func (r *runner) askService(ctx context.Context) (Service, error) {
	var health struct {
		Backend string `json:"backend"`
		Durable bool   `json:"durable"`
	}
	var stats struct {
		System struct {
			Version string `json:"version"`
		} `json:"system"`
	}
	err := errors.Join(r.getJSON(ctx, "/healthz", &health), r.getJSON(ctx, "/stats", &stats))
	return Service{URL: r.opts.URL, Version: stats.System.Version, Backend: health.Backend, Durable: health.Durable}, err
}

func (r *runner) getJSON(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.opts.URL+path, nil)
	if err != nil {
		return err
	}
	answer, err := r.client.Do(request)
	if err != nil {
		return fmt.Errorf("ask the service: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the service: GET %s: %s", path, answer.Status)
	}
	if err := json.NewDecoder(answer.Body).Decode(into); err != nil {
		return fmt.Errorf("ask the service: GET %s: %w", path, err)
	}
	return nil
}
