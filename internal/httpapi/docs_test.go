package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"tandem"
	"tandem/internal/access"
	"tandem/internal/engine"
	"tandem/work"
)

func TestOpenAPIDescribesEveryRouteAndTheCallback(t *testing.T) {
	s := newService(t, Options{Demo: true, Version: "1.2.3"}, engine.Options{})
	type operation struct {
		RequestBody any
		Responses   map[string]any
		Callbacks   map[string]map[string]map[string]struct{ RequestBody, Responses any }
	}
	doc := get[struct {
		OpenAPI string
		Info    struct{ Title, Version string }
		Paths   map[string]map[string]operation
	}](s, "/openapi.json")
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || doc.Info.Version != "1.2.3" || doc.Info.Title == "" {
		t.Errorf("OpenAPI %s of %+v", doc.OpenAPI, doc.Info)
	}
	routes := map[string]string{
		"/sync":                    "post 200 202 400 409 413 415 422 429 500 502 503 504",
		"/async":                   "post 202 400 413 415 422 429 503",
		"/requests":                "get 200 422",
		"/requests/{id}":           "get 200 404 422, delete 200 404 409",
		"/requests/{id}/attempts":  "get 200 404",
		"/requests/{id}/redeliver": "post 200 404 409",
		"/callbacks":               "get 200 422",
		"/callbacks/redeliver":     "post 200 400 422",
		"/stats":                   "get 200",
		"/healthz":                 "get 200",
		"/readyz":                  "get 200 503",
		"/metrics":                 "get 200",
		"/test-callback":           "post 200 400 413 415 422",
	}
	for path, described := range routes {
		methods := strings.Split(described, ", ")
		for _, one := range methods {
			method, statuses, _ := strings.Cut(one, " ")
			for status := range strings.FieldsSeq(statuses) {
				if doc.Paths[path][method].Responses[status] == nil {
					t.Errorf("%s %s: %s is not described", method, path, status)
				}
				later := status == "429" || status == "503"
				if later && !strings.Contains(fmt.Sprint(doc.Paths[path][method].Responses[status]), "Retry-After") {
					t.Errorf("%s %s: %s does not say when to come back", method, path, status)
				}
			}
		}
		if len(doc.Paths[path]) != len(methods) {
			t.Errorf("%s is described with other methods too", path)
		}
	}
	if len(doc.Paths) != len(routes) {
		t.Errorf("%d paths are described, want %d", len(doc.Paths), len(routes))
	}
	if doc.Paths["/sync"]["post"].RequestBody == nil || doc.Paths["/async"]["post"].RequestBody == nil {
		t.Error("the bodies of the two POST routes are not described")
	}
	outcome := doc.Paths["/async"]["post"].Callbacks["outcome"]["{$request.body#/callback_url}"]["post"]
	if outcome.RequestBody == nil || outcome.Responses == nil {
		t.Errorf("the callback of POST /async is %+v", outcome)
	}
	if doc.Paths["/sync"]["post"].Callbacks == nil {
		t.Error("POST /sync with Prefer: respond-async has no callback")
	}

	text := string(s.do("GET", "/openapi.json", "").body)
	for _, m := range regexp.MustCompile(`"\$ref":"#/components/schemas/(\w+)"`).FindAllStringSubmatch(text, -1) {
		if !strings.Contains(text, `"`+m[1]+`":{`) {
			t.Errorf("nothing describes %s", m[1])
		}
	}
	if strings.Contains(text, "ErrorModel") {
		t.Error("the document describes errors that are never answered")
	}
}

func TestOpenAPIAsksForAKeyWhereTheServiceDoes(t *testing.T) {
	keys := &access.Keyring{}
	token, id := access.NewToken()
	keys.Set([]access.Key{{Name: "ann", TokenID: id, Hash: access.HashToken(token)}})
	s := newService(t, Options{Keys: keys}, engine.Options{})
	a := s.do("GET", "/openapi.json", "", "Authorization", "Bearer "+token)
	var doc struct {
		Paths      map[string]map[string]struct{ Security []map[string][]string }
		Components struct {
			SecuritySchemes map[string]struct{ Type, Scheme string }
		}
	}
	if err := json.Unmarshal(a.body, &doc); err != nil {
		t.Fatal(err)
	}
	if got := doc.Components.SecuritySchemes["api-key"]; got.Type != "http" || got.Scheme != "bearer" {
		t.Errorf("the scheme is %+v", got)
	}
	for path, item := range doc.Paths {
		for method, op := range item {
			if asks := len(op.Security) > 0; asks == isPublic(path) {
				t.Errorf("%s %s asks for a key in the document: %v, by itself: %v", method, path, asks, !asks)
			}
		}
	}
}

