package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tandem"
	"tandem/internal/access"
	"tandem/internal/engine"
	"tandem/internal/limit"
	"tandem/webhook"
)

// Options say how the API presents itself. The zero value of each means its
// default.
type Options struct {
	Demo    bool // offer POST /test-callback
	Version string

	Keys           *access.Keyring              // who may enter; nil: anyone
	Rate           limit.Rate                   // of POST requests per caller who has none of their own; none
	NewLimiter     func(limit.Rate) limit.Taker // one for each rate that somebody has; nil: limit.New's
	TrustedProxies []netip.Prefix               // whose X-Forwarded-For is believed

	// NoSubmissions refuses new requests: other processes take them.
	NoSubmissions bool

	// CORSOrigins are those whose pages may use the service; see CheckOrigin.
	CORSOrigins []string
	// SeparateAdmin moves the metrics and the docs to Admin.
	SeparateAdmin bool
	// Queue is what shows operators the queue, at QueuePath of Admin; nil: there
	// is none.
	Queue http.Handler

	// Notices are shown at /healthz: what an operator chose that makes the
	// service less safe or less durable than it could be.
	Notices []string

	Secrets  []webhook.Secret // to verify what POST /test-callback receives
	Logger   *slog.Logger
	Registry *prometheus.Registry // what /metrics shows; required
}

// API is the service's HTTP face.
type API struct {
	engine  *engine.Engine
	opts    Options
	log     *slog.Logger
	rates   rates
	guesses *limit.Limiter // of wrong keys, by address
	origins *http.CrossOriginProtection
	metrics *httpMetrics

	main, admin http.Handler
}

// ServeHTTP answers everybody.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.main.ServeHTTP(w, r) }

// Admin answers operators, whom it does not ask for a key: it must be served
// where nobody else can reach it. Besides what tells how the service is doing
// it has the profiles of net/http/pprof, and the pages of the queue.
func (a *API) Admin() http.Handler { return a.admin }

// New returns the handler of the whole API, or what is wrong with the options.
func New(e *engine.Engine, opts Options) (*API, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	a := &API{engine: e, opts: opts, log: opts.Logger, rates: rates{limiter: opts.NewLimiter}, guesses: limit.New(wrongKeys), metrics: newHTTPMetrics(opts.Registry)}
	mux, admin := http.NewServeMux(), http.NewServeMux()
	a.routes(mux, admin)
	var err error
	if a.origins, err = originGuard(opts.CORSOrigins); err != nil {
		return nil, err
	}
	operators, err := originGuard(nil) // no other page has business with the pages for operators
	if err != nil {
		return nil, err
	}
	a.main = a.observed(forBrowsers(a.recovered(a.authorized(plainPaths(mux))), opts.CORSOrigins))
	a.admin = a.observed(forBrowsers(a.recovered(operators.Handler(plainPaths(admin))), nil))
	return a, nil
}

// routes registers every route, in the order of docs/API_ENDPOINTS.md.
func (a *API) routes(mux, admin *http.ServeMux) {
	api := humago.New(mux, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title:       "Tandem",
				Version:     a.opts.Version,
				Description: "The same unit of work behind a synchronous and an asynchronous API.",
				License:     &huma.License{Name: "MIT", Identifier: "MIT"},
			},
			Components: &huma.Components{Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)},
		},
		Formats:       huma.DefaultFormats,
		DefaultFormat: "application/json",
		Transformers:  []huma.Transformer{fromHuma},
	})
	op := operations{api}
	api.UseMiddleware(onlyKnownParameters)

	huma.Register(api, op.submits(op.describe("POST", "/sync", "Run the work and answer with its result", "409 413 415 429 500 502 503 504"), 200), a.sync)
	huma.Register(api, op.submits(op.describe("POST", "/async", "Accept the work: 202 once it is on disk", "413 415 429 503"), 202), a.async)
	huma.Register(api, op.describe("GET", "/requests", "The history, newest first", ""), a.list)
	huma.Register(api, op.describe("GET", "/requests/{id}", "One request; ?wait=30s holds the answer until it is worked", "404"), a.show)
	huma.Register(api, op.describe("GET", "/requests/{id}/attempts", "Every attempt at delivering its callback", "404"), a.attempts)
	huma.Register(api, op.describe("DELETE", "/requests/{id}", "Cancel it, if it is not worked yet", "404 409 503"), a.cancel)
	huma.Register(api, op.describe("POST", "/requests/{id}/redeliver", "Deliver its callback again, under the same webhook-id", "404 409 503"), a.redeliver)
	huma.Register(api, op.describe("GET", "/callbacks", "The callbacks that were given up, or in another state, newest first", ""), a.callbacks)
	huma.Register(api, op.describe("POST", "/callbacks/redeliver", "Deliver many callbacks again", "413 415 503"), a.redeliverMany)
	huma.Register(api, op.describe("GET", "/stats", "What the service has done and is doing", "503"), a.stats)
	huma.Register(api, op.describe("GET", "/healthz", "Alive", "500"), a.healthz)
	huma.Register(api, op.describe("GET", "/readyz", "Able to accept requests", "503"), a.readyz)
	a.operatorRoutes(admin, mux)
	watched := mux // where the metrics and the docs are
	if a.opts.SeparateAdmin {
		watched = admin
	}
	watched.Handle("GET /metrics", promhttp.HandlerFor(a.opts.Registry, promhttp.HandlerOpts{}))
	if a.opts.Demo {
		mux.HandleFunc("POST /test-callback", a.testCallback)
	}
	op.describeBodies(a.engine.Workloads())
	op.describePlainRoutes(a.opts.Demo)
	if a.opts.Keys != nil {
		op.describeKeys()
	}
	a.docs(watched, api.OpenAPI())

	a.refuseTheRest(mux, admin, api.OpenAPI())
}

