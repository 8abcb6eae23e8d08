package engine_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tandem"
	"tandem/internal/callback"
	"tandem/internal/egress"
	"tandem/internal/engine"
	"tandem/webhook"
	"tandem/work"
)

// world is one simulation: the processes, what waits in them for its turn, and
// what everybody outside knows.
type world struct {
	t     *testing.T
	store simStore
	kind  string
	seed  uint64
	rng   *rand.Rand // of the steps only: nothing else draws from it

	step   int
	faults bool // things may still go wrong

	live *process // nil while none is
	late *process // taken for dead, and still running
	n    int      // processes so far

	mu       sync.Mutex
	gates    []*gate
	trace    []string
	broken   string
	happened map[string]int
	known
}

// gate is where something waits for its turn.
type gate struct {
	name string
	kind gateKind
	p    *process // nil: of no process
	say  chan verdict
}

type gateKind string

const (
	atStore    gateKind = "store"    // before a commit, or a read
	atAnswer   gateKind = "answer"   // after a commit, before its answer
	atStep     gateKind = "step"     // before a step of the engine
	atWork     gateKind = "work"     // in the work of a request
	atReceiver gateKind = "receiver" // before a receiver's answer
)

// verdict is how what waits at a gate goes on.
type verdict string

const (
	goOn         verdict = "goes on"
	isDead       verdict = "is dead"
	storageFails verdict = "storage fails"
	workFails    verdict = "work fails"
	workPanics   verdict = "work panics"
	hangsUp      verdict = "hangs up"
)

// choose draws how something goes on.
func (w *world) choose(g *gate) verdict {
	pick := func(all ...verdict) verdict { return all[w.rng.IntN(len(all))] }
	switch {
	case g.kind == atStore && w.rng.IntN(10) == 0:
		return storageFails
	case g.kind == atWork:
		return pick(goOn, goOn, goOn, goOn, workFails, workPanics)
	case g.kind == atReceiver:
		return pick(goOn, goOn, "204", "500", "500", "503", "410", "404", "429", "302", hangsUp)
	}
	return goOn
}

// park waits for the turn of something. Once its process is dead everything is.
func (w *world) park(ctx context.Context, p *process, kind gateKind, name string) verdict {
	g := &gate{name: name, kind: kind, p: p, say: make(chan verdict, 1)}
	if p != nil {
		g.name = fmt.Sprintf("p%d %s", p.n, name)
	}
	w.mu.Lock()
	if p != nil && p.dead {
		w.mu.Unlock()
		return isDead
	}
	w.gates = append(w.gates, g)
	w.mu.Unlock()
	select {
	case v := <-g.say:
		return v
	case <-ctx.Done():
		w.take(g)
		return isDead
	}
}

// take removes a gate, and reports whether it was there.
func (w *world) take(g *gate) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.gates {
		if w.gates[i] == g {
			w.gates = append(w.gates[:i], w.gates[i+1:]...)
			return true
		}
	}
	return false
}

// release gives something its turn.
func (w *world) release(g *gate, v verdict) {
	if !w.take(g) {
		return
	}
	if v == goOn {
		w.note("%s", g.name)
	} else {
		w.note("%s: %s", g.name, v)
	}
	switch g.kind {
	case atReceiver:
		w.count("receiver answers " + cmp.Or(map[verdict]string{goOn: "200"}[v], string(v)))
	case atWork:
		w.count("work")
		w.count(string(v))
	default:
		w.count(string(v))
	}
	g.say <- v
}

func (w *world) count(event string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.happened[event]++
}

// process is one run of the service.
type process struct {
	w       *world
	n       int
	backend engine.Backend // without gates
	engine  *engine.Engine
	sender  *callback.Sender
	metrics *prometheus.Registry
	stopRun func()
	ended   chan struct{} // Run has returned

	began    time.Time
	stopping bool // asked to end
	dead     bool // under w.mu: nothing that it does has an effect any more
	calls    int  // under w.mu: callers that wait for it
	// Under w.mu, by id: steps that have begun and not ended, and when the last one
	// ended.
	steps map[string]int
	ends  map[string]time.Time
}

var simSecret = webhook.NewSecret()

