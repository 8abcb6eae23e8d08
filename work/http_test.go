package work

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// upstream starts an endpoint and returns the http workload that calls it by
// the name of cars.
func upstream(t *testing.T, timeout time.Duration, handle http.HandlerFunc) (Kind, string) {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	kind, err := HTTP(Upstream{Name: "cars", URL: server.URL + "/secret-path", Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	return kind, server.URL
}

var askCars = Input{Data: json.RawMessage(`{"upstream":"cars","id":1.000}`), Complexity: 1}

func TestHTTPPostsTheWholeOfData(t *testing.T) {
	kind, _ := upstream(t, 0, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, `{"asked":"%s %s as %s","got":%s}`, r.Method, r.URL, r.Header.Get("Content-Type"), body)
	})
	got := run(t, kind, string(askCars.Data), 1)
	if want := `{"asked":"POST /secret-path as application/json","got":{"upstream":"cars","id":1.000}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestHTTPResultOfAnAnswer(t *testing.T) {
	for _, c := range []struct {
		what        string
		status      int
		contentType string
		body        string
		want        string
	}{
		{"JSON as it is, with its digits", 200, "application/json", ` {"a":1.50}`, ` {"a":1.50}`},
		{"JSON that calls itself text", 201, "text/plain", `[1]`, `[1]`},
		{"text is wrapped", 202, "text/plain", "done", `{"status":202,"content_type":"text/plain","body":"done"}`},
		{"nothing is wrapped", 204, "", "", `{"status":204,"content_type":"","body":""}`},
		{"broken JSON is wrapped", 200, "application/json", `{"a":`, `{"status":200,"content_type":"application/json","body":"{\"a\":"}`},
		{"bytes become text", 200, "image/png", "\xff\x00", `{"status":200,"content_type":"image/png","body":"\ufffd\u0000"}`},
		{"JSON with broken UTF-8 becomes text", 200, "application/json", "\"\xff\"", `{"status":200,"content_type":"application/json","body":"\"\ufffd\""}`},
	} {
		kind, _ := upstream(t, 0, func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{c.contentType}
			w.WriteHeader(c.status)
			io.WriteString(w, c.body)
		})
		if got := run(t, kind, string(askCars.Data), 1); got != c.want {
			t.Errorf("%s: got %s, want %s", c.what, got, c.want)
		}
	}
}

func TestHTTPFailsWithTheUpstreamsStatus(t *testing.T) {
	big := strings.Repeat("x", maxAnswer+1)
	for _, c := range []struct {
		what   string
		handle http.HandlerFunc
		status int
		want   string // the whole error
	}{
		{"a redirect is not followed", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, 307, "upstream cars: answered 307 Temporary Redirect"},
		{"4xx", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(404)
		}, 404, "upstream cars: answered 404 Not Found"},
		{"5xx, whatever its body", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(503)
			io.WriteString(w, `{"looks":"well"}`)
		}, 503, "upstream cars: answered 503 Service Unavailable"},
		{"5xx, broken off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(500)
		}, 500, "upstream cars: answered 500 Internal Server Error"},
		{"a status without a name", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(599)
		}, 599, "upstream cars: answered 599"},
		{"one byte over the limit", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, big)
		}, 200, "upstream cars: its answer is over 1048576 bytes"},
		{"an answer that breaks off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "x")
		}, 0, "upstream cars: could not be reached, or broke off its answer"},
		{"no answer", func(http.ResponseWriter, *http.Request) {
			panic(http.ErrAbortHandler)
		}, 0, "upstream cars: could not be reached, or broke off its answer"},
	} {
		kind, _ := upstream(t, 0, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/secret-path" {
				t.Errorf("%s: asked for %s", c.what, r.URL)
			}
			c.handle(w, r)
		})
		result, err := kind.Func(t.Context(), askCars)
		got, ok := errors.AsType[*UpstreamError](err)
		if !ok || got.Name != "cars" || got.Status != c.status || got.Error() != c.want {
			t.Errorf("%s: got %s, %#v, want status %d and %q", c.what, result, err, c.status, c.want)
		}
	}
}

func TestHTTPTakesAnAnswerOfExactlyTheLimit(t *testing.T) {
	body := `"` + strings.Repeat("x", maxAnswer-2) + `"`
	kind, _ := upstream(t, 0, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) })
	if got := run(t, kind, string(askCars.Data), 1); got != body {
		t.Errorf("got %d bytes, want %d", len(got), len(body))
	}
}

// hang answers nothing until the caller has gone.
func hang(_ http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body) // the server sees the caller go only then
	<-r.Context().Done()
}

func TestHTTPGivesUpAfterTheUpstreamsTimeout(t *testing.T) {
	kind, _ := upstream(t, 20*time.Millisecond, hang)
	_, err := kind.Func(t.Context(), askCars)
	got, ok := errors.AsType[*UpstreamError](err)
	if want := "upstream cars: did not answer within 20ms"; !ok || got.Status != 0 || got.Error() != want {
		t.Errorf("got %v, want %q with status 0", err, want)
	}
}

func TestHTTPEndsWithItsContextAndSaysItsCause(t *testing.T) {
	cause := errors.New("the work is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	kind, _ := upstream(t, 0, func(w http.ResponseWriter, r *http.Request) {
		cancel(cause)
		hang(w, r)
	})
	if _, err := kind.Func(ctx, askCars); !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause", err)
	}
}

func TestHTTPNeverShowsTheURL(t *testing.T) {
	kind, base := upstream(t, 0, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	_, refused := kind.Func(t.Context(), askCars)
	nowhere, err := HTTP(Upstream{Name: "cars", URL: "http://user:secret-word@127.0.0.1:1/secret-path"})
	if err != nil {
		t.Fatal(err)
	}
	_, unreachable := nowhere.Func(t.Context(), askCars)
	unknown := kind.Check(Input{Data: json.RawMessage(`{"upstream":"other"}`)})
	_, unparsed := ParseUpstream("cars=ftp://user:secret-word@host/secret-path")
	u := Upstream{Name: "cars", URL: "http://user:secret-word@host/secret-path"}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("calling", "upstream", u)
	for _, text := range []string{
		fmt.Sprint(refused), fmt.Sprint(unreachable), fmt.Sprint(unknown), fmt.Sprint(unparsed),
		fmt.Sprintf("%v %+v %s", u, u, []Upstream{u}), log.String(),
	} {
		if strings.Contains(text, "secret") || strings.Contains(text, base) || strings.Contains(text, "127.0.0.1") || !strings.Contains(text, "cars") {
			t.Errorf("got %q, which should name cars and not its address", text)
		}
	}
}

func TestHTTPChecksTheNameAtSubmission(t *testing.T) {
	kind, err := HTTP(Upstream{Name: "cars", URL: "http://a.example/"}, Upstream{Name: "bikes", URL: "http://b.example/"})
	if err != nil {
		t.Fatal(err)
	}
	const names = "upstream must be one of bikes, cars"
	for _, c := range []struct {
		what, data, want string
	}{
		{"a name there is", `{"upstream":"cars"}`, ""},
		{"a name written with an escape", `{"upstream":"c\u0061rs"}`, ""},
		{"a name there is not", `{"upstream":"boats"}`, names},
		{"a name in upper case", `{"upstream":"Cars"}`, names},
		{"the key in upper case", `{"UPSTREAM":"cars"}`, names},
		{"no name", `{"id":1}`, names},
		{"an empty name", `{"upstream":""}`, names},
		{"null", `{"upstream":null}`, names},
		{"a number", `{"upstream":1}`, names},
		{"an array", `[]`, "data must be an object"},
	} {
		in := Input{Data: json.RawMessage(c.data), Complexity: 1}
		if got := errorText(kind.Check(in)); got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, got, c.want)
		}
		if c.want != "" {
			if _, err := kind.Func(t.Context(), in); errorText(err) != c.want {
				t.Errorf("%s, unchecked: got %v, want %q", c.what, err, c.want)
			}
		}
	}
}

func TestHTTPRefusesBadUpstreamsAllAtOnce(t *testing.T) {
	if _, err := HTTP(); err == nil {
		t.Error("made without an upstream")
	}
	_, err := HTTP(
		Upstream{Name: "Cars", URL: "http://a.example/"},
		Upstream{Name: "cars", URL: "http://a.example/"},
		Upstream{Name: "cars", URL: "http://b.example/"},
		Upstream{Name: "boats", URL: "/here"},
	)
	want := "upstream \"Cars\": a name is lower-case letters, digits, - and _, beginning with a letter\n" +
		"upstream cars is configured twice\n" +
		"upstream boats: the URL must be absolute, http or https"
	if got := errorText(err); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseUpstream(t *testing.T) {
	for _, c := range []struct {
		what, text string
		want       Upstream
		fault      string
	}{
		{"a name and a URL", "cars=http://a.example/x?y=1",
			Upstream{Name: "cars", URL: "http://a.example/x?y=1"}, ""},
		{"a timeout", "cars=https://a.example/,timeout=1m30s",
			Upstream{Name: "cars", URL: "https://a.example/", Timeout: 90 * time.Second}, ""},
		{"the last timeout is the option, one before it is the URL's", "cars=http://a.example/?q=,timeout=x,timeout=5s",
			Upstream{Name: "cars", URL: "http://a.example/?q=,timeout=x", Timeout: 5 * time.Second}, ""},
		{"no =", "cars", Upstream{}, "an upstream is NAME=URL"},
		{"no name", "=http://a.example/", Upstream{}, "a name is"},
		{"no URL", "cars=", Upstream{}, "must be absolute"},
		{"another scheme", "cars=ftp://a.example/", Upstream{}, "must be absolute"},
		{"no host", "cars=http://:80/", Upstream{}, "must be absolute"},
		{"a timeout without a unit", "cars=http://a.example/,timeout=5", Upstream{}, "timeout must be"},
		{"no time at all", "cars=http://a.example/,timeout=0s", Upstream{}, "timeout must be"},
		{"a negative timeout", "cars=http://a.example/,timeout=-1s", Upstream{}, "timeout must be"},
	} {
		got, err := ParseUpstream(c.text)
		if got != c.want || (c.fault == "") != (err == nil) || !strings.Contains(errorText(err), c.fault) {
			t.Errorf("%s: got %#v, %v, want %#v, %q", c.what, got, err, c.want, c.fault)
		}
	}
}

// FuzzParseUpstream: what is parsed can be configured, and means the same when
// it is written and parsed again.
func FuzzParseUpstream(f *testing.F) {
	f.Add("cars=https://a.example/x,timeout=5s")
	f.Add("cars=http://[::1]:80,timeout=,timeout=1h")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseUpstream(text)
		if err != nil {
			return
		}
		if _, err := HTTP(u); err != nil {
			t.Fatalf("%q is parsed, and refused: %v", text, err)
		}
		if u.Timeout == 0 {
			u.Timeout = time.Second
		}
		again, err := ParseUpstream(fmt.Sprintf("%s=%s,timeout=%v", u.Name, u.URL, u.Timeout))
		if err != nil || again != u {
			t.Errorf("%q: got %#v, %v, want %#v", text, again, err, u)
		}
	})
}