// docs/API_ENDPOINTS.md lists every error_code, with the status that it comes
// with, and no other.
func TestEveryErrorCodeIsDocumented(t *testing.T) {
	answered := map[string]bool{}
	for _, code := range []tandem.Code{tandem.CodeInvalid, tandem.CodeNotFound, tandem.CodeConflict, tandem.CodeLimited, tandem.CodeBusy, tandem.CodeDraining, tandem.CodeUnavailable, tandem.CodeUnknown, tandem.CodeInternal} {
		answered[fmt.Sprint(statusOf[code], " ", code)] = true
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	call := regexp.MustCompile(`newProblem\(http\.Status(\w+), "(\w+)"`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllStringSubmatch(string(text), -1) {
			answered[fmt.Sprint(statusNamed[m[1]], " ", m[2])] = true
		}
	}
	text, err := os.ReadFile("../../docs/API_ENDPOINTS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n## Errors")
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| (\d{3}) \| ([^|]+) \|`).FindAllStringSubmatch(table, -1) {
		for _, code := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(m[2], -1) {
			documented[m[1]+" "+code[1]] = true
		}
	}
	for code := range answered {
		if !documented[code] {
			t.Errorf("docs/API_ENDPOINTS.md does not list %s", code)
		}
	}
	for code := range documented {
		if !answered[code] {
			t.Errorf("docs/API_ENDPOINTS.md lists %s, which is never answered", code)
		}
	}
}

// statusNamed are the statuses by the names that the code uses.
var statusNamed = map[string]int{
	"Unauthorized": 401, "Forbidden": 403, "NotFound": 404, "MethodNotAllowed": 405, "RequestTimeout": 408,
	"ExpectationFailed": 417, "RequestHeaderFieldsTooLarge": 431, "NotImplemented": 501, "HTTPVersionNotSupported": 505,
	"RequestEntityTooLarge": 413, "UnsupportedMediaType": 415, "TooManyRequests": 429, "BadRequest": 400, "InternalServerError": 500, "ServiceUnavailable": 503,
}

// The words of the API are those of the vocabulary.
func TestOpenAPIKnowsEveryStatusAndState(t *testing.T) {
	want := func(name string, field reflect.StructField, values []string) {
		t.Helper()
		if got := field.Tag.Get("enum"); got != strings.Join(values, ",") {
			t.Errorf("%s is described as one of %s, want %v", name, got, values)
		}
	}
	field := func(of reflect.Type, name string) reflect.StructField {
		f, ok := of.FieldByName(name)
		if !ok {
			t.Fatalf("%v has no %s", of, name)
		}
		return f
	}
	statuses, modes, states := texts(tandem.Statuses), texts(tandem.Modes), texts(tandem.CallbackStates)
	want("the status of a record", field(reflect.TypeFor[Record](), "Status"), statuses)
	want("the status asked for", field(reflect.TypeFor[listInput](), "Status"), statuses)
	want("the mode of a record", field(reflect.TypeFor[Record](), "Mode"), modes)
	want("the mode asked for", field(reflect.TypeFor[listInput](), "Mode"), modes)
	want("the state of a callback", field(reflect.TypeFor[CallbackRecord](), "State"), states)
}

func texts[T ~string](values []T) []string {
	var s []string
	for _, v := range values {
		s = append(s, string(v))
	}
	return s
}

func TestTheDocumentNamesEveryKindOfWork(t *testing.T) {
	s := newService(t, Options{}, engine.Options{}, work.Kind{Name: "knit", Class: work.Waits, Func: func(context.Context, work.Input) (json.RawMessage, error) { return nil, nil }})
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct{ Enum []string }
			}
		}
	}
	if err := json.Unmarshal(s.do("GET", "/openapi.json", "").body, &doc); err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"SubmitSync", "SubmitAsync"} {
		if got := strings.Join(doc.Components.Schemas[body].Properties["workload"].Enum, " "); got != "compute knit mixed wait" {
			t.Errorf("%s can ask for %s", body, got)
		}
	}
}

// What is answered is what the document describes, nulls and all.
func TestAnswersAreAsDescribed(t *testing.T) {
	s := newService(t, Options{Demo: true}, engine.Options{})
	check := func(name string, body []byte, as reflect.Type) {
		t.Helper()
		wantDescribed(t, name, body, as)
	}
	check("/stats of nothing", s.do("GET", "/stats", "").body, reflect.TypeFor[Stats]())
	check("/requests of nothing", s.do("GET", "/requests", "").body, reflect.TypeFor[[]Record]())
	check("/sync", s.do("POST", "/sync", small).body, reflect.TypeFor[SyncAnswer]())
	check("/async", s.do("POST", "/async", small).body, reflect.TypeFor[AsyncAnswer]())
	id := s.accept(`{"data":{"a":[null,1.50]},"callback_url":"` + s.url + `/test-callback"}`)
	s.until("the callback", func() bool { return get[Record](s, "/requests/"+id+"?wait=1s").Status == "callback_sent" })
	check("/requests", s.do("GET", "/requests", "").body, reflect.TypeFor[[]Record]())
	check("/requests/{id}", s.do("GET", "/requests/"+id, "").body, reflect.TypeFor[Record]())
	check("/requests/{id}/attempts", s.do("GET", "/requests/"+id+"/attempts", "").body, reflect.TypeFor[[]AttemptRecord]())
	check("/stats", s.do("GET", "/stats", "").body, reflect.TypeFor[Stats]())
	check("/healthz", s.do("GET", "/healthz", "").body, reflect.TypeFor[Health]())
	check("/readyz", s.do("GET", "/readyz", "").body, reflect.TypeFor[Health]())
	check("/test-callback", s.do("POST", "/test-callback", "{}").body, reflect.TypeFor[TestCallback]())
	for _, a := range []answer{s.do("POST", "/sync", "{}"), s.do("GET", "/requests?limit=0", ""), s.do("GET", "/nothing", "")} {
		check(a.Request.URL.Path, a.body, reflect.TypeFor[Problem]())
	}
}

// wantDescribed checks that an answer is what the document says of its type.
func wantDescribed(t *testing.T, name string, body []byte, as reflect.Type) {
	t.Helper()
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	schema := registry.Schema(as, true, as.Name())
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatalf("%s: %v in %s", name, err, body)
	}
	var result huma.ValidateResult
	huma.Validate(registry, schema, huma.NewPathBuffer(nil, 0), huma.ModeReadFromServer, v, &result)
	for _, fault := range result.Errors {
		t.Errorf("%s is not as described: %v", name, fault)
	}
}

func TestTheDocumentationWorksOffline(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	if a := s.do("GET", "/docs", ""); a.StatusCode != http.StatusFound || a.Header.Get("Location") != "/docs/" {
		t.Errorf("GET /docs: %s to %s", a.Status, a.Header.Get("Location"))
	}
	if a := s.do("GET", "/openapi.json", ""); a.Header.Get("Content-Type") != "application/openapi+json" || int64(len(a.body)) != a.ContentLength {
		t.Errorf("GET /openapi.json: %v", a.Header)
	}
	kinds := map[string]string{".js": "javascript", ".css": "text/css", ".png": "image/png"}
	linked := regexp.MustCompile(`(?:src|href)="([^"]+)"`)
	external := regexp.MustCompile(`["'(](?:https?:)?//[a-zA-Z0-9]`)
	for _, page := range []string{"/docs/", "/redoc"} {
		a := s.do("GET", page, "")
		if a.StatusCode != 200 || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") {
			t.Fatalf("GET %s: %s %s", page, a.Status, a.Header.Get("Content-Type"))
		}
		if found := external.FindAll(a.body, -1); found != nil {
			t.Errorf("%s points elsewhere: %s", page, found)
		}
		if !strings.Contains(string(a.body), `"/openapi.json"`) {
			t.Errorf("%s does not show /openapi.json", page)
		}
		if !strings.Contains(string(a.body), `<meta name="viewport" content="width=device-width`) {
			t.Errorf("%s is shrunk on a phone", page)
		}
		found := 0
		for _, m := range linked.FindAllSubmatch(a.body, -1) {
			asset := string(m[1])
			if !strings.HasPrefix(asset, "/") || strings.HasPrefix(asset, "//") {
				t.Errorf("%s loads %s", page, asset)
				continue
			}
			got := s.do("GET", asset, "")
			if got.StatusCode != 200 || len(got.body) == 0 {
				t.Errorf("%s loads %s: %s", page, asset, got.Status)
			}
			if want := kinds[asset[strings.LastIndex(asset, "."):]]; want == "" || !strings.Contains(got.Header.Get("Content-Type"), want) {
				t.Errorf("%s loads %s of type %q, want %q", page, asset, got.Header.Get("Content-Type"), want)
			}
			found++
		}
		if found == 0 {
			t.Errorf("%s loads nothing", page)
		}
	}
}

func TestThePagesRefuseInProblemsToo(t *testing.T) {
	s := newService(t, Options{}, engine.Options{})
	for _, path := range []string{"/docs/nothing.js", "/docs/../docs/nothing", "/docs/%2e%2e/secret", "/redoc/nothing.js", "/redoc/LICENSE"} {
		a := s.do("GET", path, "")
		if a.StatusCode == http.StatusTemporaryRedirect {
			a = s.do("GET", a.Header.Get("Location"), "")
		}
		s.wantProblem(path, a, 404, "not_found")
	}
	for _, path := range []string{"/docs", "/docs/", "/docs/swagger-ui.css", "/redoc", "/redoc/redoc.standalone.js", "/openapi.json"} {
		s.wantProblem("POST "+path, s.do("POST", path, "{}"), 405, "method_not_allowed")
		for _, header := range []string{"Range", "If-Match", "If-Range"} {
			if a := s.do("GET", path, "", header, "bytes=99999999-"); a.StatusCode >= 400 {
				t.Errorf("GET %s with %s: %s", path, header, a.Status)
			}
		}
	}
}
