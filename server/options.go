package server

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"tandem/internal/callback"
	"tandem/internal/egress"
	"tandem/internal/httpapi"
	"tandem/internal/limit"
	"tandem/webhook"
	"tandem/work"
)

// Mode is a set of defaults for a purpose.
type Mode string

const (
	// Demo is for trying it out on one machine: in memory unless Database is
	// set, no rate limit, callbacks to any port on loopback allowed.
	Demo Mode = "demo"
	// Production is for everything else.
	Production Mode = "production"
)

// Rate allows N requests in any stretch of time as long as Window.
type Rate = limit.Rate

// Role is what a process does of what a service does.
type Role string

const (
	RoleAPI    Role = "api"    // takes requests, and works what callers wait for
	RoleWorker Role = "worker" // works what was accepted, and delivers callbacks
)

// ParseRate reads a rate such as "50/60s".
func ParseRate(s string) (Rate, error) { return limit.ParseRate(s) }

// Options say how a Server works. The zero value of each means its default,
// which may depend on Mode.
type Options struct {
	Addr string // host:port to listen on; port 0 picks one. 127.0.0.1:8000
	// AdminAddr is where the metrics, the docs, the profiles and the queue of a
	// Postgres are served, to whoever can reach it; port 0 picks one. Without it
	// the first two are served at Addr, and the others not at all.
	AdminAddr string
	Mode      Mode // Demo
	// Database is the path of a SQLite file, ":memory:", or the URL of a Postgres
	// that any number of processes may share; requests.db in production, in memory
	// in demo mode.
	Database string
	// DatabasePollOnly uses nothing of Postgres that belongs to a session, as
	// behind PgBouncer in transaction mode. What other processes do is then
	// noticed some 100 ms later.
	DatabasePollOnly bool
	Roles            []Role // of this process; all. Only with a Postgres can there be fewer

	Workers          int           // slots for CPU-bound work; GOMAXPROCS
	IOConcurrency    int           // slots for waiting work; 512
	MaxPending       int           // accepted requests that may wait to be started; 1,000,000
	SyncQueueTimeout time.Duration // how long a sync caller waits for a slot; 2 s
	WorkTimeout      time.Duration // ends any work; 30 s
	DrainTimeout     time.Duration // how long Stop lets what runs finish; 30 s
	Retain           time.Duration // how long a request is kept once it is settled; 0: for ever
	Paused           bool          // accept and store, start no work and deliver nothing

	Rounds    int             // of compute, per unit of complexity; work.DefaultRounds
	Upstreams []work.Upstream // what the http workload may call, by name
	Workloads []work.Kind     // further kinds of work

	CallbackSecrets  []webhook.Secret // callbacks are signed with all; one is made and kept in the database
	CallbackAttempts int              // 3 in demo mode, 8 in production
	CallbackPerHost  int              // attempts in flight to one host; 10
	CallbackTimeout  time.Duration    // of one attempt; 10 s
	CallbackMaxAge   time.Duration    // past it a callback is given up; 24 h

	// InsecureAllowCallbackNets opens address ranges to callbacks that the
	// egress guard refuses otherwise: whoever may submit a request can then
	// make this machine send a POST to any of them.
	InsecureAllowCallbackNets []netip.Prefix
	AllowCallbackPorts        []uint16 // beside 80 and 443
	RequireHTTPSCallbacks     bool
	// CallbackDNS64 is for machines whose only way to IPv4 is NAT64: an address
	// in 64:ff9b::/96 is judged by the IPv4 address in it, not refused.
	CallbackDNS64 bool

	// RequireKeys lets nobody in without an API key (tandem keys create). In
	// production it is so unless InsecureNoAuth is set: then anyone who can
	// reach the service may use it, and see everybody's requests.
	RequireKeys    bool
	InsecureNoAuth bool

	TLSCert, TLSKey string   // files in PEM; read anew when they change. Without them: plain HTTP
	CORSOrigins     []string // whose pages may use the service, such as https://app.example
	MaxConnections  int      // open at once; 10,000

	TrustedProxies []netip.Prefix // whose X-Forwarded-For tells who a caller without a key is

	Rate                Rate // POST requests per client; 50 per 60 s in production, none in demo mode
	InsecureNoRateLimit bool // none in production either

	Version string
	Logger  *slog.Logger // discards
}

