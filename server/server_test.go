package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem/internal/postgrestest"
	"tandem/server"
	"tandem/webhook"
	"tandem/work"
)

func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m.Run)) }

// A program that embeds Tandem registers its own work; both patterns run it.
func Example() {
	ctx := context.Background()
	s, err := server.New(ctx, server.Options{
		Addr: "127.0.0.1:0",
		Workloads: []work.Kind{{
			Name:  "greet",
			Class: work.CPU,
			Func: func(_ context.Context, in work.Input) (json.RawMessage, error) {
				var data struct{ Name string }
				if err := json.Unmarshal(in.Data, &data); err != nil {
					return nil, err
				}
				return json.Marshal("Hello, " + data.Name)
			},
		}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := s.Start(ctx); err != nil {
		fmt.Println(err)
		return
	}
	answer, err := http.Post("http://"+s.Addr()+"/sync", "application/json",
		strings.NewReader(`{"workload":"greet","data":{"name":"Ada"}}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer answer.Body.Close()
	var body struct{ Result string }
	if err := json.NewDecoder(answer.Body).Decode(&body); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(answer.StatusCode, body.Result)
	fmt.Println(s.Stop(ctx))
	// Output:
	// 200 Hello, Ada
	// <nil>
}

func TestNewNamesAllFaultsAtOnce(t *testing.T) {
	_, err := server.New(t.Context(), server.Options{
		Mode: "best", Workers: -1, IOConcurrency: -1, MaxPending: -1, CallbackPerHost: -1, CallbackAttempts: 21, Rounds: -1,
		SyncQueueTimeout: -1, WorkTimeout: -1, DrainTimeout: -1, CallbackTimeout: -1, CallbackMaxAge: -1,
		Rate: server.Rate{N: 5}, InsecureAllowCallbackNets: []netip.Prefix{{}},
	})
	for _, want := range []string{
		"Mode", "Workers", "IOConcurrency", "MaxPending", "CallbackPerHost", "CallbackAttempts", "Rounds",
		"SyncQueueTimeout", "WorkTimeout", "DrainTimeout", "CallbackTimeout", "CallbackMaxAge", "Rate", "a range to allow",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
	_, err = server.New(t.Context(), server.Options{Rounds: -1})
	if err == nil || err.Error() != "option Rounds: must be from 1 to 1000000000, is -1" {
		t.Errorf("one fault is told as %q", err)
	}
	_, err = server.New(t.Context(), server.Options{RequireKeys: true})
	if err == nil || err.Error() != "option Database: a service in memory can have no API keys; give it a file, or leave out RequireKeys" {
		t.Errorf("keys in memory are refused with %q", err)
	}
	_, err = server.New(t.Context(), server.Options{Mode: "best"})
	if err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("one fault is told as %q", err)
	}
	_, err = server.New(t.Context(), server.Options{Workloads: []work.Kind{{Name: "Bad Name"}, {Name: "no-func"}}})
	if err == nil || !strings.Contains(err.Error(), "Bad Name") || !strings.Contains(err.Error(), "no-func") {
		t.Errorf("error %v does not name both workloads", err)
	}
}

func TestNewReturnsNothingWithAnError(t *testing.T) {
	for name, opts := range map[string]server.Options{
		"Workers":  {Workers: -1},
		"Attempts": {CallbackAttempts: -1},
		"Rate":     {Rate: server.Rate{N: 5, Window: time.Second - 1}},
		"count":    {Rate: server.Rate{N: -5, Window: time.Second}},
		"range":    {InsecureAllowCallbackNets: []netip.Prefix{{}}},
		"workload": {Workloads: []work.Kind{{Name: "Bad Name"}}},
		"no such":  {Database: filepath.Join(t.TempDir(), "missing", "requests.db")},
		"URL must": {Upstreams: []work.Upstream{{Name: "a", URL: "nowhere"}}},
		"database": {Database: t.TempDir()}, // which is a directory
	} {
		s, err := server.New(t.Context(), opts)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: error %v does not say %q", opts, err, name)
		}
		if s != nil {
			t.Errorf("%s: a server comes with the error", name)
		}
	}
}

func TestTheEdgesOfTheOptionsAreTaken(t *testing.T) {
	for name, opts := range map[string]server.Options{
		"all zero":                   {},
		"the fewest attempts":        {CallbackAttempts: 1},
		"the most attempts":          {CallbackAttempts: 20},
		"the least rate":             {Rate: server.Rate{N: 1, Window: time.Second}},
		"production without a limit": {Mode: server.Production, InsecureNoAuth: true, InsecureNoRateLimit: true, Database: server.Memory},
	} {
		s, err := server.New(t.Context(), opts)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Errorf("%s: stop: %v", name, err)
		}
	}
}

func TestABusyAddressIsSaidSo(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s, err := server.New(t.Context(), server.Options{Addr: listener.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), listener.Addr().String()) || !strings.Contains(err.Error(), "Addr") {
		t.Errorf("Start returned %v, want the address that is taken and the way out", err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), listener.Addr().String()) {
		t.Errorf("Run returned %v, want the address that is taken", err)
	}
}

func TestRunDrainsWhenItsContextEnds(t *testing.T) {
	database := filepath.Join(t.TempDir(), "requests.db")
	ctx, cancel := context.WithCancel(t.Context())
	s, err := server.New(ctx, server.Options{Addr: "127.0.0.1:0", Database: database})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if status := getStatus(t, "http://"+s.Addr()+"/readyz"); status != http.StatusOK {
		t.Errorf("ready: %d", status)
	}
	cancel()
	if err := s.Wait(ctx); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if _, err := http.Get("http://" + s.Addr() + "/healthz"); err == nil {
		t.Error("it still answers")
	}
	again, err := server.New(t.Context(), server.Options{Database: database}) // the file is free again
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Stop(t.Context()); err != nil {
		t.Errorf("Stop without Start: %v", err)
	}
}

// start runs a server until the test ends. It has no more work to do than it
// is given.
func start(t *testing.T, opts server.Options) *server.Server {
	t.Helper()
	opts.Addr, opts.Rounds = "127.0.0.1:0", 1
	s, err := server.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return s
}

func post(t *testing.T, s *server.Server, path, body string) *http.Response {
	t.Helper()
	answer, err := http.Post("http://"+s.Addr()+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	return answer
}

func TestModesHaveTheirDefaults(t *testing.T) {
	own := server.Rate{N: 7, Window: 90 * time.Second}
	for _, row := range []struct {
		name     string
		opts     server.Options
		policy   string // the answer's RateLimit-Policy
		receives bool   // has POST /test-callback
	}{
		{"demo has no limit", server.Options{Mode: server.Demo}, "", true},
		{"no mode is demo", server.Options{}, "", true},
		{"demo with a limit of its own", server.Options{Rate: own}, `"default";q=7;w=90`, true},
		{"production has 50 a minute", server.Options{Mode: server.Production, InsecureNoAuth: true}, `"default";q=50;w=60`, false},
		{"production with a limit of its own", server.Options{Mode: server.Production, InsecureNoAuth: true, Rate: own}, `"default";q=7;w=90`, false},
		{"production without a limit", server.Options{Mode: server.Production, InsecureNoAuth: true, InsecureNoRateLimit: true}, "", false},
	} {
		row.opts.Database = filepath.Join(t.TempDir(), "requests.db")
		s := start(t, row.opts)
		answer := post(t, s, "/sync", `{"data":{"a":1}}`)
		if got := answer.Header.Get("RateLimit-Policy"); answer.StatusCode != 200 || got != row.policy {
			t.Errorf("%s: %s with RateLimit-Policy %q, want %q", row.name, answer.Status, got, row.policy)
		}
		if got := post(t, s, "/test-callback", `{}`).StatusCode; (got == 200) != row.receives {
			t.Errorf("%s: POST /test-callback answers %d", row.name, got)
		}
	}
}

func TestDemoKeepsNothingUnlessItIsTold(t *testing.T) {
	t.Chdir(t.TempDir())
	s := start(t, server.Options{})
	if health := read(t, s, "/healthz"); !strings.Contains(health, `"durable":false`) || !strings.Contains(health, "not durable") {
		t.Errorf("/healthz: %s", health)
	}
	if files, err := filepath.Glob("*"); err != nil || len(files) != 0 {
		t.Errorf("it left %v, %v", files, err)
	}
	s = start(t, server.Options{Mode: server.Production, InsecureNoAuth: true})
	if health := read(t, s, "/healthz"); !strings.Contains(health, `"durable":true`) || strings.Contains(health, "not durable") {
		t.Errorf("/healthz in production: %s", health)
	}
	if files, err := filepath.Glob("requests.db"); err != nil || len(files) != 1 {
		t.Errorf("production keeps no requests.db, but %v, %v", files, err)
	}
}

func TestMetricsTellOfTheRuntimeToo(t *testing.T) {
	text := read(t, start(t, server.Options{}), "/metrics")
	for _, want := range []string{"\ngo_goroutines ", "\ngo_memstats_heap_alloc_bytes ", "\ntandem_queue_depth 0\n", "\ntandem_commit_seconds_count "} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics has no %q", want)
		}
	}
}

func TestItServesAfterTheContextOfStartEnds(t *testing.T) {
	s, err := server.New(t.Context(), server.Options{Addr: "127.0.0.1:0", Rounds: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	answer := post(t, s, "/async", `{"data":{"a":1}}`)
	if answer.StatusCode != http.StatusAccepted {
		t.Fatalf("POST /async: %s", answer.Status)
	}
	if record := read(t, s, answer.Header.Get("Location")+"?wait=20s"); !strings.Contains(record, `"status":"completed"`) {
		t.Errorf("it accepts and does not work: %s", record)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestStopMayBeCalledAgainAndAtOnce(t *testing.T) {
	s := start(t, server.Options{}) // stopped once more when the test ends
	waited := make(chan error, 1)
	go func() { waited <- s.Wait(context.Background()) }()
	var stops sync.WaitGroup
	for range 4 {
		stops.Go(func() {
			if err := s.Stop(context.Background()); err != nil {
				t.Errorf("Stop: %v", err)
			}
		})
	}
	stops.Wait()
	if err := <-waited; err != nil {
		t.Errorf("Wait: %v", err)
	}
	if err := s.Wait(context.Background()); err != nil {
		t.Errorf("Wait after Stop: %v", err)
	}
	if _, err := http.Get("http://" + s.Addr() + "/healthz"); err == nil {
		t.Error("it still answers")
	}
	never, err := server.New(t.Context(), server.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := never.Stop(t.Context()); err != nil {
			t.Errorf("Stop without Start: %v", err)
		}
	}
}

func TestWhatIsLeftIsWorkedByTheNext(t *testing.T) {
	database := filepath.Join(t.TempDir(), "requests.db")
	s := start(t, server.Options{Database: database, Paused: true})
	where := post(t, s, "/async", `{"data":{"a":1}}`).Header.Get("Location")
	if got := post(t, s, "/sync", `{"data":{"a":1}}`).StatusCode; got != http.StatusServiceUnavailable {
		t.Errorf("POST /sync while paused: %d, want 503", got)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	s = start(t, server.Options{Database: database})
	if record := read(t, s, where+"?wait=20s"); !strings.Contains(record, `"status":"completed"`) {
		t.Errorf("after a restart: %s", record)
	}
}

func TestTheSecretIsKeptWithTheDatabase(t *testing.T) {
	database := filepath.Join(t.TempDir(), "requests.db")
	var kept []webhook.Secret
	for range 2 {
		s, err := server.New(t.Context(), server.Options{Database: database})
		if err != nil {
			t.Fatal(err)
		}
		secret, err := server.ReadSecret(t.Context(), database) // while it is open
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, secret)
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if kept[0].Reveal() != kept[1].Reveal() || kept[0].Reveal() == "" {
		t.Error("a restart changes the secret")
	}
}

func TestStopEndsWhatDoesNotEndInTime(t *testing.T) {
	started := make(chan struct{})
	s, err := server.New(t.Context(), server.Options{
		Addr: "127.0.0.1:0",
		Workloads: []work.Kind{{Name: "endless", Class: work.Waits, Func: func(ctx context.Context, _ work.Input) (json.RawMessage, error) {
			close(started)
			<-ctx.Done()
			return nil, ctx.Err()
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	status := make(chan int, 1)
	go func() {
		answer, err := http.Post("http://"+s.Addr()+"/sync", "application/json", strings.NewReader(`{"data":{"a":1},"workload":"endless"}`))
		if err != nil {
			status <- 0
			return
		}
		defer answer.Body.Close()
		io.Copy(io.Discard, answer.Body)
		status <- answer.StatusCode
	}()
	<-started
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Errorf("Stop: %v", err)
	}
	if got := <-status; got != http.StatusInternalServerError {
		t.Errorf("the caller whose work was ended got %d, want 500", got)
	}
}

// read returns a good answer.
func read(t *testing.T, s *server.Server, path string) string {
	t.Helper()
	answer, err := http.Get("http://" + s.Addr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v: %s", path, answer.Status, err, body)
	}
	return string(body)
}

func getStatus(t *testing.T, url string) int {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	return answer.StatusCode
}
