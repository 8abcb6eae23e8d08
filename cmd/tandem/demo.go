package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tandem/internal/loadtest"
	"tandem/internal/report"
	"tandem/internal/target"
	"tandem/webhook"
)

type demoCmd struct {
	Requests    int    `default:"200" help:"Requests to send, half of them sync and half async."`
	Concurrency int    `default:"15" help:"Requests to send at once."`
	Complexity  int    `default:"2" help:"How much work each one is, 1 to 10."`
	Workload    string `default:"compute" enum:"compute,wait,mixed" help:"Kind of work: compute burns CPU, wait waits, mixed does both."`
}

// Run starts a service in a process of its own, on a file that is synced at
// every commit, so that what is printed is durable acceptance and the two
// halves share no scheduler.
func (c *demoCmd) Run(ctx context.Context) error {
	spec := loadtest.Spec{Requests: c.Requests, Concurrency: c.Concurrency, SyncRatio: 0.5, Complexity: c.Complexity, Workload: c.Workload}
	if err := flagFaults(spec.Check()); err != nil {
		return err
	}
	if c.Requests < 2 {
		return fmt.Errorf("--requests must be at least 2, one each way, is %d", c.Requests)
	}
	dir, err := os.MkdirTemp("", "tandem-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	secret := webhook.NewSecret()
	service, err := startService(ctx, dir, secret)
	if err != nil {
		return err
	}
	defer service.stop()

	fmt.Fprintf(os.Stderr, "A service is running at %s, on a file that is synced at every commit.\n", service.url)
	result, err := loadtest.Run(ctx, spec, loadtest.Options{URL: service.url, Secret: target.StandardSecret(secret), Progress: progressTo(os.Stderr)})
	if err != nil {
		return errors.Join(err, service.whyDown())
	}
	fmt.Fprintln(os.Stderr)
	measured := &loadtest.File{Version: loadtest.FileVersion, Tandem: version(), Environment: loadtest.ReadEnvironment(), Load: result}
	if err := report.Text(os.Stdout, measured); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: the figures are of what was sent until then")
	}
	return errors.Join(result.Complete(), service.whyDown())
}

// service is the child process that the demo measures.
type service struct {
	cmd    *exec.Cmd
	url    string
	log    string
	exited chan struct{} // closed when it has ended
}

// startService runs `tandem serve` and waits until it listens.
func startService(ctx context.Context, dir string, secret webhook.Secret) (*service, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	addressFile, logPath := filepath.Join(dir, "address"), filepath.Join(dir, "service.log")
	logFile, err := os.Create(logPath)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	cmd := exec.Command(program, "serve", "--mode", "demo", "--addr", "127.0.0.1:0",
		"--database", filepath.Join(dir, "requests.db"), "--address-file", addressFile)
	// The operator's settings are for their service; the demo is the same everywhere.
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "TANDEM_") || strings.HasPrefix(v, "ENVIRONMENT=")
	}), "TANDEM_CALLBACK_SECRET="+secret.Reveal())
	cmd.Stderr = logFile
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the service: %w", err)
	}
	s := &service{cmd: cmd, log: logPath, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in the state that whyDown reads
		close(s.exited)
	}()
	if s.url, err = s.waitForAddress(ctx, addressFile); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// waitForAddress returns the service's URL once it has written its address.
func (s *service) waitForAddress(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("the service did not start within 30 s"))
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		address, err := os.ReadFile(path)
		if err == nil {
			return "http://" + strings.TrimSpace(string(address)), nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		select {
		case <-ticker.C:
		case <-s.exited:
			return "", s.whyDown()
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// whyDown returns nil while the service runs, else an error with the end of its
// log.
func (s *service) whyDown() error {
	select {
	case <-s.exited:
	default:
		return nil
	}
	log, err := os.ReadFile(s.log)
	if err != nil {
		log = fmt.Appendf(nil, "its log cannot be read: %v", err)
	}
	lines := bytes.SplitAfter(bytes.TrimSpace(log), []byte("\n"))
	return fmt.Errorf("the service ended (%v); the end of its log:\n%s", s.cmd.ProcessState, bytes.Join(lines[max(0, len(lines)-10):], nil))
}

// stop ends the service: gently, and after ten seconds at once.
func (s *service) stop() {
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil { // on Windows there is no gentle way
		_ = s.cmd.Process.Kill()
	}
	select {
	case <-s.exited:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill() // it fails only if the process has ended meanwhile
		<-s.exited
	}
}
