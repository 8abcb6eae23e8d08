package acceptance

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"tandem/webhook"
)

// lab runs one of the lab's commands against a service, in dir.
func lab(t *testing.T, dir, url, command string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	all := append([]string{command, "--url", url, "--callback-port", "0"}, args...)
	p := start(t, dir, []string{"TANDEM_CALLBACK_SECRET=" + secret.Reveal()}, all...)
	code = p.wait(t)
	return p.stdout.String(), p.stderr.String(), code
}

func (s *service) url() string { return "http://" + s.addr }

// count reads a figure of both arms from the table of a report.
func count(t *testing.T, report, name string) (sync, async string) {
	t.Helper()
	found := regexp.MustCompile(`(?m)^  ` + name + `  +(\S+)  +(\S+)$`).FindStringSubmatch(report)
	if found == nil {
		t.Fatalf("no %s in\n%s", name, report)
	}
	return found[1], found[2]
}

func TestLoadMeasuresBothPatterns(t *testing.T) {
	parallel(t)
	s := serve(t, "--database", newFile(t))
	dir := t.TempDir()
	stdout, stderr, code := lab(t, dir, s.url(), "load", "-n", "100", "-c", "4", "--output", "r.json", "--html", "r.html", "--slo", "callback_rate>=100%")
	if code != 0 {
		t.Fatalf("exit code is %d:\n%s", code, stderr)
	}
	for _, name := range []string{"planned", "sent", "accepted", "completed"} {
		if sync, async := count(t, stdout, name); sync != "50" || async != "50" {
			t.Errorf("%s are %s and %s, want 50 each way", name, sync, async)
		}
	}
	for _, text := range []string{"closed: 4 callers", "backend " + s.health().Backend + ", durable", "50 received, 50 verified", "every one of these signatures verified", "callback_rate>=100%"} {
		if !strings.Contains(strings.Join(strings.Fields(stdout), " "), text) {
			t.Errorf("the report does not say %q:\n%s", text, stdout)
		}
	}
	if !strings.Contains(stderr, "100 of 100 sent") {
		t.Errorf("there is no progress without a terminal:\n%s", stderr)
	}
	if got := s.stats().Requests; got.Sync != 50 || got.Async != 50 {
		t.Errorf("the service saw %d and %d requests", got.Sync, got.Async)
	}

	again, _, code := run(t, nil, "report", filepath.Join(dir, "r.json"))
	if code != 0 || again != stdout {
		t.Errorf("the report of the file (exit code %d) is another:\n%s", code, again)
	}
	page, err := os.ReadFile(filepath.Join(dir, "r.html"))
	if err != nil {
		t.Fatal(err)
	}
	if loads := regexp.MustCompile(`(?i)(src|href)="?(https?:)?//`).Find(page); loads != nil || !strings.Contains(string(page), "<html") {
		t.Errorf("the page needs the network: %s", loads)
	}
	figures, _, code := run(t, nil, "report", "--json", filepath.Join(dir, "r.json"))
	var summary struct {
		Figures map[string]*float64 `json:"figures"`
	}
	if err := json.Unmarshal([]byte(figures), &summary); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v: %s", code, err, figures)
	}
	if v := summary.Figures["async.delivered"]; v == nil || *v != 1 {
		t.Errorf("the figures are %s", figures)
	}
	if v, ok := summary.Figures["sync.response.p99"]; !ok || v != nil {
		t.Errorf("p99 of 50 requests is %v, want null", v)
	}
	both, _, code := run(t, nil, "report", filepath.Join(dir, "r.json"), filepath.Join(dir, "r.json"))
	if code != 0 || !strings.Contains(both, "2 measurements side by side") {
		t.Errorf("two reports, with exit code %d:\n%s", code, both)
	}
}