// start begins a process on what is stored.
func (w *world) start() {
	backend, err := w.store.open(context.Background())
	if err != nil {
		w.t.Fatalf("open: %v", err)
	}
	w.n++
	p := &process{w: w, n: w.n, backend: backend, metrics: prometheus.NewRegistry(), ended: make(chan struct{}), began: time.Now(),
		steps: make(map[string]int), ends: make(map[string]time.Time)}
	w.note("p%d starts", p.n)
	registry := &work.Registry{}
	for _, kind := range []work.Kind{
		{Name: "burn", Class: work.CPU, Func: p.work},
		{Name: "idle", Class: work.Waits, Func: p.work},
	} {
		if err := registry.Register(kind); err != nil {
			w.t.Fatal(err)
		}
	}
	guard, err := egress.New(egress.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	p.sender = callback.NewSender(w.dial, callback.Options{})
	jitter := &jitter{rng: rand.New(rand.NewPCG(w.seed, uint64(p.n)))}
	p.engine, err = engine.New(gated{backend, p}, registry, guard, p.sender,
		func(string) []webhook.Secret { return []webhook.Secret{simSecret} },
		engine.Options{
			Workers: 1, IOConcurrency: 2, PerHost: 2, WorkTimeout: 5 * time.Second,
			Policy:  callback.Policy{Attempts: simAttempts, Base: time.Second, Factor: 2, Cap: time.Minute, MaxAge: simMaxAge},
			Metrics: p.metrics,
			Jitter:  jitter.next,
		})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.stopRun = cancel
	go func() {
		defer close(p.ended)
		if err := p.engine.Run(ctx); err != nil {
			w.broke("run: %v", err)
		}
	}()
	w.live = p
	synctest.Wait()
	w.reopened = true
	w.check()
	w.reopened = false
}

const (
	simAttempts = 4
	simMaxAge   = time.Hour
	// simLookForOld is how often a backend looks for callbacks that are too old, at
	// least, and simSlack for how long one that is due may be so.
	simLookForOld = time.Minute
	simSlack      = time.Minute + simLookForOld
)

// crash ends a process at once. What it had not committed is lost.
func (w *world) crash() {
	w.count("crash")
	if p := w.late; p != nil && w.rng.IntN(2) == 0 {
		w.late = nil
		w.kill(p)
		w.rescue(p)
		return
	}
	p := w.live
	w.live = nil
	w.kill(p)
}

// rescue lets the live process take up what one that ended late had started
// since.
func (w *world) rescue(p *process) {
	if m, ok := w.live.backend.(*model); ok {
		m.rescue(func(r *row) bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.rescued[r.ID] = w.starter[r.ID] == p && r.Status == tandem.Processing
			return w.rescued[r.ID]
		})
	}
}

func (w *world) kill(p *process) {
	w.note("p%d crashes", p.n)
	if err := w.store.crash(); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	p.dead = true
	var its []*gate
	for _, g := range w.gates {
		if g.p == p {
			its = append(its, g)
		}
	}
	w.mu.Unlock()
	for _, g := range its {
		if w.take(g) {
			g.say <- isDead
		}
	}
	p.stopRun()
	p.engine.Halt()
	p.sender.Close()
	<-p.ended
	synctest.Wait()
	for w.callsOf(p) > 0 { // what waits only for time to pass
		time.Sleep(time.Second)
	}
	w.close(p)
}

func (w *world) close(p *process) {
	p.sender.Close()
	if err := p.backend.Close(); err != nil {
		w.broke("close: %v", err)
	}
}

// presumeDead begins a process while the one before it, which is taken for
// dead, goes on: what it does reaches the store late.
func (w *world) presumeDead() {
	w.count("presumed dead")
	w.note("p%d is taken for dead", w.live.n)
	w.late = w.live
	w.late.stopRun()
	w.start()
}

// stop asks a process to end, and begins no other before it has.
func (w *world) stop() {
	p := w.live
	if p.stopping {
		w.note("p%d is halted", p.n)
		p.engine.Halt()
		return
	}
	w.count("stop")
	w.note("p%d is asked to end", p.n)
	p.stopping = true
	p.engine.Drain()
	p.stopRun()
	if w.rng.IntN(2) == 0 {
		p.engine.Halt()
	}
}

