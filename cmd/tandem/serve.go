package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/term"

	"tandem/server"
	"tandem/webhook"
	"tandem/work"
)

type serveCmd struct {
	Addr      string `default:"127.0.0.1:8000" help:"Address to listen on; port 0 picks one."`
	AdminAddr string `placeholder:"HOST:PORT" help:"Address for operators: /metrics, the docs, /debug/pprof and, on Postgres, the queue at /river/, to whoever can reach it. Without it the first two are at --addr."`
	Mode      string `help:"demo or production. Without it ENVIRONMENT decides, else demo."`
	Database  string `help:"Path of the SQLite file, :memory:, or the URL of a Postgres that many processes share: postgres://user:password@host/database. Prefer TANDEM_DATABASE for one with a password. Default: requests.db in production, in memory in demo mode."`

	DatabasePollOnly bool     `help:"Use no LISTEN and no prepared statements, for a Postgres behind PgBouncer in transaction mode."`
	Roles            []string `default:"api,worker" help:"What this process does: api, worker or both. A service on a file has one process, that does both."`

	Workers          int           `help:"Slots for CPU-bound work. Default: one a core."`
	IOConcurrency    int           `name:"io-concurrency" default:"512" help:"Slots for waiting work."`
	MaxPending       int           `default:"1000000" help:"Accepted requests that may wait to be started; past it 503."`
	SyncQueueTimeout time.Duration `default:"2s" help:"How long a sync caller waits for a slot; past it 503."`
	WorkTimeout      time.Duration `default:"30s" help:"Ends any work."`
	DrainTimeout     time.Duration `default:"30s" help:"How long a shutdown lets what runs finish."`
	Retain           time.Duration `placeholder:"720h" help:"Delete requests once they have been settled for so long. Default: keep them for ever."`
	Paused           bool          `help:"Accept and store, start no work: for maintenance and measuring."`

	Rounds   int      `default:"${rounds}" help:"Rounds of compute per unit of complexity; the default takes about 5 ms on a current core."`
	Upstream []string `sep:"none" placeholder:"NAME=URL[,timeout=5s]" help:"What the http workload may call. Repeatable."`

	CallbackSecret    []string       `placeholder:"whsec_..." help:"Secret to sign callbacks with; several while you rotate. Without it one is made and kept in the database. Prefer TANDEM_CALLBACK_SECRET: a command line can be read by others."`
	CallbackAttempts  int            `placeholder:"N" help:"Attempts at delivering a callback. Default: 3 in demo mode, 8 in production."`
	CallbackPerHost   int            `default:"10" help:"Attempts in flight to one host."`
	CallbackTimeout   time.Duration  `default:"10s" help:"How long one attempt may take."`
	CallbackMaxAge    time.Duration  `default:"24h" help:"How old a callback may get before it is given up."`
	CallbackHTTPSOnly bool           `name:"callback-https-only" help:"Refuse callback URLs that are not https."`
	CallbackDNS64     bool           `name:"callback-dns64" help:"Judge callback addresses in 64:ff9b::/96 by the IPv4 address in them: for machines whose only way to IPv4 is NAT64."`
	AllowCallbackNet  []netip.Prefix `placeholder:"CIDR" help:"Let callbacks reach a range that is refused otherwise, such as 10.1.0.0/16. Insecure: callers can then reach it through this service."`
	AllowCallbackPort []uint16       `placeholder:"PORT" help:"Let callbacks use a port beside 80 and 443."`

	RequireKeys    bool           `help:"Let nobody in without an API key (tandem keys create). Always so in production mode."`
	InsecureNoAuth bool           `help:"Let anyone in, in production mode too. Insecure: whoever can reach the service sees and uses everything."`
	TLSCert        string         `name:"tls-cert" placeholder:"FILE" help:"Certificate chain in PEM: serve HTTPS. Read anew when it changes."`
	TLSKey         string         `name:"tls-key" placeholder:"FILE" help:"Its key."`
	CORSOrigin     []string       `name:"cors-origin" placeholder:"ORIGIN" help:"Origin whose pages may use the service, such as https://app.example. Repeatable."`
	MaxConnections int            `default:"10000" help:"Connections that may be open at once."`
	TrustedProxy   []netip.Prefix `placeholder:"CIDR" help:"Proxies whose X-Forwarded-For tells where a caller without a key comes from."`

	RateLimit string `placeholder:"N/WINDOW" help:"POST requests per client, such as 50/60s; or none. Default: 50/60s in production, none in demo mode."`

	AddressFile string `placeholder:"PATH" help:"Write the address here once the service listens: for programs that start it on port 0."`
	LogLevel    string `default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error."`
}

