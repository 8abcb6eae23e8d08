package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"tandem/internal/access"
	"tandem/internal/callback"
	"tandem/internal/egress"
	"tandem/internal/engine"
	"tandem/internal/httpapi"
	"tandem/webhook"
	"tandem/work"
)

// Server is one instance of the service.
type Server struct {
	opts     Options
	log      *slog.Logger
	engine   *engine.Engine
	keys     *access.Keyring
	notices  []string // of what is less safe or less durable
	http     *http.Server
	listener net.Listener
	admin    *http.Server // nil: there is none
	adminAt  net.Listener

	served   chan error // what Serve returned
	worked   chan error // what the engine's Run returned
	stopWork func()     // makes the engine take up no more
	stop     sync.Once
	stopping chan struct{}  // closed by Stop
	stopped  error          // what Stop returns
	teardown []func() error // last in, first out
}

// New opens the database and puts the service together; nothing runs yet. All
// Faults in opts come back joined. Call Stop, or Run, to free what it opened.
func New(ctx context.Context, opts Options) (_ *Server, err error) {
	opts, err = opts.withDefaults()
	registry, unworkable := opts.workloads()
	if err := errors.Join(err, unworkable); err != nil {
		return nil, err
	}
	guard, err := egress.New(opts.callbackRules())
	if err != nil {
		return nil, fmt.Errorf("callback rules: %w", err)
	}
	s := &Server{opts: opts, log: opts.Logger, stopping: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	backend, err := openDatabase(ctx, opts, s.log, metrics)
	if err != nil {
		return nil, err
	}
	s.onClose(backend.Close)
	s.notices = opts.notices(backend.Durable())
	s.keys = &access.Keyring{}
	if err := s.watchKeys(ctx, backend, s.keys); err != nil {
		return nil, err
	}
	secrets, err := callbackSecrets(ctx, opts, backend)
	if err != nil {
		return nil, err
	}
	sender := callback.NewSender(guard.Dial, callback.Options{
		AttemptTimeout: opts.CallbackTimeout,
		IdlePerHost:    opts.CallbackPerHost,
		UserAgent:      "Tandem/" + opts.Version,
	})
	s.onClose(func() error { sender.Close(); return nil })

	secretsOf := func(owner string) []webhook.Secret {
		if owner == "" { // submitted when callers were not told apart
			return secrets
		}
		return s.keys.Secrets(owner, time.Now())
	}
	s.engine, err = engine.New(backend, registry, guard, sender, secretsOf, engine.Options{
		Workers:          opts.Workers,
		IOConcurrency:    opts.IOConcurrency,
		SyncQueueTimeout: opts.SyncQueueTimeout,
		WorkTimeout:      opts.WorkTimeout,
		Policy:           opts.policy(),
		PerHost:          opts.CallbackPerHost,
		Paused:           opts.Paused,
		Logger:           s.log.With("component", "engine"),
		Metrics:          metrics,
	})
	if err != nil {
		return nil, err
	}
	api, err := s.newAPI(backend, secrets, metrics)
	if err != nil {
		return nil, err
	}
	s.http = s.serverOf(api)
	s.http.WriteTimeout = 30 * time.Second // routes that answer late extend it
	if err := s.useTLS(); err != nil {
		return nil, err
	}
	if opts.AdminAddr != "" {
		s.admin = s.serverOf(api.Admin()) // a profile takes as long as it is asked to
	}
	return s, nil
}

// newAPI puts what callers and operators are served on top of the engine.
func (s *Server) newAPI(backend database, secrets []webhook.Secret, metrics *prometheus.Registry) (*httpapi.API, error) {
	queue, err := queuePages(backend)
	if err != nil {
		return nil, err
	}
	opts := httpapi.Options{
		Demo:           s.opts.Mode == Demo,
		NewLimiter:     sharedLimits(backend),
		NoSubmissions:  !s.opts.has(RoleAPI),
		Rate:           s.opts.Rate,
		TrustedProxies: s.opts.TrustedProxies,
		CORSOrigins:    s.opts.CORSOrigins,
		SeparateAdmin:  s.opts.AdminAddr != "",
		Queue:          queue,
		Version:        s.opts.Version,
		Notices:        s.notices,
		Secrets:        secrets,
		Logger:         s.log.With("component", "http"),
		Registry:       metrics,
	}
	if s.opts.RequireKeys {
		opts.Keys = s.keys
	}
	return httpapi.New(s.engine, opts)
}

// callbackSecrets are what callbacks are signed with whose owner has no key: those
// of the options, or else the one that is kept.
func callbackSecrets(ctx context.Context, opts Options, backend database) ([]webhook.Secret, error) {
	if len(opts.CallbackSecrets) > 0 {
		return opts.CallbackSecrets, nil
	}
	kept, err := backend.Secret(ctx)
	if err != nil {
		return nil, err
	}
	return []webhook.Secret{kept}, nil
}

// useTLS makes the service speak HTTPS, if it has a certificate.
func (s *Server) useTLS() error {
	if s.opts.TLSCert == "" {
		return nil
	}
	cert, err := loadCertificate(s.opts.TLSCert, s.opts.TLSKey, s.log)
	if err != nil {
		return fmt.Errorf("TLS certificate: %w", err)
	}
	s.http.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: cert.get}
	s.http.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 100, MaxReadFrameSize: 64 << 10, PingTimeout: 15 * time.Second, SendPingTimeout: time.Minute}
	return nil
}

// serverOf has the limits of both servers.
func (s *Server) serverOf(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.With("component", "http").Handler(), slog.LevelDebug),
	}
}