// Check returns what is wrong with the options, as far as it can be told before
// the service is put together: Faults, joined. New checks them, too.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

func (o Options) withDefaults() (Options, error) {
	setDefault(&o.Mode, Demo)
	var unknownMode error
	switch o.Mode {
	case Demo:
		setDefault(&o.Database, Memory)
	case Production:
		setDefault(&o.Database, "requests.db")
		if !o.InsecureNoRateLimit {
			setDefault(&o.Rate, Rate{N: 50, Window: time.Minute})
		}
	default:
		unknownMode = fault("Mode", "must be %s or %s, is %q", Demo, Production, o.Mode)
	}
	if len(o.Roles) == 0 {
		o.Roles = []Role{RoleAPI, RoleWorker}
	}
	faults := errors.Join(unknownMode, o.contradictions(), o.unusable(), o.outOfRange())
	o.RequireKeys = o.needsKeys()
	setDefault(&o.Addr, "127.0.0.1:8000")
	setDefault(&o.MaxConnections, 10_000)
	setDefault(&o.DrainTimeout, 30*time.Second)
	setDefault(&o.Rounds, work.DefaultRounds)
	setDefault(&o.CallbackAttempts, o.usualPolicy().Attempts)
	setDefault(&o.CallbackMaxAge, o.usualPolicy().MaxAge)
	setDefault(&o.Version, "unknown")
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, faults
}

func (o *Options) needsKeys() bool {
	return o.RequireKeys || o.Mode == Production && !o.InsecureNoAuth
}

// contradictions returns what of the options does not go together.
func (o *Options) contradictions() error {
	var faults []error
	if o.RequireKeys && o.InsecureNoAuth {
		faults = append(faults, fault("RequireKeys", "contradicts %s; leave one of them out", option("InsecureNoAuth")))
	}
	switch {
	case o.Database != Memory || !o.needsKeys():
	case o.RequireKeys:
		faults = append(faults, fault("Database", "a service in memory can have no API keys; give it a file, or leave out %s", option("RequireKeys")))
	default:
		faults = append(faults, fault("Database", "a service in memory can have no API keys; give it a file, or let anyone in with %s", option("InsecureNoAuth")))
	}
	if o.DatabasePollOnly && !IsPostgres(o.Database) {
		faults = append(faults, fault("DatabasePollOnly", "is for a Postgres; give %s its URL", option("Database")))
	}
	switch {
	case o.TLSCert != "" && o.TLSKey == "":
		faults = append(faults, fault("TLSKey", "must be given with %s", option("TLSCert")))
	case o.TLSKey != "" && o.TLSCert == "":
		faults = append(faults, fault("TLSCert", "must be given with %s", option("TLSKey")))
	}
	return errors.Join(faults...)
}

// unusable returns which options are nothing that they could be.
func (o *Options) unusable() error {
	var faults []error
	unknown := func(r Role) bool { return r != RoleAPI && r != RoleWorker }
	if i := slices.IndexFunc(o.Roles, unknown); i >= 0 {
		faults = append(faults, fault("Roles", "must be of %s and %s, has %q", RoleAPI, RoleWorker, o.Roles[i]))
	} else if !IsPostgres(o.Database) && (!o.has(RoleAPI) || !o.has(RoleWorker)) {
		faults = append(faults, fault("Roles", "the one process that a file can have takes all roles; give %s a postgres:// URL to have more processes", option("Database")))
	}
	if o.TLSCert != "" && o.TLSKey != "" {
		if _, err := tls.LoadX509KeyPair(o.TLSCert, o.TLSKey); err != nil {
			faults = append(faults, fault("TLSCert", "%v", err))
		}
	}
	for _, origin := range o.CORSOrigins {
		if err := httpapi.CheckOrigin(origin); err != nil {
			faults = append(faults, fault("CORSOrigins", "%v", err))
		}
	}
	for _, prefix := range o.InsecureAllowCallbackNets {
		if err := egress.CheckRange(prefix); err != nil {
			faults = append(faults, fault("InsecureAllowCallbackNets", "%v", err))
		}
	}
	if slices.Contains(o.AllowCallbackPorts, 0) {
		faults = append(faults, fault("AllowCallbackPorts", "must be from 1 to 65535, is 0"))
	}
	if o.Rate != (Rate{}) && (o.Rate.N < 1 || o.Rate.Window < time.Second) {
		faults = append(faults, fault("Rate", "must be a count and a window of at least a second, is %v", o.Rate))
	}
	return errors.Join(faults...)
}