func (c *serveCmd) Run(ctx context.Context) error {
	opts, err := c.options()
	if err != nil {
		return err
	}
	// CPU-bound workers would hold every P that the runtime has, and the
	// acceptance of new requests would wait behind them for whole time slices.
	// With one P more than workers the kernel shares the cores out instead:
	// see docs/decisions/0004-a-spare-processor.md.
	runtime.GOMAXPROCS(opts.Workers + 1)
	// The heap is small - what waits is on disk - so that collecting it at
	// every doubling would cost more processor time than it saves memory.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}

	s, err := server.New(ctx, opts)
	if err != nil {
		return inFlags(err)
	}
	if err := s.Start(ctx); err != nil {
		return errors.Join(inFlags(err), s.Stop(ctx))
	}
	if c.AddressFile != "" {
		if err := writeWhole(c.AddressFile, func(w io.Writer) error { _, err := io.WriteString(w, s.Addr()+"\n"); return err }); err != nil {
			return errors.Join(fmt.Errorf("--address-file: %w", err), s.Stop(ctx))
		}
	}
	return s.Wait(ctx)
}

func (c *serveCmd) options() (server.Options, error) {
	opts := server.Options{
		Addr:                      c.Addr,
		Database:                  c.Database,
		DatabasePollOnly:          c.DatabasePollOnly,
		Workers:                   c.Workers,
		IOConcurrency:             c.IOConcurrency,
		MaxPending:                c.MaxPending,
		SyncQueueTimeout:          c.SyncQueueTimeout,
		WorkTimeout:               c.WorkTimeout,
		DrainTimeout:              c.DrainTimeout,
		Retain:                    c.Retain,
		Paused:                    c.Paused,
		Rounds:                    c.Rounds,
		CallbackAttempts:          c.CallbackAttempts,
		CallbackPerHost:           c.CallbackPerHost,
		CallbackTimeout:           c.CallbackTimeout,
		CallbackMaxAge:            c.CallbackMaxAge,
		RequireHTTPSCallbacks:     c.CallbackHTTPSOnly,
		CallbackDNS64:             c.CallbackDNS64,
		InsecureAllowCallbackNets: c.AllowCallbackNet,
		AllowCallbackPorts:        c.AllowCallbackPort,
		RequireKeys:               c.RequireKeys,
		InsecureNoAuth:            c.InsecureNoAuth,
		TrustedProxies:            c.TrustedProxy,
		AdminAddr:                 c.AdminAddr,
		TLSCert:                   c.TLSCert,
		TLSKey:                    c.TLSKey,
		CORSOrigins:               c.CORSOrigin,
		MaxConnections:            c.MaxConnections,
		Version:                   version(),
		Logger:                    logger(c.LogLevel),
	}
	var wrong faults
	var err error
	opts.Mode, err = chooseMode(c.Mode, os.Getenv("ENVIRONMENT"))
	wrong.add("--mode", err)
	for _, name := range c.Roles {
		opts.Roles = append(opts.Roles, server.Role(name))
	}
	switch c.RateLimit {
	case "":
	case "none":
		opts.InsecureNoRateLimit = true
	default:
		opts.Rate, err = server.ParseRate(c.RateLimit)
		wrong.add("--rate-limit", err)
	}
	for _, text := range c.CallbackSecret {
		secret, err := webhook.ParseSecret(text)
		wrong.add("--callback-secret", err)
		opts.CallbackSecrets = append(opts.CallbackSecrets, secret)
	}
	for _, text := range c.Upstream {
		upstream, err := work.ParseUpstream(text)
		wrong.add("--upstream", err)
		opts.Upstreams = append(opts.Upstreams, upstream)
	}
	if opts.Workers == 0 {
		opts.Workers = runtime.GOMAXPROCS(0)
	}
	c.zeros(&wrong)
	return opts, errors.Join(append(wrong, inFlags(opts.Check()))...)
}