// operatorRoutes registers what only operators get, and what they get as well
// as everybody.
func (a *API) operatorRoutes(admin, everybody *http.ServeMux) {
	admin.Handle("GET /healthz", everybody)
	admin.Handle("GET /readyz", everybody)
	admin.HandleFunc("GET /debug/pprof/", pprof.Index)
	admin.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	admin.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	admin.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	admin.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	if a.opts.Queue != nil {
		a.queue(admin)
	}
}

// refuseTheRest answers what no route takes: 405 for a known path, OPTIONS
// with what it allows, and 404 for everything else.
func (a *API) refuseTheRest(mux, admin *http.ServeMux, doc *huma.OpenAPI) {
	watched := mux // as in routes
	if a.opts.SeparateAdmin {
		watched = admin
	}
	for _, path := range []string{"/openapi.json", "/docs", "/docs/", "/redoc", "/redoc/redoc.standalone.js"} {
		refuseOtherMethods(watched, path, "GET, HEAD")
	}
	for _, path := range []string{"/healthz", "/readyz", "/debug/pprof/"} {
		refuseOtherMethods(admin, path, "GET, HEAD")
	}
	for path, item := range doc.Paths {
		var methods []string
		if item.Get != nil {
			methods = append(methods, "GET", "HEAD")
		}
		if item.Post != nil {
			methods = append(methods, "POST")
		}
		if item.Delete != nil {
			methods = append(methods, "DELETE")
		}
		sort.Strings(methods)
		of := mux
		if path == "/metrics" {
			of = watched
		}
		refuseOtherMethods(of, path, strings.Join(methods, ", "))
	}
	mux.HandleFunc("/", nothingHere)
	admin.HandleFunc("/", nothingHere)
}

func refuseOtherMethods(mux *http.ServeMux, path, methods string) {
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", methods+", OPTIONS")
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		newProblem(http.StatusMethodNotAllowed, "method_not_allowed", "", "this path takes "+methods).write(w)
	})
}

func nothingHere(w http.ResponseWriter, _ *http.Request) {
	newProblem(http.StatusNotFound, "not_found", "", "there is nothing here; GET /docs lists what there is").write(w)
}

// exchange gives a huma handler the plain request and response. huma fills it
// in before it calls the handler.
type exchange struct {
	r *http.Request
	w http.ResponseWriter
}

// Resolve implements huma.Resolver.
func (x *exchange) Resolve(ctx huma.Context) []error {
	x.r, x.w = humago.Unwrap(ctx)
	return nil
}

// refuse turns an error into its answer, and logs what the client is not told.
// What fails because the client left is no failure of ours, and neither is that
// there is no room: under overload a line for each would be a load of its own.
func (a *API) refuse(r *http.Request, err error) error {
	p := problemOf(err)
	if p.Status >= http.StatusInternalServerError && !errors.Is(err, p) {
		if r.Context().Err() != nil {
			return newProblem(statusClientGone, "client_gone", "", "the caller left before the answer")
		}
		if told := tandem.CodeOf(err); told == tandem.CodeBusy || told == tandem.CodeDraining {
			return p
		}
		a.log.LogAttrs(r.Context(), slog.LevelWarn, "refused", slog.String("path", r.URL.Path), slog.Int("status", p.Status), slog.Any("error", err))
	}
	return p
}

// extendWrite lets an answer take longer than the server's write timeout.
func extendWrite(w http.ResponseWriter, by time.Duration) error {
	return http.NewResponseController(w).SetWriteDeadline(time.Now().Add(by + writeSlack))
}

// writeSlack is what remains for the answer itself.
const writeSlack = 10 * time.Second

// submitted is the answer of POST /sync and POST /async: the outcome, or that it
// is promised.
type submitted struct {
	Status     int
	Location   string `header:"Location" doc:"Where to ask how the request stands; of a 202"`
	RetryAfter string `header:"Retry-After" doc:"Seconds until it is worth asking; of a 202"`
	Replayed   string `header:"Idempotency-Replayed" doc:"true, if the answer is that of an earlier request with the same Idempotency-Key"`
	Body       any
}

