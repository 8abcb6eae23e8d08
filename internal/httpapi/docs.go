package httpapi

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/swaggest/swgui"
	"github.com/swaggest/swgui/v5emb"

	"tandem/webhook"
	"tandem/work"
)

// Redoc, from the npm package redoc 2.5.4, with its licence beside it.
//
//go:embed assets/redoc
var assets embed.FS

// docs serves the OpenAPI document and two pages that show it. Everything they
// need is in the binary.
func (a *API) docs(mux *http.ServeMux, doc *huma.OpenAPI) {
	for _, name := range []string{"ErrorModel", "ErrorDetail"} { // of huma; we answer with a Problem instead
		delete(doc.Components.Schemas.Map(), name)
	}
	spec, err := json.Marshal(doc)
	if err != nil {
		panic("encode the OpenAPI document: " + err.Error()) // unreachable: it is made of our own types
	}
	serve := func(pattern, contentType string, body []byte) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			w.Header().Set("Cache-Control", "no-cache")
			if strings.HasPrefix(contentType, "text/html") {
				w.Header().Set("Content-Security-Policy", pagePolicy(body))
			}
			_, _ = w.Write(body) // the client's loss if it is gone
		})
	}
	asset := func(name string) []byte {
		body, err := assets.ReadFile("assets/redoc/" + name)
		if err != nil {
			panic(err) // unreachable: it is embedded
		}
		return body
	}
	serve("GET /openapi.json", "application/openapi+json", spec)
	serve("GET /redoc", "text/html; charset=utf-8", asset("index.html"))
	serve("GET /redoc/redoc.standalone.js", "text/javascript; charset=utf-8", asset("redoc.standalone.js"))
	mux.Handle("GET /docs", http.RedirectHandler("/docs/", http.StatusFound))
	swagger := v5emb.NewWithConfig(swgui.Config{
		AppendHead: `<meta name="viewport" content="width=device-width, initial-scale=1">`, // else phones shrink it to a third
	})("Tandem API", "/openapi.json", "/docs/")
	policy := pagePolicy(pageOf(swagger))
	mux.HandleFunc("GET /docs/", func(w http.ResponseWriter, r *http.Request) {
		whole := *r // without ranges, and conditions that may fail
		whole.Header = http.Header{"Accept-Encoding": r.Header["Accept-Encoding"], "If-None-Match": r.Header["If-None-Match"]}
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("Cache-Control", "no-cache")
		swagger.ServeHTTP(&withProblems{ResponseWriter: w}, &whole)
	})
}

// inlineScript is a script within a page.
var inlineScript = regexp.MustCompile(`(?s)<script>(.*?)</script>`)