func TestLoadEndsWithACodeForScripts(t *testing.T) {
	parallel(t)
	s := serve(t)
	for _, row := range []struct {
		args string
		code int
		says string
	}{
		{"-n 60 -c 8 --production-mode --yes --completion poll --slo sync.latency.max<1h", 0, ""},
		{"--ramp 20..100 --duration 1s --arrivals constant --sync-ratio 0.25 --seed 4 -c 5 --slo error_rate<=0%", 0, ""},
		{"-n 40 --slo async.accept.p99<1h --slo error_rate<=0% --slo completion.mean<1us", 2, "an objective was missed"},
		{"-n 20 --completion poll --slo callback_rate>99%", 4, "inconclusive"},
	} {
		t.Run(row.args, func(t *testing.T) {
			stdout, stderr, code := lab(t, t.TempDir(), s.url(), "load", strings.Fields(row.args)...)
			late := strings.Contains(stdout, "The generator was late") // the machine was busy: the run is rightly void
			if code != row.code && !(late && code == 3) || !strings.Contains(stderr, row.says) && !late {
				t.Errorf("exit code is %d, want %d:\n%s\n%s", code, row.code, stderr, tail(stdout, 2000))
			}
		})
	}
}

func TestForgedCallbacksDoNotCount(t *testing.T) {
	parallel(t)
	s := serve(t)
	stdout, stderr, code := lab(t, t.TempDir(), s.url(), "load", "-n", "8", "-c", "8", "--drain", "1s",
		"--callback-secret", webhook.NewSecret().Reveal(), "--slo", "callback_rate>99%")
	if code != 2 || !strings.Contains(stdout, "forged: no signature, or a wrong one") {
		t.Errorf("exit code is %d:\n%s%s", code, stdout, stderr)
	}
	if _, missing := count(t, stdout, "missing"); missing != "4" {
		t.Errorf("%s are missing, want 4", missing)
	}
}

// null is an API that does nothing but count, and its description.
func null(t *testing.T, status int) (url, description string, got *atomic.Int64) {
	t.Helper()
	got = &atomic.Int64{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			got.Add(1)
		}
		w.WriteHeader(status)
		fmt.Fprint(w, `{}`)
	}))
	t.Cleanup(server.Close)
	description = filepath.Join(t.TempDir(), "null.yaml")
	text := `{name: "null", sync: {path: /, accept: [200]}, async: {path: /, body: "{{.CallbackURL}}", accept: [202]}, callback: {verify: none}}`
	if err := os.WriteFile(description, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return server.URL, description, got
}

func TestARunThatSaysNothingIsVoid(t *testing.T) {
	parallel(t)
	url, description, _ := null(t, 200)
	dir := t.TempDir()
	stdout, stderr, code := lab(t, dir, url, "load", "--target", description, "--sync-ratio", "1", "--rate", "90000", "--duration", "100ms", "--output", "v.json")
	if code != 3 || !strings.Contains(stdout, "VOID: THESE FIGURES DO NOT COUNT") || !strings.Contains(stdout, "nothing is concluded") {
		t.Errorf("exit code is %d:\n%s\n%s", code, stderr, stdout)
	}
	if again, _, code := run(t, nil, "report", filepath.Join(dir, "v.json")); code != 0 || again != stdout {
		t.Errorf("the void file is reported with %d:\n%s", code, again)
	}
}

func TestALoadThatIsInterruptedIsVoid(t *testing.T) {
	parallel(t)
	needSignals(t)
	s := serve(t)
	dir := t.TempDir()
	p := start(t, dir, []string{"TANDEM_CALLBACK_SECRET=" + secret.Reveal()},
		"load", "--url", s.url(), "--callback-port", "0", "-n", "1000000", "--output", "i.json")
	eventually(t, "there is load", func() bool { return s.stats().Requests.Total > 20 })
	p.signal(t, syscall.SIGINT)
	if code := p.wait(t); code != 3 || !strings.Contains(p.stdout.String(), "It was interrupted before its end.") {
		t.Errorf("exit code is %d:\n%s", code, p.stdout.String())
	}
	if _, _, code := run(t, nil, "report", filepath.Join(dir, "i.json")); code != 0 {
		t.Errorf("what was measured until then cannot be read: exit code %d", code)
	}
}

