package loadtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"tandem"
	"tandem/internal/target"
)

// Options say against what and how a Spec is run. URL is required, and Secret
// unless outcomes are polled for or callbacks are not signed.
type Options struct {
	URL    string         // of the service
	Target *target.Target // what its API looks like; Tandem's
	Secret target.Secret  // that callbacks are verified with

	Completion      Completion // how outcomes are learned; Callback
	CallbackAddress string     // to listen on for callbacks; 127.0.0.1:0
	CallbackURL     string     // base URL that reaches it from the service; http:// and the address

	Timeout time.Duration // of one request; 60 s
	// Drain is how long a closed-model caller waits for its callback, and how
	// long no callback may come at the end of a run before the rest are given
	// up; 30 s.
	Drain time.Duration
	// Considerate has a closed run keep to the rate limits that the service
	// announces, so that none of its requests need be refused.
	Considerate bool
	// SLOs are judged at the end.
	SLOs []SLO

	// Progress is called every quarter of a second and at the end, from one
	// goroutine at a time.
	Progress func(Progress)

	throttle *throttle // if Considerate

	// For tests: hinder slows the pacer, to see what is said of it, and calibration
	// is taken for the generator's, so that not every run floods the machine first.
	hinder      func()
	calibration *calibration
}

// Completion is how the outcome of an accepted request is learned.
type Completion string

const (
	Callback Completion = "callback" // the service calls back
	Poll     Completion = "poll"     // it is asked
)