// bury frees processes that have come to their end by themselves.
func (w *world) bury() {
	if p := w.live; p != nil && p.stopping && p.over() {
		w.note("p%d has ended", p.n)
		w.close(p)
		w.live = nil
	}
	if p := w.late; p != nil && p.over() {
		w.note("p%d, taken for dead, has ended", p.n)
		w.close(p)
		w.late = nil
		w.rescue(p) // what it could not give back
	}
}

// over reports whether nothing runs in it any more.
func (p *process) over() bool {
	select {
	case <-p.ended:
		return p.w.callsOf(p) == 0
	default:
		return false
	}
}

func (w *world) callsOf(p *process) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return p.calls
}

func (w *world) calls() (n int) {
	for _, p := range []*process{w.live, w.late} {
		if p != nil {
			n += w.callsOf(p)
		}
	}
	return n
}

// end ends whatever still runs, so that the bubble can.
func (w *world) end() {
	for _, p := range []*process{w.late, w.live} {
		if p != nil {
			w.kill(p)
		}
	}
	for _, g := range w.waiting() {
		if w.take(g) {
			g.say <- isDead
		}
	}
	time.Sleep(time.Hour) // connections of receivers come to their end
	synctest.Wait()
}

// gated is a Backend of which every read and write that the engine makes has
// its turn.
type gated struct {
	engine.Backend
	p *process
}

var (
	errDead    = &tandem.Error{Code: tandem.CodeConflict, Message: "the process has crashed"}
	errStorage = &tandem.Error{Code: tandem.CodeUnavailable, Message: "the storage fails", RetryAfter: time.Second}
)

// turn makes a write when its turn has come, and lets its answer wait for
// another.
func (g gated) turn(what, id string, write func() error) error {
	w := g.p.w
	name := what + " " + w.name(id)
	switch w.park(context.Background(), g.p, atStore, name) {
	case isDead:
		return errDead
	case storageFails:
		return errStorage
	}
	err := write()
	w.note("p%d %s: %v", g.p.n, name, cmp.Or(string(tandem.CodeOf(err)), "committed"))
	if err == nil && w.park(context.Background(), g.p, atAnswer, name+", answer") == isDead {
		return errDead
	}
	return err
}

func (g gated) Accept(ctx context.Context, req *tandem.Request) error {
	g.p.w.meet(req)
	return g.turn("accept", req.ID, func() error { return g.Backend.Accept(ctx, req) })
}

func (g gated) Claim(ctx context.Context, req *tandem.Request, key engine.IdempotencyKey) (holder string, err error) {
	g.p.w.meet(req)
	err = g.turn("claim "+key.Key, req.ID, func() (err error) {
		holder, err = g.Backend.Claim(ctx, req, key)
		if req.Mode == tandem.Sync && holder == "" {
			g.p.w.startedBy(req.ID, g.p)
		}
		return err
	})
	if err != nil {
		holder = ""
	}
	return holder, err
}

func (g gated) Begin(req *tandem.Request) {
	g.p.w.meet(req)
	g.p.w.mu.Lock()
	dead := g.p.dead
	g.p.w.mu.Unlock()
	if !dead {
		g.p.w.startedBy(req.ID, g.p)
		g.Backend.Begin(req)
	}
}

func (g gated) Start(ctx context.Context, req *tandem.Request) error {
	return g.turn("start", req.ID, func() error {
		err := g.Backend.Start(ctx, req)
		if err == nil {
			g.p.w.startedBy(req.ID, g.p)
		}
		return err
	})
}

func (g gated) Requeue(ctx context.Context, req *tandem.Request) error {
	return g.turn("requeue", req.ID, func() error {
		err := g.Backend.Requeue(ctx, req)
		if err == nil {
			g.p.w.endedBy("requeue", req.ID, g.p)
		}
		return err
	})
}

func (g gated) Complete(ctx context.Context, req *tandem.Request) error {
	return g.turn("complete", req.ID, func() error {
		err := g.Backend.Complete(ctx, req)
		if err == nil && req.Mode == tandem.Async {
			g.p.w.endedBy("complete", req.ID, g.p)
		}
		return err
	})
}

func (g gated) Fail(ctx context.Context, req *tandem.Request) error {
	return g.turn("fail", req.ID, func() error { return g.Backend.Fail(ctx, req) })
}