func TestTheLabSaysWhatIsWrongBeforeItSends(t *testing.T) {
	parallel(t)
	url, description, got := null(t, 200)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	_, port, _ := net.SplitHostPort(busy.Addr().String())
	silent := httptest.NewServer(nil)
	silent.Close()
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("name: x\nsync: {pth: /}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		args  string
		words string // all must be named
	}{
		{"load --url " + silent.URL, "--url"},
		{"load --url " + url, "--url target"}, // it is no Tandem
		{"load --url ftp://127.0.0.1", "--url http://"},
		{"load --url http://no-such-host.invalid", "--url"},
		{"load --url " + url + " --target " + description + " --callback-port " + port, "--callback-port 0"},
		{"load --callback-port 70000", "--callback-port 65535"},
		{"load --callback-secret hush", "--callback-secret whsec_"},
		{"load --target " + filepath.Join(dir, "none.yaml"), "--target none.yaml"},
		{"load --target " + bad, "--target pth"},
		{"load -n 0x", "--requests"},
		{"load -n=-1", "--requests"},
		{"load -n 0", "--requests 1"},
		{"load -c 0", "--concurrency 1"},
		{"load --rate 0", "--rate"},
		{"load --rate NaN", "--rate"},
		{"load -c 20000", "--concurrency 10000"},
		{"load --sync-ratio 1.5", "--sync-ratio"},
		{"load --sync-ratio NaN", "--sync-ratio"},
		{"load --complexity 11", "--complexity"},
		{"load --rate=-5", "--rate"},
		{"load --rate 1e9", "--rate"},
		{"load --rate 10 -n 5", "--requests --rate"},
		{"load --rate 10 --duration 0s", "--duration"},
		{"load --rate 10 --arrivals bursts", "--arrivals poisson"},
		{"load --duration 5s", "--duration --rate"},
		{"load --arrivals constant", "--arrivals --rate"},
		{"load --callback-url lab.example", "--callback-url http://"},
		{"compare --callback-url ftp://lab.example", "--callback-url http://"},
		{"load --ramp 5", "--ramp 50..500"},
		{"load --ramp 5..10 --rate 3", "--ramp --rate"},
		{"load --slo fast", "--slo p99"},
		{"load --slo async.latency.p99<1s", "--slo async.accept"},
		{"load --timeout 0s", "--timeout"},
		{"load --drain=-1s", "--drain"},
		{"load --completion pigeon", "--completion poll"},
		{"load --demo-mode --production-mode", "--demo-mode --production-mode"},
		{"load --production-mode -n 51", "--requests 50 --yes"},
		{"load --production-mode -c 6", "--concurrency 5 --yes"},
		{"load --production-mode --rate 5", "--production-mode --yes"},
		{"load --url http://192.0.2.1 --demo-mode", "--demo-mode --yes"},
		{"load --output /no/such/folder/r.json", "--output /no/such/folder/r.json"},
		{"load --html " + dir, "--html folder"},
		{"compare --pairs 9", "--pairs 10"},
		{"compare -n 10", "--pairs --requests"},
		{"search", "--slo"},
		{"search --slo completion.p95<1s --first 0", "--first"},
		{"search --slo completion.p95<1s --stage 2s", "--stage 5s"},
		{"search --slo completion.p95<1s --stage=-2s", "--stage 5s"},
		{"search --slo completion.p99<1s --first 20 --stage 5s", "--stage 40s"},
		{"report", "results.json"},
		{"report --json --html r.html results.json", "--json --html"},
		{"report " + filepath.Join(dir, "none.json"), "none.json"},
		{"report " + bad, "bad.yaml result"},
	} {
		t.Run(row.args, func(t *testing.T) {
			args := strings.Fields(row.args)
			if args[0] != "report" && !strings.Contains(row.args, "--url") {
				args = append(args, "--url", url)
			}
			if args[0] != "report" && !strings.Contains(row.args, "--callback-port") {
				args = append(args, "--callback-port", "0")
			}
			_, stderr, code := run(t, []string{"TANDEM_CALLBACK_SECRET=" + secret.Reveal()}, args...)
			if code != 1 || strings.Contains(stderr, "goroutine ") {
				t.Errorf("exit code is %d:\n%s", code, stderr)
			}
			for _, word := range strings.Fields(row.words) {
				if !strings.Contains(stderr, word) {
					t.Errorf("it does not name %q:\n%s", word, stderr)
				}
			}
		})
	}
	if n := got.Load(); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("half-written files are left: %v, %v", left, err)
	}
}