// pagePolicy lets a page of the docs load what is on this server, and run its
// own scripts: those that are in the page by their hashes. Both libraries write
// styles into the page, and Redoc searches in a worker of its own making.
func pagePolicy(page []byte) string {
	scripts := "'self'"
	for _, script := range inlineScript.FindAllSubmatch(page, -1) {
		sum := sha256.Sum256(script[1])
		scripts += " 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; script-src " + scripts + "; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; " +
		"connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// pageOf is what a handler answers GET /docs/ with.
func pageOf(h http.Handler) []byte {
	r, err := http.NewRequest(http.MethodGet, "/docs/", nil)
	if err != nil {
		panic(err) // unreachable: it is above
	}
	page := &recorded{header: make(http.Header)}
	h.ServeHTTP(page, r)
	return page.body.Bytes()
}

type recorded struct {
	header http.Header
	body   bytes.Buffer
}

func (p *recorded) Header() http.Header         { return p.header }
func (p *recorded) WriteHeader(int)             {}
func (p *recorded) Write(b []byte) (int, error) { return p.body.Write(b) }

// withProblems turns the plain text that a file server answers an error with
// into a problem document.
type withProblems struct {
	http.ResponseWriter
	refused bool
}

func (w *withProblems) WriteHeader(status int) {
	if status < http.StatusBadRequest {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.refused = true
	code := "internal"
	if status == http.StatusNotFound {
		code = "not_found"
	}
	newProblem(status, code, "", "this page has no such part").write(w.ResponseWriter)
}

func (w *withProblems) Write(b []byte) (int, error) {
	if w.refused {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// operations describes routes for the OpenAPI document.
type operations struct{ api huma.API }

// describe makes an operation that may be refused with the given statuses.
func (o operations) describe(method, path, summary, refusals string) huma.Operation {
	op := huma.Operation{
		OperationID: operationID(method, path),
		Method:      method,
		Path:        path,
		Summary:     summary,
		Responses:   make(map[string]*huma.Response),
	}
	for status := range strings.FieldsSeq(refusals) {
		op.Responses[status] = o.refusal(status)
	}
	if method == http.MethodPost {
		op.Responses["400"] = o.refusal("400")
	}
	if !isPublic(path) { // see onlyKnownParameters
		op.Responses["422"] = o.refusal("422")
	}
	return op
}

// describePlainRoutes describes the routes that huma does not serve.
func (o operations) describePlainRoutes(demo bool) {
	metrics := o.describe("GET", "/metrics", "Counters, gauges and histograms for Prometheus", "")
	metrics.Responses["200"] = &huma.Response{
		Description: "Prometheus text format",
		Content:     map[string]*huma.MediaType{"text/plain": {Schema: &huma.Schema{Type: "string"}}},
	}
	o.api.OpenAPI().AddOperation(&metrics)
	if demo {
		receive := o.describe("POST", "/test-callback", "A receiver for trying by hand: shows and verifies what it gets", "413 415 422")
		receive.Responses["200"] = &huma.Response{
			Description: "What was received",
			Content:     map[string]*huma.MediaType{"application/json": {Schema: o.schema(reflect.TypeFor[TestCallback]())}},
		}
		o.api.OpenAPI().AddOperation(&receive)
	}
}

func (o operations) refusal(status string) *huma.Response {
	code, err := strconv.Atoi(status)
	if err != nil {
		panic(err) // unreachable: the statuses are written in this package
	}
	refusal := &huma.Response{
		Description: http.StatusText(code),
		Content: map[string]*huma.MediaType{
			problemMediaType: {Schema: o.schema(reflect.TypeFor[Problem]())},
		},
	}
	if code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable {
		refusal.Headers = map[string]*huma.Param{
			"Retry-After": {Description: "Seconds until it is worth trying again", Schema: &huma.Schema{Type: huma.TypeInteger}},
		}
	}
	return refusal
}

// submits describes an operation that takes work: its two good answers, the one
// to expect first, and the callback that is owed after a 202.
func (o operations) submits(op huma.Operation, status int) huma.Operation {
	op.DefaultStatus = status
	answer := func(status, doc string, t reflect.Type) {
		op.Responses[status] = &huma.Response{
			Description: doc,
			Content:     map[string]*huma.MediaType{"application/json": {Schema: o.schema(t)}},
		}
	}
	answer("202", "Accepted: on disk, and worked whatever happens", reflect.TypeFor[AsyncAnswer]())
	op.Parameters = append(op.Parameters, optional("Idempotency-Key", "What a repeated request is known by for 24 hours: it gets the answer of the first"))
	if status == http.StatusOK {
		answer("200", "The result", reflect.TypeFor[SyncAnswer]())
		op.Parameters = append(op.Parameters, optional("Prefer", "respond-async: answer as POST /async does; wait=5: within 5 seconds (RFC 7240)"))
	}
	op.Callbacks = map[string]map[string]*huma.PathItem{
		"outcome": {"{$request.body#/callback_url}": {Post: &huma.Operation{
			OperationID: "callback",
			Summary:     "Sent to callback_url when the work has ended, signed as Standard Webhooks 1.0",
			Parameters: []*huma.Param{
				header("webhook-id", "The request's id; the same on every attempt"),
				header("webhook-timestamp", "When this attempt was sent, in seconds since 1970"),
				header("webhook-signature", "v1,<base64 of the HMAC-SHA256>; several, parted by spaces, while secrets rotate"),
			},
			RequestBody: o.body(reflect.TypeFor[webhook.Event]()),
			Responses: map[string]*huma.Response{
				"2XX":     {Description: "Delivered"},
				"410":     {Description: "Delivered no more: the callback is given up at once"},
				"default": {Description: "Tried again later; Retry-After is heeded"},
			},
		}}},
	}
	return op
}

// describeBodies adds the bodies of the POST routes to the document, with the
// kinds of work that there are. huma is not told of them before: it would decode
// them itself, and less strictly.
func (o operations) describeBodies(kinds []work.Kind) {
	paths := o.api.OpenAPI().Paths
	paths["/sync"].Post.RequestBody = o.body(reflect.TypeFor[SubmitSync]())
	paths["/async"].Post.RequestBody = o.body(reflect.TypeFor[SubmitAsync]())
	paths["/callbacks/redeliver"].Post.RequestBody = o.body(reflect.TypeFor[Redelivery]())
	var names []any
	for _, kind := range kinds {
		names = append(names, kind.Name)
	}
	for _, body := range []string{"SubmitSync", "SubmitAsync"} {
		o.api.OpenAPI().Components.Schemas.Map()[body].Properties["workload"].Enum = names
	}
}

// describeKeys adds to the document that an API key is asked for, everywhere but
// where a load balancer looks.
func (o operations) describeKeys() {
	doc := o.api.OpenAPI()
	doc.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"api-key": {Type: "http", Scheme: "bearer", Description: "An API key, made with tandem keys create"},
	}
	for path, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Delete} {
			if op != nil && !isPublic(path) {
				op.Security = []map[string][]string{{"api-key": {}}}
				op.Responses["401"] = o.refusal("401")
			}
		}
	}
}

func (o operations) body(t reflect.Type) *huma.RequestBody {
	return &huma.RequestBody{
		Required: true,
		Content:  map[string]*huma.MediaType{"application/json": {Schema: o.schema(t)}},
	}
}

func (o operations) schema(t reflect.Type) *huma.Schema {
	return o.api.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
}

func header(name, doc string) *huma.Param {
	return &huma.Param{Name: name, In: "header", Required: true, Description: doc, Schema: &huma.Schema{Type: huma.TypeString}}
}

func optional(name, doc string) *huma.Param {
	p := header(name, doc)
	p.Required = false
	return p
}

func operationID(method, path string) string {
	words := strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == '{' || r == '}' })
	return strings.ToLower(method) + "-" + strings.Join(words, "-")
}