func (g gated) Release(ctx context.Context, req *tandem.Request) error {
	return g.turn("release", req.ID, func() error { return g.Backend.Release(ctx, req) })
}

func (g gated) Redeliver(ctx context.Context, req *tandem.Request) error {
	return g.turn("redeliver", req.ID, func() error {
		g.p.w.mayRedeliver(req.ID)
		return g.Backend.Redeliver(ctx, req)
	})
}

func (g gated) RecordAttempt(ctx context.Context, req *tandem.Request, a tandem.Attempt) error {
	return g.turn("record attempt of", req.ID, func() error { return g.Backend.RecordAttempt(ctx, req, a) })
}

func (g gated) Request(ctx context.Context, id string) (req tandem.Request, err error) {
	switch g.p.w.park(context.Background(), g.p, atStore, "read "+g.p.w.name(id)) {
	case isDead:
		return req, errDead
	case storageFails:
		return req, errStorage
	}
	return g.Backend.Request(ctx, id)
}

func (g gated) Run(ctx context.Context, steps engine.Steps) error {
	return g.Backend.Run(ctx, gatedSteps{steps, g.p})
}

// gatedSteps are the engine's steps, each when its turn has come.
type gatedSteps struct {
	engine.Steps
	p *process
}

func (s gatedSteps) Process(ctx context.Context, req *tandem.Request) error {
	if req.Status == tandem.Processing {
		s.p.w.startedAsAccepted(req.ID, s.p)
	}
	defer s.p.begins(req.ID)()
	s.p.w.park(context.Background(), s.p, atStep, "process "+s.p.w.name(req.ID)) // a dead one has no effect
	return s.Steps.Process(ctx, req)
}

func (s gatedSteps) Deliver(ctx context.Context, host string, req *tandem.Request) error {
	defer s.p.begins(req.ID)()
	s.p.w.park(context.Background(), s.p, atStep, "deliver "+s.p.w.name(req.ID))
	return s.Steps.Deliver(ctx, host, req)
}

// begins notes that a step of a request begins, and then that it ends.
func (p *process) begins(id string) (ended func()) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.steps[id]++
	return func() {
		p.w.mu.Lock()
		defer p.w.mu.Unlock()
		p.steps[id]--
		p.ends[id] = time.Now()
	}
}

// work is what every request asks for. It goes on when its turn has come. One
// in four ignores the end of its context.
func (p *process) work(ctx context.Context, in work.Input) (json.RawMessage, error) {
	w := p.w
	n := ordinalOf(in.Data)
	w.runs(ctx, p, n)
	waiting := ctx
	if n%4 == 3 {
		waiting = context.Background()
	}
	switch w.park(waiting, p, atWork, fmt.Sprintf("work of r%d", n)) {
	case isDead:
		return nil, errors.New("ended")
	case workFails:
		return nil, errors.New("it cannot be done")
	case workPanics:
		panic("the work is broken")
	}
	return fmt.Appendf(nil, `{"r":%d}`, n), nil
}

// dial connects to a receiver.
func (w *world) dial(_ context.Context, _, addr string) (net.Conn, error) {
	ours, its := net.Pipe()
	go w.receive(its, addr)
	return ours, nil
}

// receive takes callbacks on a connection, and answers each when its turn has
// come.
func (w *world) receive(conn net.Conn, host string) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return // the sender has closed it
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		id := w.came(r.Header, body)
		v := w.park(context.Background(), nil, atReceiver, fmt.Sprintf("receiver %s of %s", host, w.name(id)))
		status := 200
		switch v {
		case isDead, hangsUp:
			return
		case goOn:
		default:
			if _, err := fmt.Sscan(string(v), &status); err != nil {
				panic(err)
			}
		}
		w.answers(id, status)
		body = []byte("ok")
		if status == http.StatusNoContent {
			body = nil
		}
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 %d X\r\nContent-Length: %d\r\nRetry-After: 7\r\n\r\n%s", status, len(body), body); err != nil {
			return
		}
	}
}

// jitter gives the same numbers for the same seed, to many goroutines.
type jitter struct {
	mu  sync.Mutex
	rng *rand.Rand
}

func (j *jitter) next() float64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.rng.Float64()
}
