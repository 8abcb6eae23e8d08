package postgrestest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options say how a Cluster runs.
type Options struct {
	// Settings of postgresql.conf, such as "fsync=off". By default what is
	// committed is on disk.
	Settings []string
}

// Cluster is a throwaway Postgres that listens on loopback. Its data is gone
// once it is stopped.
type Cluster struct {
	programs string // the folder of the Postgres programs
	dir      string
	port     int
	password string
	settings []string

	server *exec.Cmd
	log    output
	exited chan struct{} // closed once server has ended
}

// Start makes a cluster and waits until it answers. It returns ErrNoPrograms if
// there are no Postgres programs on the machine.
func Start(opts Options) (_ *Cluster, err error) {
	programs, err := findPrograms()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "tandem-postgres-")
	if err != nil {
		return nil, fmt.Errorf("make a place for a cluster: %w", err)
	}
	c := &Cluster{programs: programs, dir: dir, password: rand.Text(), settings: opts.Settings}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if err := c.initialize(); err != nil {
		return nil, err
	}
	for range 5 { // another program may take the port first
		if c.port, err = freePort(); err != nil {
			return nil, err
		}
		if err = c.Run(); err == nil {
			return c, nil
		}
	}
	return nil, err
}

// URL returns the URL of a database of the cluster, the password in it. The user
// may do everything.
func (c *Cluster) URL(database string) string {
	return fmt.Sprintf("postgres://tandem:%s@127.0.0.1:%d/%s?sslmode=disable", c.password, c.port, database)
}

// ErrNoPrograms is returned by Start where Postgres is not installed.
var ErrNoPrograms = errors.New("there are no Postgres programs on this machine")

// findPrograms returns the folder of initdb and postgres: the one on the PATH,
// else the newest of those that Debian's packages leave off it.
func findPrograms() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", ErrNoPrograms
	}
	newest := slices.MaxFunc(found, func(a, b string) int {
		if len(a) != len(b) { // 9.6 before 15
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return filepath.Dir(newest), nil
}

// initialize makes the data directory.
func (c *Cluster) initialize() error {
	password := filepath.Join(c.dir, "password")
	if err := os.WriteFile(password, []byte(c.password), 0o600); err != nil {
		return err
	}
	if err := giveAway(c.dir, password); err != nil {
		return err
	}
	initdb := c.command("initdb", "--pgdata", c.data(), "--username", "tandem", "--pwfile", password,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	if text, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, text)
	}
	return nil
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

// command is one of the Postgres programs, to be run as a user that is not
// root: they refuse that one.
func (c *Cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.programs, name), args...)
	cmd.Dir = c.dir
	asUser(cmd)
	return cmd
}

// Run starts a cluster that does not run, and waits until it answers.
func (c *Cluster) Run() error {
	args := []string{"-D", c.data(), "-p", fmt.Sprint(c.port), "-k", c.dir,
		"-c", "listen_addresses=127.0.0.1", "-c", "max_connections=400", "-c", "log_min_messages=log"}
	for _, setting := range c.settings {
		args = append(args, "-c", setting)
	}
	server := c.command("postgres", args...)
	server.Stdout, server.Stderr = &c.log, &c.log
	exited, err := launch(server)
	if err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	c.server, c.exited = server, exited
	for deadline := time.Now().Add(30 * time.Second); ; {
		err := answers(c.URL("postgres"))
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("postgres has ended: %w\n%s", err, c.log.tail())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("postgres does not answer: %w\n%s", err, c.log.tail()), c.Halt())
		}
	}
}

// launch starts a program that ends with the tests. exited is closed once it has
// ended.
func launch(program *exec.Cmd) (exited chan struct{}, err error) {
	exited = make(chan struct{})
	started := make(chan error)
	go func() {
		// The kernel ends the program when the thread that started it does: so
		// the goroutine keeps its thread until the program has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := program.Start()
		started <- err
		if err == nil {
			_ = program.Wait() // what it says is in ProcessState
			close(exited)
		}
	}()
	return exited, <-started
}

// ProcessorTime is what the server and its backends have used of the processors
// since Run, on Linux. Of backends that have ended it is known only once the
// server has noticed.
func (c *Cluster) ProcessorTime() (time.Duration, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		return 0, errors.New("processor time can be measured on Linux only")
	}
	server := c.server.Process.Pid
	ticks := 0
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// Behind the name, which is in brackets: the parent is field 4, utime 14,
		// stime 15, and what ended children have used 16 and 17.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		used := fields[11:13]
		switch {
		case filepath.Base(filepath.Dir(path)) == fmt.Sprint(server):
			used = fields[11:15]
		case fields[1] != fmt.Sprint(server):
			continue
		}
		for _, field := range used {
			n, err := strconv.Atoi(field)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", path, err)
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil // USER_HZ is 100 wherever Go runs on Linux
}

// Halt ends the server as pg_ctl stop -m immediate does: without a checkpoint,
// so that the next Run recovers as after a crash. The data stays.
func (c *Cluster) Halt() error {
	if c.server == nil {
		return nil
	}
	if err := c.server.Process.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("halt postgres: %w", err)
	}
	select {
	case <-c.exited:
	case <-time.After(30 * time.Second):
		return errors.Join(errors.New("postgres did not end when it was told to"), c.server.Process.Kill())
	}
	c.server = nil
	return nil
}

// Stop ends the cluster and deletes its data.
func (c *Cluster) Stop() error { return errors.Join(c.Halt(), os.RemoveAll(c.dir)) }

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// output keeps the last of what a server logs.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.text.Len() > 1<<20 {
		o.text.Reset()
	}
	return o.text.Write(b)
}

func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := o.text.Bytes()
	return string(text[max(0, len(text)-2<<10):])
}