// sync answers POST /sync. With Prefer: respond-async it promises the outcome
// as POST /async does, at once or after the time in wait (RFC 7240).
func (a *API) sync(ctx context.Context, in *struct{ exchange }) (*submitted, error) {
	in.w.Header().Add("Vary", "Prefer")
	prefer := preferences(in.r.Header)
	mode := tandem.Sync
	if prefer.async {
		mode = tandem.Async
	}
	sub, err := decodeSubmission(in.r, mode)
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	if sub.Idempotency.Key != "" && !prefer.async {
		prefer.wait = 0 // the work goes on without its caller, who may come back
	}
	if applied := prefer.applied(); applied != "" {
		in.w.Header().Set("Preference-Applied", applied)
	}
	if err := extendWrite(in.w, a.engine.LongestSync()+prefer.wait); err != nil {
		return nil, a.refuse(in.r, err)
	}
	var req *tandem.Request
	var replayed bool
	switch {
	case prefer.async && prefer.wait > 0:
		req, replayed, err = a.engine.Try(ctx, sub, prefer.wait)
	case prefer.async:
		req, replayed, err = a.engine.Accept(ctx, sub)
	default:
		if prefer.wait > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, prefer.wait)
			defer cancel()
		}
		req, replayed, err = a.engine.Do(ctx, sub)
	}
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	return a.answerOf(ctx, req, replayed, !prefer.async || prefer.wait > 0)
}

// async answers POST /async.
func (a *API) async(ctx context.Context, in *struct{ exchange }) (*submitted, error) {
	sub, err := decodeSubmission(in.r, tandem.Async)
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	req, replayed, err := a.engine.Accept(ctx, sub)
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	return a.answerOf(ctx, req, replayed, false)
}

// answerOf is the outcome of a request whose caller waits for it and that is
// worked, or else the promise of it.
func (a *API) answerOf(ctx context.Context, req *tandem.Request, replayed, waits bool) (*submitted, error) {
	note(ctx, req.ID)
	answer := &submitted{}
	if replayed {
		answer.Replayed = "true"
	}
	if !waits || !req.Status.Worked() {
		answer.Status = http.StatusAccepted
		answer.Location = "/requests/" + req.ID
		answer.RetryAfter = pollAgain
		answer.Body = AsyncAnswer{RequestID: req.ID, Status: "accepted", Message: a.promise(req), StatusURL: answer.Location}
		return answer, nil
	}
	if req.Failure != nil {
		p := problemOfFailure(req)
		if replayed {
			p.with("Idempotency-Replayed", "true")
		}
		return nil, p
	}
	answer.Status = http.StatusOK
	answer.Body = SyncAnswer{
		RequestID:        req.ID,
		Result:           req.Result,
		ProcessingTimeMS: engine.Milliseconds(req.ProcessingTime()),
		Timestamp:        req.WorkedAt,
	}
	return answer, nil
}

// promise is a 202 in words: it says "on disk" only where that is so, and promises
// a callback only if there is one. There is none of a request whose outcome was
// its caller's answer, should that be asked for again.
func (a *API) promise(req *tandem.Request) string {
	where, outcome := "on disk", "ask for the outcome at status_url"
	if _, durable := a.engine.Backend(); !durable {
		where = "accepted, but not durable: see /healthz"
	}
	if req.Callback.State != tandem.CallbackNone {
		outcome = "the outcome will be sent to callback_url"
	}
	return where + "; " + outcome
}

// preference is what a client would like (RFC 7240).
type preference struct {
	async bool          // respond-async
	wait  time.Duration // how long it is willing to wait; 0: it does not say
}

// preferences reads Prefer. What is malformed is ignored, as the RFC asks for;
// of one that comes twice the first counts.
func preferences(h http.Header) (p preference) {
	for item := range strings.SplitSeq(strings.Join(h.Values("Prefer"), ","), ",") {
		item, _, _ = strings.Cut(item, ";") // parameters, of which these two have none
		name, value, _ := strings.Cut(item, "=")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "respond-async":
			p.async = true
		case "wait":
			seconds, err := strconv.Atoi(strings.Trim(strings.TrimSpace(value), `"`))
			if err == nil && seconds > 0 && seconds <= 3600 && p.wait == 0 {
				p.wait = time.Duration(seconds) * time.Second
			}
		}
	}
	return p
}

// applied is what Preference-Applied says.
func (p preference) applied() string {
	var all []string
	if p.async {
		all = append(all, "respond-async")
	}
	if p.wait > 0 {
		all = append(all, "wait="+strconv.Itoa(int(p.wait.Seconds())))
	}
	return strings.Join(all, ", ")
}

// pollAgain is when a caller who polls should ask again. ?wait serves those
// who cannot wait so long.
const pollAgain = "1"
