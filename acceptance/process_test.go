package acceptance

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"tandem/internal/postgrestest"
	"tandem/webhook"
)

// program is the path of the tandem that is tested.
var program string

// buildFlags are how it is built.
var buildFlags = []string{"-buildvcs=false"}

func TestMain(m *testing.M) {
	os.Exit(postgrestest.Main(func() int { return buildAndRun(m) }))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "tandem-acceptance-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a place for the program:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	flag.Parse()
	atOnce := flag.Lookup("test.parallel").Value
	placesInAll = int64(atOnce.(flag.Getter).Get().(int))
	places = semaphore.NewWeighted(placesInAll)
	if err := atOnce.Set("1000"); err != nil { // places count
		fmt.Fprintln(os.Stderr, "let tests wait beside others:", err)
		return 1
	}
	program = filepath.Join(dir, "tandem")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	build := exec.Command("go", append(append([]string{"build"}, buildFlags...), "-o", program, "tandem/cmd/tandem")...)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the program:", err)
		return 1
	}
	return m.Run()
}

// places is room for as many tests as go test -parallel lets run at once, and
// waiting for those beside them that do nothing but wait most of the time. Who
// waits for a place gets it in turn. (What go test tells of a test's time has the
// wait for a place in it.)
var (
	placesInAll int64
	places      *semaphore.Weighted
	waiting     = semaphore.NewWeighted(8)
)

// parallel is t.Parallel for a test that has something to do.
func parallel(t *testing.T) {
	t.Helper()
	inPlace(t, places)
}

// patient is t.Parallel for a test that waits, most of the time: until a dead
// process is taken for dead, or something else is over that takes its time.
func patient(t *testing.T) {
	t.Helper()
	inPlace(t, waiting)
}

func inPlace(t *testing.T, places *semaphore.Weighted) {
	t.Helper()
	t.Parallel()
	_ = places.Acquire(context.Background(), 1) // fails only if its context ends
	began := time.Now()
	t.Cleanup(func() {
		places.Release(1)
		hadItsPlace(t, began)
	})
}

// machine is for tests that need it. All of them have it one after the other, so
// that places are emptied for them once.
var machine struct {
	sync.Mutex
	wanted  atomic.Int64 // by those who have it and those who wait
	emptied bool
}

// alone is t.Parallel for a test that needs the machine: it has all places. Only
// those that wait are beside it.
func alone(t *testing.T) {
	t.Helper()
	t.Parallel()
	machine.wanted.Add(1)
	machine.Lock()
	if !machine.emptied {
		_ = places.Acquire(context.Background(), placesInAll) // as above
		machine.emptied = true
	}
	began := time.Now()
	t.Cleanup(func() {
		if machine.wanted.Add(-1) == 0 {
			places.Release(placesInAll)
			machine.emptied = false
		}
		machine.Unlock()
		hadItsPlace(t, began)
	})
}

func hadItsPlace(t *testing.T, began time.Time) {
	t.Helper()
	t.Logf("had its place for %.1f s", time.Since(began).Seconds())
}

// lookAtSources asks for the state of every file that the program is made of:
// the go command repeats a cached result unless a file that was asked for has
// changed, and does not see what the build reads. It listens only while tests
// run, so this is not done with the build.
var lookAtSources = sync.OnceValue(func() error {
	return filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != "..":
			return fs.SkipDir
		case slices.Contains([]string{".go", ".sql", ".mod", ".html", ".gohtml", ".css", ".js"}, filepath.Ext(path)):
			_, err = os.Stat(path)
		}
		return err
	})
})

// patience is how long anything may take that should happen soon. It bounds a
// test that fails; one that passes does not wait for it.
var patience = func() time.Duration {
	if raced { // a program that looks for races is several times as slow
		return time.Minute
	}
	return 20 * time.Second
}()

// secret signs the callbacks of every service that serve starts.
var secret = webhook.NewSecret()

// process is one run of the program.
type process struct {
	cmd    *exec.Cmd
	stdout output
	stderr output
	exited chan struct{} // closed once it has ended and its output is complete
}

// start runs the program in dir with nothing in its environment that says how
// tandem should behave but env. It is ended with the test.
func start(t *testing.T, dir string, env []string, args ...string) *process {
	t.Helper()
	return startProgram(t, program, dir, env, args...)
}