func TestTheLabKnowsWhatWorkThereIs(t *testing.T) {
	parallel(t)
	s := serve(t)
	for _, command := range []string{"load", "compare", "search --slo completion.p95<1s"} {
		args := append(strings.Fields(command), "--workload", "nonsense")
		stdout, stderr, code := lab(t, t.TempDir(), s.url(), args[0], args[1:]...)
		oneLine(t, stderr, code, "--workload", "compute, mixed, wait")
		if stdout != "" {
			t.Errorf("%s reports %s", command, stdout)
		}
	}
	if n := s.stats().Requests.Total; n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

func TestProductionModeIsNotRefusedByALimitedService(t *testing.T) {
	parallel(t)
	s := serve(t, "--rate-limit", "20/2s")
	stdout, stderr, code := lab(t, t.TempDir(), s.url(), "load", "--production-mode", "-n", "30", "--slo", "error_rate<=0%")
	if code != 0 {
		t.Fatalf("exit code is %d:\n%s%s", code, stdout, stderr)
	}
	if refused := s.stats().RateLimiting.Refused; refused != 0 {
		t.Errorf("%d requests were refused", refused)
	}
}

func TestRefusalsAreCountedApart(t *testing.T) {
	parallel(t)
	s := serve(t, "--rate-limit", "10/1h")
	stdout, stderr, code := lab(t, t.TempDir(), s.url(), "load", "--demo-mode", "-n", "40", "-c", "2", "--sync-ratio", "1")
	if code != 0 || !regexp.MustCompile(`(?m)^  429 +30$`).MatchString(stdout) {
		t.Errorf("exit code is %d; 30 are refused:\n%s%s", code, stdout, stderr)
	}
}

func TestCompareAndItsAATest(t *testing.T) {
	parallel(t)
	s := serve(t)
	stdout, stderr, code := lab(t, t.TempDir(), s.url(), "compare", "-n", "400", "-c", "10", "--workload", "wait", "--complexity", "10", "--output", "c.json", "--html", "c.html")
	if code != 0 && code != 4 {
		t.Fatalf("exit code is %d:\n%s%s", code, stdout, stderr)
	}
	for _, text := range []string{"10 pairs of blocks in random order", "acceptance.p50", "completion.p95", "throughput"} {
		if !strings.Contains(strings.Join(strings.Fields(stdout), " "), text) {
			t.Errorf("the report does not say %q:\n%s", text, stdout)
		}
	}
	if !raced && !regexp.MustCompile(`(?m)^  acceptance\.p50 .* faster$`).MatchString(stdout) { // a raced 202 may be as slow as the work
		t.Errorf("work that waits is not accepted sooner than it is done:\n%s", stdout)
	}
	stdout, stderr, code = lab(t, t.TempDir(), s.url(), "compare", "--aa", "-n", "400", "-c", "4", "--workload", "wait")
	if code != 0 && code != 3 || !strings.Contains(stdout, "sync against sync: ") || (code == 3) != strings.Contains(stdout, "a difference was found where there is none") {
		t.Errorf("exit code is %d:\n%s%s", code, stdout, stderr)
	}
}

// TestSearchFindsThatNothingPasses is of a service that refuses all it gets, so
// that one stage settles each question.
func TestSearchFindsThatNothingPasses(t *testing.T) {
	patient(t)
	url, description, got := null(t, 503)
	dir := t.TempDir()
	p := start(t, dir, nil, "search", "--url", url, "--target", description, "--callback-port", "0",
		"--slo", "sync.latency.p50<1s", "--first", "3", "--output", "s.json", "--html", "s.html")
	<-p.exited
	stdout := p.stdout.String()
	if code := p.cmd.ProcessState.ExitCode(); code != 2 {
		t.Errorf("exit code is %d:\n%s%s", code, stdout, p.stderr.String())
	}
	for _, text := range []string{"sync.latency.p50<1s none", "async, without an objective", "no rate down to 3/s passed", "100% (", "of the requests were not completed"} {
		if !strings.Contains(strings.Join(strings.Fields(stdout), " "), text) {
			t.Errorf("the report does not say %q:\n%s", text, stdout)
		}
	}
	if got.Load() == 0 {
		t.Error("nothing was sent")
	}
	if again, _, code := run(t, nil, "report", filepath.Join(dir, "s.json")); code != 0 || again != stdout {
		t.Errorf("the report of the file (exit code %d) is another:\n%s", code, again)
	}
}