// outOfRange returns which options are less or more than they can be. Zero is
// the default.
func (o *Options) outOfRange() error {
	var faults []error
	for _, n := range []struct {
		option      string
		value, most int
	}{
		{"Workers", o.Workers, 1024},
		{"IOConcurrency", o.IOConcurrency, 100_000},
		{"MaxPending", o.MaxPending, 1_000_000_000},
		{"Rounds", o.Rounds, 1_000_000_000},
		{"CallbackAttempts", o.CallbackAttempts, 20},
		{"CallbackPerHost", o.CallbackPerHost, 10_000},
		{"MaxConnections", o.MaxConnections, 1_000_000},
	} {
		if n.value < 0 || n.value > n.most {
			faults = append(faults, fault(n.option, "must be from 1 to %d, is %d", n.most, n.value))
		}
	}
	for _, d := range []struct {
		option string
		value  time.Duration
	}{
		{"SyncQueueTimeout", o.SyncQueueTimeout},
		{"WorkTimeout", o.WorkTimeout},
		{"DrainTimeout", o.DrainTimeout},
		{"CallbackTimeout", o.CallbackTimeout},
		{"CallbackMaxAge", o.CallbackMaxAge},
	} {
		if d.value < 0 {
			faults = append(faults, fault(d.option, "must be positive, such as 30s, is %v", d.value))
		}
	}
	if o.Retain != 0 && o.Retain < time.Second {
		faults = append(faults, fault("Retain", "must be at least 1s, such as 720h, is %v", o.Retain))
	}
	return errors.Join(faults...)
}

func (o *Options) has(r Role) bool { return slices.Contains(o.Roles, r) }

// usualPolicy is when callbacks are tried again in the mode.
func (o *Options) usualPolicy() callback.Policy {
	if o.Mode == Production {
		return callback.Production
	}
	return callback.Demo
}

// policy is when callbacks are tried again.
func (o *Options) policy() callback.Policy {
	policy := o.usualPolicy()
	policy.Attempts, policy.MaxAge = o.CallbackAttempts, o.CallbackMaxAge
	return policy
}

// callbackRules are where callbacks may go.
func (o *Options) callbackRules() egress.Options {
	return egress.Options{
		InsecureAllow:   o.InsecureAllowCallbackNets,
		AllowPorts:      o.AllowCallbackPorts,
		HTTPSOnly:       o.RequireHTTPSCallbacks,
		LoopbackAnyPort: o.Mode == Demo,
		DNS64:           o.CallbackDNS64,
	}
}

// notices tells what the options make less safe or less durable. durable is what
// the database says of itself.
func (o *Options) notices(durable bool) []string {
	var n []string
	switch {
	case o.Database == Memory:
		n = append(n, "not durable: requests are kept in memory and are lost when the service stops")
	case !durable:
		n = append(n, "not durable: this Postgres does not wait for the disk (fsync, synchronous_commit), and loses requests when its machine stops")
	}
	if o.Mode == Demo {
		n = append(n, "demo mode: callbacks may reach any port on loopback")
	}
	if o.Mode == Production && o.InsecureNoAuth {
		n = append(n, "no authentication: anyone who can reach the service may use it and see all requests")
	}
	for _, prefix := range o.InsecureAllowCallbackNets {
		n = append(n, "callbacks may reach "+prefix.String())
	}
	if !o.has(RoleWorker) {
		n = append(n, "without the role worker: requests are accepted here and worked by other processes")
	}
	if !o.has(RoleAPI) {
		n = append(n, "without the role api: requests are worked here and accepted by other processes")
	}
	if o.Paused {
		n = append(n, "paused: requests are accepted and not worked")
	}
	return n
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