// watchKeys fills the keyring, and keeps it up to date until the server is
// closed.
func (s *Server) watchKeys(ctx context.Context, backend database, keys *access.Keyring) error {
	if err := backend.LoadKeys(ctx, keys); err != nil {
		return err
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		backend.WatchKeys(watching, keys)
	}()
	s.onClose(func() error {
		stop()
		<-done
		return nil
	})
	return nil
}

func (o *Options) workloads() (*work.Registry, error) {
	// Rounds below zero are a fault already, which need not be told twice.
	registry, err := work.Builtin(work.Options{Rounds: max(0, o.Rounds), Upstreams: o.Upstreams})
	if err != nil {
		return nil, fault("Upstreams", "%v", err)
	}
	var faults []error
	for _, kind := range o.Workloads {
		if err := registry.Register(kind); err != nil {
			faults = append(faults, fault("Workloads", "%v", err))
		}
	}
	return registry, errors.Join(faults...)
}

// Start listens, takes up what an earlier run left, and serves until Stop.
func (s *Server) Start(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.opts.Addr)
	if err != nil {
		return fault("Addr", "cannot listen on %s: %v; choose another address", s.opts.Addr, err)
	}
	if s.admin != nil {
		if s.adminAt, err = (&net.ListenConfig{}).Listen(ctx, "tcp", s.opts.AdminAddr); err != nil {
			return errors.Join(fault("AdminAddr", "cannot listen on %s: %v; choose another address", s.opts.AdminAddr, err), listener.Close())
		}
		s.onClose(s.admin.Close)
		go s.admin.Serve(limitListener(s.adminAt, s.opts.MaxConnections)) // returns when it is closed
		s.log.Info("listening for operators", "addr", s.AdminAddr())
	}
	s.listener = limitListener(listener, s.opts.MaxConnections)
	s.served, s.worked = make(chan error, 1), make(chan error, 1)
	runCtx, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	s.stopWork = stopWork
	go func() { s.worked <- s.engine.Run(runCtx) }()
	go func() {
		if s.http.TLSConfig != nil {
			s.served <- s.http.ServeTLS(s.listener, "", "")
			return
		}
		s.served <- s.http.Serve(s.listener)
	}()

	for _, notice := range s.notices {
		s.log.Warn(notice)
	}
	if s.opts.RequireKeys && s.keys.Empty() {
		s.log.Warn("nobody can enter: there is no API key yet; make one with tandem keys create --name NAME --database " + HideDatabase(s.opts.Database))
	}
	s.log.Info("listening", "addr", s.Addr(), "mode", s.opts.Mode, "database", HideDatabase(s.opts.Database))
	return nil
}

// Addr is the address the service listens on, once it has started.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// AdminAddr is the address for operators, once the service has started; empty
// if there is none.
func (s *Server) AdminAddr() string {
	if s.adminAt == nil {
		return ""
	}
	return s.adminAt.Addr().String()
}

// Stop drains the service: from now on it refuses new requests, and /readyz
// says so; what runs may finish until ctx ends; the rest is left on disk for
// the next start. It returns once everything is closed. The first call decides
// how long that may take; all others wait for it and return the same.
func (s *Server) Stop(ctx context.Context) error {
	s.stop.Do(func() {
		close(s.stopping)
		s.stopped = s.drainAndClose(ctx)
	})
	return s.stopped
}

func (s *Server) drainAndClose(ctx context.Context) error {
	if s.listener == nil { // New without Start
		return s.close()
	}
	s.engine.Drain()
	s.stopWork()
	var faults []error
	select {
	case err := <-s.worked:
		faults = append(faults, err)
	case <-ctx.Done():
		s.engine.Halt()
		faults = append(faults, <-s.worked)
	}
	if err := s.http.Shutdown(ctx); err != nil {
		s.engine.Halt() // sync callers still wait for their work
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), haltGrace)
		defer cancel()
		if err := s.http.Shutdown(late); err != nil {
			faults = append(faults, fmt.Errorf("connections cut off: %w", err), s.http.Close())
		}
	}
	if err := <-s.served; !errors.Is(err, http.ErrServerClosed) {
		faults = append(faults, err)
	}
	return errors.Join(append(faults, s.close())...)
}

// haltGrace is how long answers may take once all work has been stopped.
const haltGrace = 2 * time.Second

// Run starts the service and waits: Start and Wait in one.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Start(ctx); err != nil {
		return errors.Join(err, s.close())
	}
	return s.Wait(ctx)
}

// Wait serves until ctx ends, Stop is called or serving fails, and then drains
// the service for at most DrainTimeout.
func (s *Server) Wait(ctx context.Context) error {
	var failed error
	select {
	case <-ctx.Done():
		s.log.Info("draining", "timeout", s.opts.DrainTimeout.String())
	case <-s.stopping:
	case failed = <-s.served:
		if errors.Is(failed, http.ErrServerClosed) { // by Stop
			failed = nil
		}
		s.served <- http.ErrServerClosed // Stop waits for it too
	case failed = <-s.worked:
		s.worked <- nil
	}
	drainCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.DrainTimeout)
	defer cancel()
	return errors.Join(failed, s.Stop(drainCtx))
}

func (s *Server) onClose(f func() error) { s.teardown = append(s.teardown, f) }

func (s *Server) close() error {
	var faults []error
	for len(s.teardown) > 0 {
		last := len(s.teardown) - 1
		faults = append(faults, s.teardown[last]())
		s.teardown = s.teardown[:last]
	}
	return errors.Join(faults...)
}
