package acceptance

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"tandem/webhook"
)

// oneLine wants a run to have failed, and to say why in one line for people
// that holds all the words and no stack.
func oneLine(t *testing.T, stderr string, code int, words ...string) {
	t.Helper()
	if code <= 0 {
		t.Errorf("exit code is %d, want one that says what failed", code)
	}
	var said []string
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "{") { // else it is the log's
			said = append(said, line)
		}
	}
	if len(said) != 1 || !strings.HasPrefix(said[0], "tandem: ") || !strings.HasSuffix(said[0], "\n") {
		t.Errorf("what it says is not one line:\n%s", strings.Join(said, ""))
	}
	for _, word := range words {
		if !strings.Contains(strings.Join(said, ""), word) {
			t.Errorf("it does not name %q:\n%s", word, stderr)
		}
	}
	if strings.Contains(stderr, "goroutine ") {
		t.Errorf("it shows a stack:\n%s", stderr)
	}
}

func TestWhatCannotBeServedIsRefusedInOneLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	notSQLite := filepath.Join(dir, "letter.txt")
	if err := os.WriteFile(notSQLite, []byte("dear reader, this is no database at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	const hush = "hush-hush"
	for _, c := range []struct {
		name string
		env  string
		args string
		word string
	}{
		{"unknown mode", "", "--mode staging", "--mode"},
		{"unknown mode in the environment", "TANDEM_MODE=staging", "", "--mode"},
		{"unknown ENVIRONMENT", "ENVIRONMENT=staging", "", "ENVIRONMENT"},
		{"rate without a window", "", "--rate-limit 50", "--rate-limit"},
		{"rate of none at all", "", "--rate-limit 0/60s", "--rate-limit"},
		{"rate below zero", "", "--rate-limit=-1/60s", "--rate-limit"},
		{"rate in the environment", "TANDEM_RATE_LIMIT=often", "", "--rate-limit"},
		{"address without a port", "", "--addr localhost", "--addr: "},
		{"address with a port too large", "", "--addr 127.0.0.1:70000", "127.0.0.1:70000"},
		{"address of another machine", "", "--addr 192.0.2.1:0", "192.0.2.1:0"},
		{"database in a missing folder", "", "--database " + filepath.Join(dir, "missing", "x.db"), filepath.Join("missing", "x.db")},
		{"database that is a folder", "", "--database " + dir, dir},
		{"database that is another file", "", "--database " + notSQLite, notSQLite},
		{"workers below zero", "", "--workers=-1", "--workers"},
		{"workers beyond reason", "", "--workers=1000000000", "--workers"},
		{"workers that are no number", "", "--workers many", "--workers"},
		{"workers in the environment", "TANDEM_WORKERS=many", "", "TANDEM_WORKERS"},
		{"no slots for waiting work", "", "--io-concurrency 0", "--io-concurrency"},
		{"backlog below zero", "", "--max-pending=-5", "--max-pending"},
		{"no rounds", "", "--rounds 0", "--rounds"},
		{"attempts below zero", "", "--callback-attempts=-1", "--callback-attempts"},
		{"attempts beyond reason", "", "--callback-attempts 21", "--callback-attempts"},
		{"no attempts in flight", "", "--callback-per-host 0", "--callback-per-host"},
		{"duration without a unit", "", "--work-timeout 5", "--work-timeout"},
		{"duration below zero", "", "--drain-timeout=-5s", "--drain-timeout"},
		{"no time for an attempt", "", "--callback-timeout 0s", "--callback-timeout"},
		{"no time to queue", "", "--sync-queue-timeout=-1s", "--sync-queue-timeout"},
		{"age below zero", "", "--callback-max-age=-1h", "--callback-max-age"},
		{"secret without its prefix", "", "--callback-secret " + hush, "--callback-secret"},
		{"secret that is too short", "", "--callback-secret whsec_" + hush, "--callback-secret"},
		{"secret in the environment", "TANDEM_CALLBACK_SECRET=" + hush, "", "--callback-secret"},
		{"one good secret and one bad", "TANDEM_CALLBACK_SECRET=" + secret.Reveal() + "," + hush, "", "--callback-secret"},
		{"address where a range should be", "", "--allow-callback-net 10.0.0.1", "--allow-callback-net"},
		{"range with too many bits", "", "--allow-callback-net 10.0.0.0/33", "--allow-callback-net"},
		{"port too large", "", "--allow-callback-port 70000", "--allow-callback-port"},
		{"port zero", "", "--allow-callback-port 0", "--allow-callback-port"},
		{"upstream without a name", "", "--upstream http://u:" + hush + "@example.com/", "--upstream"},
		{"upstream without http", "", "--upstream shop=ftp://u:" + hush + "@example.com/", "--upstream"},
		{"upstream with a bad timeout", "", "--upstream shop=http://u:" + hush + "@example.com/,timeout=-1s", "--upstream"},
		{"upstream twice", "", "--upstream a=http://u:" + hush + "@example.com/ --upstream a=http://example.org/", "--upstream: upstream a"},
		{"range that would open nothing", "", "--allow-callback-net ::ffff:10.0.0.0/104", "--allow-callback-net: "},
		{"keys in memory", "", "--require-keys", "--database: a service in memory can have no API keys; give it a file, or leave out --require-keys"},
		{"unknown role", "", "--roles api,cook", "--roles: "},
		{"rounds below zero", "", "--rounds=-1", "--rounds: "},
		{"unknown log level", "", "--log-level loud", "--log-level"},
		{"switch that is neither on nor off", "", "--paused=maybe", "--paused"},
		{"address file in a missing folder", "", "--address-file " + filepath.Join(dir, "missing", "address"), "--address-file"},
		{"unknown flag", "", "--colour blue", "--colour"},
		{"one word too many", "", "now", "now"},
	} {
		t.Run(c.name, func(t *testing.T) {
			parallel(t)
			args := []string{"serve"}
			if !strings.Contains(c.args, "--addr ") {
				args = append(args, "--addr", "127.0.0.1:0")
			}
			var env []string
			if c.env != "" {
				env = []string{c.env}
			}
			stdout, stderr, code := run(t, env, append(args, strings.Fields(c.args)...)...)
			oneLine(t, stderr, code, c.word)
			if strings.Contains(stdout+stderr, hush) || strings.Contains(stdout+stderr, "whsec_"+hush) {
				t.Errorf("it shows a secret:\n%s%s", stdout, stderr)
			}
			if stdout != "" {
				t.Errorf("stdout is %q", stdout)
			}
		})
	}
}

func TestEveryFaultIsNamedAtOnce(t *testing.T) {
	parallel(t)
	_, stderr, code := run(t, nil, "serve", "--mode", "x", "--rate-limit", "y", "--workers=-1")
	if code == 0 || strings.Count(stderr, "\n") != 3 {
		t.Errorf("exit code is %d:\n%s", code, stderr)
	}
	for _, flag := range []string{"--mode", "--rate-limit", "--workers"} {
		if !strings.Contains(stderr, flag) {
			t.Errorf("it does not name %s:\n%s", flag, stderr)
		}
	}
}

func TestUnknownCommandsAreRefusedInOneLine(t *testing.T) {
	parallel(t)
	for _, args := range [][]string{{"sevre"}, {}, {"secret"}, {"secret", "tell"}, {"--verbose"}, {"version", "2"}} {
		_, stderr, code := run(t, nil, args...)
		oneLine(t, stderr, code, "see tandem")
	}
}

func TestABusyPortIsNamed(t *testing.T) {
	parallel(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := newFile(t)
	_, stderr, code := run(t, nil, "serve", "--addr", taken.Addr().String(), "--database", file)
	oneLine(t, stderr, code, taken.Addr().String(), "in use")
	serve(t, "--database", file) // which was let go of
}

func TestOneDatabaseHasOneServer(t *testing.T) {
	parallel(t)
	file := newFile(t)
	s := serve(t, "--database", file)
	id, _ := s.sync(quick)
	_, stderr, code := run(t, nil, "serve", "--addr", "127.0.0.1:0", "--database", file)
	oneLine(t, stderr, code, file, "process "+strconv.Itoa(s.cmd.Process.Pid))
	s.record(id)
	s.sync(quick) // the first is not disturbed
	s.kill()
	serve(t, "--database", file).record(id) // a crash leaves no lock behind
}

func TestFlagsCanBeGivenByTheEnvironment(t *testing.T) {
	parallel(t)
	dir := t.TempDir()
	rcv := receive(t, nil)
	u := newUpstream(t)
	u.open()
	addressFile := filepath.Join(dir, "address")
	p := start(t, dir, []string{
		"TANDEM_ADDR=127.0.0.1:0",
		"TANDEM_ADDRESS_FILE=" + addressFile,
		"TANDEM_MODE=production",
		"TANDEM_INSECURE_NO_AUTH=true",
		"TANDEM_DATABASE=" + filepath.Join(dir, "named.db"),
		"TANDEM_RATE_LIMIT=7/30s",
		"TANDEM_UPSTREAM=held=" + u.url + ",timeout=5s",
		"TANDEM_CALLBACK_SECRET=" + secret.Reveal(),
		"TANDEM_ALLOW_CALLBACK_NET=127.0.0.0/8,10.1.0.0/16",
		"TANDEM_ALLOW_CALLBACK_PORT=" + rcv.port,
		"TANDEM_CALLBACK_ATTEMPTS=4",
		"TANDEM_LOG_LEVEL=warn",
	}, "serve")
	s := connect(t, p, addressFile)
	id := s.async(u.work("a", rcv.url))
	rcv.next().verify(t, secret)
	if rec := s.settled(id); rec.Status != "callback_sent" || rec.Callback.MaxAttempts != 4 {
		t.Errorf("the record is %v", rec)
	}
	if r := s.stats().RateLimiting; r.Limit != 7 || r.Window != 30 {
		t.Errorf("the rate limit is %+v", r)
	}
	if _, err := os.Stat(filepath.Join(dir, "named.db")); err != nil {
		t.Error(err)
	}
	s.kill() // so that its log is complete
	if log := s.stderr.String(); strings.Contains(log, `"INFO"`) {
		t.Errorf("the log is not limited to warnings:\n%s", log)
	}
}

func TestWhatDecidesTheMode(t *testing.T) {
	parallel(t)
	for _, c := range []struct {
		name string
		env  []string
		args []string
		want string
	}{
		{"demo without a word", nil, nil, "demo"},
		{"ENVIRONMENT production", []string{"ENVIRONMENT=production"}, nil, "production"},
		{"ENVIRONMENT development", []string{"ENVIRONMENT=development"}, nil, "demo"},
		{"TANDEM_MODE goes before ENVIRONMENT", []string{"ENVIRONMENT=production", "TANDEM_MODE=demo"}, nil, "demo"},
		{"the flag goes before TANDEM_MODE", []string{"TANDEM_MODE=demo"}, []string{"--mode", "production"}, "production"},
		{"the flag goes before both", []string{"ENVIRONMENT=production", "TANDEM_MODE=production"}, []string{"--mode", "demo"}, "demo"},
		{"the flag makes up for an unknown ENVIRONMENT", []string{"ENVIRONMENT=staging"}, []string{"--mode", "production"}, "production"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := serveIn(t, dir, append(c.env, "TANDEM_INSECURE_NO_AUTH=true"), c.args...)
			production := c.want == "production"
			s.says(t, fmt.Sprintf(`"mode":%q`, c.want))
			// The mode is known by what comes with it.
			if st := s.stats(); st.RateLimiting.Enabled != production || st.System.Durable != production {
				t.Errorf("/stats says %+v", st)
			}
			if _, err := os.Stat(filepath.Join(dir, "requests.db")); (err == nil) != production {
				t.Errorf("requests.db: %v", err)
			}
		})
	}
}

func TestVersionNamesTheProgram(t *testing.T) {
	parallel(t)
	stdout, stderr, code := run(t, nil, "version")
	form := regexp.MustCompile(`^tandem \S+ go1\.\S+.* ` + runtime.GOOS + "/" + runtime.GOARCH + "\n$")
	if code != 0 || stderr != "" || !form.MatchString(stdout) {
		t.Errorf("tandem version says %q, %q, exit code %d", stdout, stderr, code)
	}
}

func TestHelpTellsOfEveryFlag(t *testing.T) {
	parallel(t)
	stdout, stderr, code := run(t, nil, "serve", "--help")
	if code != 0 || stderr != "" {
		t.Errorf("exit code is %d, stderr %q", code, stderr)
	}
	for _, flag := range []string{"addr", "mode", "database", "workers", "io-concurrency", "paused", "max-pending", "rounds", "callback-secret", "allow-callback-net", "rate-limit", "callback-per-host", "callback-attempts", "upstream", "work-timeout", "drain-timeout", "sync-queue-timeout"} {
		variable := "TANDEM_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
		if !strings.Contains(stdout, "--"+flag) || !strings.Contains(stdout, "$"+variable) {
			t.Errorf("the help does not tell of --%s and $%s", flag, variable)
		}
	}
}

func TestSecretShowPrintsWhatVerifiesTheCallbacks(t *testing.T) {
	onEach(t, secretShowPrintsWhatVerifiesTheCallbacks)
}

func secretShowPrintsWhatVerifiesTheCallbacks(t *testing.T, file string) {
	rcv := receive(t, nil)
	s := serveIn(t, t.TempDir(), nil, "--database", file)
	shown := showSecret(t, nil, "--database", file) // while the service runs
	s.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	rcv.next().verify(t, shown)
	s.kill()

	s = serveIn(t, t.TempDir(), nil, "--database", file)
	s.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	rcv.next().verify(t, shown) // it is kept
	s.kill()

	// A secret that is given goes before the one in the file.
	s = serveIn(t, t.TempDir(), nil, "--database", file, "--callback-secret", secret.Reveal())
	s.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	d := rcv.next()
	d.verify(t, secret)
	if webhook.Verify(d.header, d.body, d.at, shown) == nil {
		t.Error("the secret in the file signs although another was given")
	}
	if got := showSecret(t, []string{"TANDEM_CALLBACK_SECRET=" + secret.Reveal(), "TANDEM_DATABASE=" + file}); got.Reveal() != secret.Reveal() {
		t.Error("secret show does not print the secret that was given")
	}
	if got := showSecret(t, []string{"TANDEM_DATABASE=" + file}); got.Reveal() != shown.Reveal() {
		t.Error("the secret in the file has changed")
	}
}

func showSecret(t *testing.T, env []string, args ...string) webhook.Secret {
	t.Helper()
	stdout, stderr, code := run(t, env, append([]string{"secret", "show"}, args...)...)
	if code != 0 || stderr != "" || strings.Count(stdout, "\n") != 1 {
		t.Fatalf("tandem secret show: exit code %d, %d bytes, stderr %q", code, len(stdout), stderr)
	}
	shown, err := webhook.ParseSecret(stdout)
	if err != nil {
		t.Fatalf("tandem secret show: %v", err)
	}
	return shown
}

func TestSecretNewMakesOneThatBothSidesTake(t *testing.T) {
	parallel(t)
	rcv := receive(t, nil)
	first, second := showNewSecret(t), showNewSecret(t)
	if first.Reveal() == second.Reveal() {
		t.Error("two secrets are one")
	}
	s := serveIn(t, t.TempDir(), []string{"TANDEM_CALLBACK_SECRET=" + first.Reveal()})
	s.async(submission{Workload: "wait", Data: data, CallbackURL: rcv.url})
	rcv.next().verify(t, first)
}

func showNewSecret(t *testing.T) webhook.Secret {
	t.Helper()
	stdout, stderr, code := run(t, nil, "secret", "new")
	made, err := webhook.ParseSecret(strings.TrimSpace(stdout))
	if err != nil || code != 0 {
		t.Fatalf("exit code is %d, %v:\n%s%s", code, err, stdout, stderr)
	}
	return made
}

func TestSecretShowSaysWhyItCannot(t *testing.T) {
	parallel(t)
	dir := t.TempDir()
	for _, c := range []struct{ name, database string }{
		{"no file", filepath.Join(dir, "missing.db")},
		{"in memory", ":memory:"},
		{"a folder", dir},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, stderr, code := run(t, nil, "secret", "show", "--database", c.database)
			oneLine(t, stderr, code, "--database")
		})
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("asking for a secret left %v behind, %v", left, err)
	}
}

// The README's table has every flag of tandem serve, and no other.
func TestEveryFlagOfServeIsInTheREADME(t *testing.T) {
	parallel(t)
	help, stderr, code := run(t, nil, "serve", "--help")
	text, err := os.ReadFile("../README.md")
	if code != 0 || err != nil {
		t.Fatalf("%d %s %v", code, stderr, err)
	}
	_, table, _ := strings.Cut(string(text), "\n## Configuration")
	table, _, _ = strings.Cut(table, "\n## ")
	flags, documented := map[string]bool{}, map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[a-z0-9-]+)`).FindAllStringSubmatch(help, -1) {
		flags[m[1]] = true
	}
	delete(flags, "--help")
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|]+) \|`).FindAllStringSubmatch(table, -1) {
		for _, flag := range regexp.MustCompile("`(--[a-z0-9-]+)`").FindAllStringSubmatch(row[1], -1) {
			documented[flag[1]] = true
		}
	}
	for flag := range flags {
		if !documented[flag] {
			t.Errorf("%s is not in the README", flag)
		}
	}
	for flag := range documented {
		if !flags[flag] {
			t.Errorf("the README has %s, which tandem serve has not", flag)
		}
	}
}