// faults are what is wrong with flags, each named.
type faults []error

func (f *faults) add(flag string, err error) {
	if err != nil {
		*f = append(*f, fmt.Errorf("%s: %w", flag, err))
	}
}

// zeros adds the flags that are zero and have another default: as an option that
// would mean the default.
func (c *serveCmd) zeros(wrong *faults) {
	for _, n := range []struct {
		flag  string
		value int
	}{
		{"--io-concurrency", c.IOConcurrency},
		{"--max-pending", c.MaxPending},
		{"--rounds", c.Rounds},
		{"--callback-per-host", c.CallbackPerHost},
		{"--max-connections", c.MaxConnections},
		{"--sync-queue-timeout", int(c.SyncQueueTimeout)},
		{"--work-timeout", int(c.WorkTimeout)},
		{"--drain-timeout", int(c.DrainTimeout)},
		{"--callback-timeout", int(c.CallbackTimeout)},
		{"--callback-max-age", int(c.CallbackMaxAge)},
	} {
		if n.value == 0 {
			wrong.add(n.flag, errors.New("must not be 0; leave it out for the default"))
		}
	}
}

// flagOf is the flag that sets each field of server.Options.
var flagOf = map[string]string{
	"Addr":                      "--addr",
	"AdminAddr":                 "--admin-addr",
	"Mode":                      "--mode",
	"Database":                  "--database",
	"DatabasePollOnly":          "--database-poll-only",
	"Roles":                     "--roles",
	"Workers":                   "--workers",
	"IOConcurrency":             "--io-concurrency",
	"MaxPending":                "--max-pending",
	"SyncQueueTimeout":          "--sync-queue-timeout",
	"WorkTimeout":               "--work-timeout",
	"DrainTimeout":              "--drain-timeout",
	"Retain":                    "--retain",
	"Paused":                    "--paused",
	"Rounds":                    "--rounds",
	"Upstreams":                 "--upstream",
	"CallbackSecrets":           "--callback-secret",
	"CallbackAttempts":          "--callback-attempts",
	"CallbackPerHost":           "--callback-per-host",
	"CallbackTimeout":           "--callback-timeout",
	"CallbackMaxAge":            "--callback-max-age",
	"InsecureAllowCallbackNets": "--allow-callback-net",
	"AllowCallbackPorts":        "--allow-callback-port",
	"RequireHTTPSCallbacks":     "--callback-https-only",
	"CallbackDNS64":             "--callback-dns64",
	"RequireKeys":               "--require-keys",
	"InsecureNoAuth":            "--insecure-no-auth",
	"TLSCert":                   "--tls-cert",
	"TLSKey":                    "--tls-key",
	"CORSOrigins":               "--cors-origin",
	"MaxConnections":            "--max-connections",
	"TrustedProxies":            "--trusted-proxy",
	"Rate":                      "--rate-limit",
	"InsecureNoRateLimit":       "--rate-limit",
}

// inFlags says the faults of options as those of the flags that set them.
func inFlags(err error) error {
	switch e := err.(type) {
	case *server.Fault:
		return fmt.Errorf("%s: %s", flagOf[e.Option], e.Naming(func(option string) string { return flagOf[option] }))
	case interface{ Unwrap() []error }:
		var all []error
		for _, one := range e.Unwrap() {
			all = append(all, inFlags(one))
		}
		return errors.Join(all...)
	default:
		return err
	}
}

// chooseMode: the flag or TANDEM_MODE, then ENVIRONMENT, then demo.
func chooseMode(flag, environment string) (server.Mode, error) {
	if flag != "" {
		return server.Mode(flag), nil
	}
	switch environment {
	case "production":
		return server.Production, nil
	case "", "development":
		return server.Demo, nil
	default:
		return "", fmt.Errorf("ENVIRONMENT must be production or development, is %q; or give --mode", environment)
	}
}

// logger logs text to a terminal and JSON to anything else.
func logger(level string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo // unreachable: the flag is an enum
	}
	opts := &slog.HandlerOptions{Level: l}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		return slog.New(slog.NewTextHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, opts))
}