func (o *Options) setDefaults() {
	if o.Target == nil {
		o.Target = target.Tandem()
	}
	if o.Completion == "" {
		o.Completion = Callback
	}
	if o.CallbackAddress == "" {
		o.CallbackAddress = "127.0.0.1:0"
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.Drain == 0 {
		o.Drain = 30 * time.Second
	}
	if o.Considerate {
		o.throttle = newThrottle()
	}
}

// What can be wrong before a run begins.
var (
	ErrUnreachable = errors.New("the service cannot be reached")
	ErrListen      = errors.New("cannot listen for callbacks")
	ErrNotTandem   = errors.New("what answers is not a Tandem service; describe another API in a target file")
)

// Run sends what spec says and accounts for all of it. An error means that the
// run could not be begun. A run that ctx ends early is a Result, too: what was
// not sent is unsent.
func Run(ctx context.Context, spec Spec, opts Options) (*Result, error) {
	l, err := openLab(ctx, spec, opts)
	if err != nil {
		return nil, err
	}
	defer l.close()
	result, _, err := l.run(ctx, spec)
	return result, err
}

// lab is what the runs of one measurement share: the service, the receiver and
// what is known of the generator.
type lab struct {
	opts     Options
	service  Service
	process  process
	receiver *receiver
	calibration
}

// openLab looks whether the service is there, listens for callbacks and measures
// the generator: all that can go wrong before any load is sent.
func openLab(ctx context.Context, spec Spec, opts Options) (*lab, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	isTandem := opts.Target == nil
	opts.setDefaults()
	l := &lab{opts: opts, receiver: &receiver{target: opts.Target, secret: opts.Secret}}
	var err error
	if l.service, l.process, err = opts.askService(ctx, isTandem); err != nil {
		return nil, err
	}
	if opts.Completion == Callback && spec.SyncRatio < 1 {
		if err := l.receiver.start(opts.CallbackAddress, opts.CallbackURL); err != nil {
			return nil, err
		}
	}
	if opts.calibration != nil {
		l.calibration = *opts.calibration
		return l, nil
	}
	if l.calibration, err = calibrate(ctx, spec); err != nil {
		l.close()
		return nil, fmt.Errorf("calibrate the generator: %w", err)
	}
	return l, nil
}

func (l *lab) close() { l.receiver.close() }

// run is one run under way.
type run struct {
	id       string
	spec     Spec
	opts     Options
	target   *target.Target
	receiver *receiver
	epoch    time.Time

	client, poller *client
	recorder       *recorder
	observer       *observer
	book           *book
	received       received

	planned, unsent [2]int
	refusals        [2]atomic.Pointer[refusal] // the first of each arm
	saturated       int
	gaveUp          atomic.Int64 // requests whose outcome was not waited for longer than Options.Drain
	overlong        atomic.Int64 // those of them that are known to have been under way still
	polling         atomic.Int64
	unpolled        atomic.Pointer[refusal] // the last poll for the first request that was polled for in vain
	missing         missing
	window          [2]time.Duration
	usage           [2]*Usage
}

// now is run time: monotonic, from the beginning of the run, never zero.
func (r *run) now() time.Duration { return max(time.Since(r.epoch), 1) }

// A run that is ended waits so long for answers under way. What was posted must be
// accounted for; but a poll may be held until there is an outcome.
const (
	farewell        = 5 * time.Second
	farewellOfPolls = time.Second
)

// lead is the time from the beginning of a run to that of its load.
const lead = 10 * time.Millisecond

// run sends what spec says. It returns the blocks of a closed run, too.
func (l *lab) run(ctx context.Context, spec Spec) (*Result, []Block, error) {
	r := &run{id: rand.Text(), spec: spec, opts: l.opts, target: l.opts.Target, receiver: l.receiver, epoch: time.Now()}
	var err error
	if r.client, err = newClient(l.opts.URL, l.opts.Timeout, r.now); err != nil {
		return nil, nil, err
	}
	if r.poller, err = newClient(l.opts.URL, l.opts.Timeout, r.now); err != nil {
		return nil, nil, err
	}
	defer r.client.close()
	defer r.poller.close()
	defer context.AfterFunc(ctx, func() {
		r.client.closeIn(farewell)
		r.poller.closeIn(farewellOfPolls)
	})()
	r.book = &book{arrival: make(chan struct{}, 1), noted: r.received.arrived, completed: r.completed}
	l.receiver.run.Store(r)
	defer l.receiver.run.Store(nil)

	window := time.Duration(0)
	if spec.Open() {
		window = lead + spec.Duration
	}
	r.recorder = newRecorder(window)
	r.observer = r.observe(l.process)
	var blocks []Block
	if spec.Open() {
		r.openModel(ctx)
	} else {
		blocks = r.closedModel(ctx)
	}
	r.book.await(l.opts.Drain, ctx.Done())
	r.book.close(&r.missing)
	r.observer.stop()
	return r.result(l, ctx.Err() != nil), blocks, nil
}

// openModel sends every request when it is due.
func (r *run) openModel(ctx context.Context) {
	for p := range r.spec.schedule() {
		r.planned[p.arm]++
	}
	r.observer.planned.Store(int64(r.planned[0] + r.planned[1]))
	due := make(chan planned)
	var workers sync.WaitGroup
	running, most := 0, MaxConcurrency
	if r.spec.Concurrency > 0 {
		most = r.spec.Concurrency
	}
	unsent := pace(ctx, r.spec, lead, r.now, func(p planned) {
		if r.opts.hinder != nil {
			r.opts.hinder()
		}
		select {
		case due <- p: // to a worker that waits
			return
		default:
		}
		switch {
		case running < most:
			running++
			workers.Go(func() {
				free := time.Duration(0)
				for ok := true; ok; p, ok = <-due {
					p.free = free
					r.send(ctx, p, nil)
					if r.spec.Concurrency > 0 {
						free = r.now()
					}
				}
			})
		case r.spec.Concurrency > 0: // as was asked for: what is due waits until the service has answered
			select {
			case due <- p:
			case <-ctx.Done():
				r.unsent[p.arm]++
			}
		default:
			r.saturated++
			r.unsent[p.arm]++
		}
	})
	close(due)
	workers.Wait()
	for arm := range r.unsent {
		r.unsent[arm] += unsent[arm]
		r.window[arm] = r.spec.Duration
	}
}

// closedModel takes the turns one after the other.
func (r *run) closedModel(ctx context.Context) (measured []Block) {
	plan := r.spec.turns()
	for _, t := range plan {
		r.planned[t.arm] += t.to - t.from
	}
	r.observer.planned.Store(int64(r.planned[0] + r.planned[1]))
	for _, t := range plan {
		r.observer.cut()
		start := r.now()
		r.unsent[t.arm] += r.take(ctx, t)
		took := r.now() - start
		measured = append(measured, r.observer.cutBlock(t, start, took))
		r.window[t.arm] += took
		r.usage[t.arm] = r.usage[t.arm].plus(r.observer.blockMeter.Load().used(took))
	}
	r.recorder.endWindow(r.now())
	return measured
}

// take has each caller hold one request until it is completed, or given up,
// and then take the next. It returns how many were not sent.
func (r *run) take(ctx context.Context, t turn) (unsent int) {
	var taken atomic.Int64
	var callers sync.WaitGroup
	size := t.to - t.from
	for range min(r.spec.Concurrency, size) {
		callers.Go(func() {
			settled := make(chan struct{}, 1)
			patience := time.NewTimer(r.opts.Drain)
			defer patience.Stop()
			for {
				grant, ok := r.opts.throttle.wait(ctx)
				if !ok {
					return
				}
				n := int(taken.Add(1)) - 1
				if n >= size {
					r.opts.throttle.giveBack()
					return
				}
				p := planned{arm: t.arm, mode: t.mode, seq: t.from + n, at: r.now(), grant: grant}
				if p.mode == tandem.Sync || r.opts.Completion == Poll {
					r.send(ctx, p, nil)
					continue
				}
				givenUp := false
				if r.send(ctx, p, settled) {
					patience.Reset(r.opts.Drain)
					select {
					case <-settled:
						continue
					case <-patience.C:
						givenUp = true
					case <-ctx.Done():
					}
				}
				if told := r.book.unwatch(p.seq, givenUp); told {
					<-settled
				} else if givenUp {
					r.gaveUp.Add(1)
				}
			}
		})
	}
	callers.Wait()
	return size - min(size, int(taken.Load()))
}

// result joins what was recorded.
func (r *run) result(l *lab, interrupted bool) *Result {
	took := r.now()
	total := r.observer.total
	result := &Result{
		Spec:     r.spec,
		Started:  r.epoch.UTC().Round(0),
		Duration: took,
		Service:  l.service,
		Sync:     Arm{Mode: tandem.Sync, Usage: r.usage[0]},
		Async:    Arm{Mode: tandem.Async, Usage: r.usage[1]},
		Generator: Generator{
			Lag: total.lag, Ceiling: l.ceiling, NoiseFloor: l.floor,
			Usage: r.observer.generator.used(took), Saturated: r.saturated,
		},
		Series: r.observer.series,
	}
	if r.spec.AA {
		result.Async.Mode = tandem.Sync
	}
	result.Service.Usage = r.observer.service.used(took)
	for i, arm := range []*Arm{&result.Sync, &result.Async} {
		total.arms[i].fill(arm)
		arm.Ledger.Planned, arm.Ledger.Unsent = r.planned[i], r.unsent[i]
		arm.Window = r.window[i]
		if first := r.refusals[i].Load(); first != nil {
			result.Warnings = append(result.Warnings, fmt.Sprintf("The first %s request that was not taken was %v.", arm.Mode, first))
		}
	}
	if first := r.unpolled.Load(); first != nil {
		result.Warnings = append(result.Warnings, fmt.Sprintf("The first accepted request that was polled for in vain was last %v.", first))
	}
	result.Callbacks = r.received.soFar()
	result.Callbacks.Lag, result.Callbacks.Verification = total.callbackLag, total.verification
	result.Callbacks.MissingIDs = r.missing.ids
	async := &result.Async
	if async.Ledger.Missing = r.missing.count; r.missing.count > 0 {
		async.Errors[CategoryMissing] = r.missing.count
	}
	if n := result.Callbacks.Refused(); n > 0 {
		async.Errors[CategoryBadSignature] = n
	}
	result.judge(r.opts.SLOs)
	r.judgePatience(result)
	if interrupted {
		result.Void = append(result.Void, "It was interrupted before its end.")
	}
	return result
}

// judgePatience says what it means that an outcome was not waited for any longer.
// In a closed run, nothing is known of a request whose outcome never came; but one
// that was still under way was one more than the callers there were.
func (r *run) judgePatience(result *Result) {
	if n := r.gaveUp.Load(); n > 0 {
		result.Warnings = append(result.Warnings, fmt.Sprintf(
			"Requests that were given up, because their outcome had not come %v (--drain) after they were accepted: %d.", r.opts.Drain, n))
	}
	n := r.overlong.Load()
	switch {
	case n == 0:
	case r.spec.Open():
		result.Warnings = append(result.Warnings, fmt.Sprintf(
			"Of those that were given up, still under way: %d. They count as missing, and may have been completed later; give them longer with --drain.", n))
	default:
		result.Void = append(result.Void, fmt.Sprintf(
			"Requests that were still under way when their callers gave them up after %v and went on: %d. So more than %d were outstanding, and the model was not closed; give them longer with --drain.",
			r.opts.Drain, n, r.spec.Concurrency))
	}
}

// Complete returns an error that says what of the Result is not as promised: a
// ledger that does not balance, or callbacks that did not come.
func (r *Result) Complete() error {
	faults := []error{}
	for _, arm := range []Arm{r.Sync, r.Async} {
		if err := arm.Ledger.Balance(); err != nil {
			faults = append(faults, fmt.Errorf("the %s ledger does not balance: %w", arm.Mode, err))
		}
	}
	if n := r.Async.Ledger.Missing; n > 0 {
		faults = append(faults, fmt.Errorf("%d of %d accepted requests have no verified callback, such as %s",
			n, r.Async.Ledger.Accepted, r.Callbacks.MissingIDs[0]))
	}
	return errors.Join(faults...)
}