// startProgram is start, of another tandem than the one that is tested.
func startProgram(t *testing.T, program, dir string, env []string, args ...string) *process {
	t.Helper()
	if err := lookAtSources(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(program, args...), exited: make(chan struct{})}
	p.cmd.Dir = dir
	p.cmd.Env = append(plainEnvironment(), "TMPDIR="+dir)
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	dieWithParent(p.cmd)
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start tandem %s: %v", strings.Join(args, " "), err)
	}
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait() // what it says is in ProcessState
	}()
	t.Cleanup(func() {
		p.kill()
		log := p.stderr.String()
		for _, sign := range []string{"DATA RACE", "a handler panicked", "\ngoroutine "} {
			if at := strings.Index(log, sign); at >= 0 {
				t.Errorf("the program is broken: %.4000s", log[at:])
				break
			}
		}
		if t.Failed() {
			t.Logf("stderr of tandem %s:\n%s", strings.Join(args, " "), tail(log, 3<<10))
		}
	})
	return p
}

func plainEnvironment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "TANDEM_") && !strings.HasPrefix(v, "ENVIRONMENT=") {
			env = append(env, v)
		}
	}
	return env
}

// kill ends the process as a crash does, and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only if it has ended
	<-p.exited
}

// signal sends a signal that asks the process to end.
func (p *process) signal(t *testing.T, sig os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("send %v: %v", sig, err)
	}
}

// wait returns the exit code once the process has ended, or -1 if a signal
// ended it.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatal("the program did not end")
		return 0
	}
}

// says waits until the log of the process holds a text.
func (p *process) says(t *testing.T, text string) {
	t.Helper()
	eventually(t, "the log says "+text, func() bool { return strings.Contains(p.stderr.String(), text) })
}

// stop asks the process to end and wants it to end well.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	if code := p.wait(t); code != 0 {
		t.Fatalf("exit code after SIGTERM is %d, want 0", code)
	}
}

// needSignals skips a test where a process cannot be asked to end.
func needSignals(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("there are no signals to send on windows")
	}
}

// run runs the program to its end.
func run(t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	p := start(t, t.TempDir(), env, args...)
	code = p.wait(t)
	return p.stdout.String(), p.stderr.String(), code
}

// service is a run of tandem serve that listens.
type service struct {
	*process
	t      *testing.T
	addr   string
	client *http.Client
}

// serve starts a service on a free port, signing with secret.
func serve(t *testing.T, args ...string) *service {
	t.Helper()
	return serveIn(t, t.TempDir(), []string{"TANDEM_CALLBACK_SECRET=" + secret.Reveal()}, args...)
}

// serveIn starts a service in dir, with env and nothing else in its environment.
func serveIn(t *testing.T, dir string, env []string, args ...string) *service {
	t.Helper()
	return serveProgram(t, program, dir, env, args...)
}

// serveProgram is serveIn, of another tandem than the one that is tested.
func serveProgram(t *testing.T, program, dir string, env []string, args ...string) *service {
	t.Helper()
	file := filepath.Join(t.TempDir(), "address")
	args = append([]string{"serve", "--addr", "127.0.0.1:0", "--address-file", file}, args...)
	p := startProgram(t, program, dir, env, args...)
	return connect(t, p, file)
}

// connect returns a service once it has written its address to the file.
func connect(t *testing.T, p *process, addressFile string) *service {
	t.Helper()
	s := &service{process: p, t: t, addr: awaitAddress(t, p, addressFile)}
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	s.client = &http.Client{Transport: transport, Timeout: time.Minute}
	return s
}

// awaitAddress reads the address that a service writes once it listens.
func awaitAddress(t *testing.T, p *process, file string) string {
	t.Helper()
	var addr string
	eventually(t, "the service listens", func() bool {
		select {
		case <-p.exited:
			t.Fatalf("the service ended with exit code %d:\n%s", p.cmd.ProcessState.ExitCode(), p.stderr.String())
		default:
		}
		text, err := os.ReadFile(file)
		addr = strings.TrimSpace(string(text))
		return err == nil
	})
	return addr
}

// longest is how long a test waits for what must come: a dead process is taken
// for dead only after a while.
const longest = 2 * time.Minute

// eventually asks until the answer is yes, the less often the longer it takes.
func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	for began := time.Now(); !yes(); {
		waited := time.Since(began)
		if waited > longest {
			t.Fatalf("in vain waited until %s", what)
		}
		time.Sleep(5*time.Millisecond + waited/100)
	}
}

// wantSoon prints how long something took that should take at most so long, and
// holds it to that and what a busy machine may add.
func wantSoon(t *testing.T, what string, took, most time.Duration) {
	t.Helper()
	t.Logf("%s %v", what, took.Round(time.Millisecond))
	busy := 2 * time.Second
	if raced {
		busy = 10 * time.Second
	}
	if took > most+busy {
		t.Errorf("%s %v, want %v at most", what, took, most)
	}
}

// newFile is the path of a database that does not exist yet.
func newFile(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "requests.db")
}

// output collects what a process writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func tail(s string, n int) string {
	if len(s) > n {
		return "..." + s[len(s)-n:]
	}
	return s
}
