package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

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

	Keys           *access.Keyring // who may enter; nil: anyone
	Rate           limit.Rate      // of POST requests per caller who has none of their own; none
	TrustedProxies []netip.Prefix  // whose X-Forwarded-For is believed

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
	metrics *httpMetrics
}

// New returns the handler of the whole API.
func New(e *engine.Engine, opts Options) http.Handler {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	a := &API{engine: e, opts: opts, log: opts.Logger, guesses: limit.New(wrongKeys), metrics: newHTTPMetrics(opts.Registry)}
	mux := http.NewServeMux()
	a.routes(mux)
	return a.observed(a.recovered(mux))
}

// routes registers every route, in the order of docs/API_ENDPOINTS.md.
func (a *API) routes(mux *http.ServeMux) {
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

	huma.Register(api, op.describe("POST", "/sync", "Run the work and answer with its result", "413 415 422 429 500 502 503 504"), a.sync)
	huma.Register(api, op.accepts(op.describe("POST", "/async", "Accept the work: 202 once it is on disk", "413 415 422 429 503")), a.async)
	huma.Register(api, op.describe("GET", "/requests", "The history, newest first", "422"), a.list)
	huma.Register(api, op.describe("GET", "/requests/{id}", "One request; ?wait=30s holds the answer until it is worked", "404 422"), a.show)
	huma.Register(api, op.describe("GET", "/requests/{id}/attempts", "Every attempt at delivering its callback", "404"), a.attempts)
	huma.Register(api, op.describe("GET", "/stats", "What the service has done and is doing", "503"), a.stats)
	huma.Register(api, op.describe("GET", "/healthz", "Alive", "500"), a.healthz)
	huma.Register(api, op.describe("GET", "/readyz", "Able to accept requests", "503"), a.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.opts.Registry, promhttp.HandlerOpts{}))
	if a.opts.Demo {
		mux.HandleFunc("POST /test-callback", a.testCallback)
	}
	op.describeBodies()
	op.describePlainRoutes(a.opts.Demo)
	a.docs(mux, api.OpenAPI())

	a.refuseTheRest(mux, api.OpenAPI())
}

// refuseTheRest answers what no route takes: 405 for a known path, OPTIONS
// with what it allows, and 404 for everything else.
func (a *API) refuseTheRest(mux *http.ServeMux, doc *huma.OpenAPI) {
	allowed := map[string]string{
		"/openapi.json": "GET, HEAD", "/docs": "GET, HEAD", "/docs/": "GET, HEAD",
		"/redoc": "GET, HEAD", "/redoc/redoc.standalone.js": "GET, HEAD",
	}
	for path, item := range doc.Paths {
		var methods []string
		if item.Get != nil {
			methods = append(methods, "GET", "HEAD")
		}
		if item.Post != nil {
			methods = append(methods, "POST")
		}
		sort.Strings(methods)
		allowed[path] = strings.Join(methods, ", ")
	}
	for path, methods := range allowed {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", methods+", OPTIONS")
			if r.Method == http.MethodOptions {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			newProblem(http.StatusMethodNotAllowed, "method_not_allowed", "", "this path takes "+methods).write(w)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		newProblem(http.StatusNotFound, "not_found", "", "there is nothing here; GET /docs lists what there is").write(w)
	})
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
// What fails because the client left is no failure of ours.
func (a *API) refuse(r *http.Request, err error) error {
	p := problemOf(err)
	if p.Status >= http.StatusInternalServerError && !errors.Is(err, p) {
		if r.Context().Err() != nil {
			return newProblem(statusClientGone, "client_gone", "", "the caller left before the answer")
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

// sync answers POST /sync.
func (a *API) sync(ctx context.Context, in *struct{ exchange }) (*struct{ Body SyncAnswer }, error) {
	sub, err := decodeSubmission(in.r, "sync")
	sub.Owner = caller(ctx).Name
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	if err := extendWrite(in.w, a.engine.LongestSync()); err != nil {
		return nil, a.refuse(in.r, err)
	}
	if wait, ok := preferredWait(in.r.Header); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
		in.w.Header().Set("Preference-Applied", "wait="+strconv.Itoa(int(wait.Seconds())))
	}
	req, err := a.engine.Do(ctx, sub)
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	note(ctx, req.ID)
	if req.Failure != nil {
		return nil, problemOfFailure(req)
	}
	return &struct{ Body SyncAnswer }{SyncAnswer{
		RequestID:        req.ID,
		Result:           req.Result,
		ProcessingTimeMS: engine.Milliseconds(req.ProcessingTime()),
		Timestamp:        req.WorkedAt,
	}}, nil
}

// preferredWait returns how long the client is willing to wait, from
// Prefer: wait=N (RFC 7240, section 4.3). What is malformed is ignored, as the
// RFC asks for.
func preferredWait(h http.Header) (time.Duration, bool) {
	for preference := range strings.SplitSeq(strings.Join(h.Values("Prefer"), ","), ",") {
		name, value, _ := strings.Cut(preference, "=")
		value, _, _ = strings.Cut(value, ";") // parameters, of which wait has none
		if !strings.EqualFold(strings.TrimSpace(name), "wait") {
			continue
		}
		seconds, err := strconv.Atoi(strings.Trim(strings.TrimSpace(value), `"`))
		if err == nil && seconds > 0 && seconds <= 3600 {
			return time.Duration(seconds) * time.Second, true
		}
	}
	return 0, false
}

// acceptance is the answer of POST /async.
type acceptance struct {
	Location   string `header:"Location"`
	RetryAfter string `header:"Retry-After" doc:"Seconds until it is worth asking how the request stands"`
	Body       AsyncAnswer
}

// async answers POST /async.
func (a *API) async(ctx context.Context, in *struct{ exchange }) (*acceptance, error) {
	sub, err := decodeSubmission(in.r, "async")
	sub.Owner = caller(ctx).Name
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	req, err := a.engine.Accept(ctx, sub)
	if err != nil {
		return nil, a.refuse(in.r, err)
	}
	note(ctx, req.ID)
	where := "/requests/" + req.ID
	message := "on disk; the outcome will be sent to callback_url"
	if req.Callback.URL == "" {
		message = "on disk; ask for the outcome at status_url"
	}
	return &acceptance{
		Location:   where,
		RetryAfter: pollAgain,
		Body:       AsyncAnswer{RequestID: req.ID, Status: "accepted", Message: message, StatusURL: where},
	}, nil
}

// pollAgain is when a caller who polls should ask again. ?wait serves those
// who cannot wait so long.
const pollAgain = "1"
