package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// build builds the program that is measured.
func build(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "tandem")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "./cmd/tandem").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build tandem: %w\n%s", err, out)
	}
	return path, nil
}

// process is one side of a comparison: a server in a process of its own.
type process struct {
	cmd *exec.Cmd
	url string
	log string
}

// start runs a program that writes its address to the file it is given, and
// waits until it has.
func start(ctx context.Context, dir, program string, args ...string) (*process, error) {
	addressFile := filepath.Join(dir, "address-"+strconv.FormatInt(time.Now().UnixNano(), 36))
	logFile, err := os.Create(addressFile + ".log")
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	cmd := exec.CommandContext(ctx, program, append(args, "--address-file", addressFile)...)
	cmd.Stderr = logFile
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, log: logFile.Name()}
	for range 3000 {
		if text, err := os.ReadFile(addressFile); err == nil {
			p.url = "http://" + strings.TrimSpace(string(text))
			return p, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.stop()
	log, _ := os.ReadFile(p.log)
	return nil, fmt.Errorf("%s did not start:\n%s", program, log)
}

// tandem starts the service on a new file.
func (b *bench) tandem(ctx context.Context, args ...string) (*process, error) {
	return b.serve(ctx, filepath.Join(b.dir, strconv.FormatInt(time.Now().UnixNano(), 36)+".db"), args...)
}

// serve starts the service on a database.
func (b *bench) serve(ctx context.Context, database string, args ...string) (*process, error) {
	return start(ctx, b.dir, b.program, append([]string{"serve", "--mode", "demo", "--addr", "127.0.0.1:0", "--database", database}, args...)...)
}

func (b *bench) bare(ctx context.Context, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return start(ctx, b.dir, self, append([]string{"bare"}, args...)...)
}

func (p *process) stop() {
	// The process is thrown away with its database: how it ends is of no interest.
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// residentMB is the resident memory of the process, on Linux.
func (p *process) residentMB() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("resident memory can be measured on Linux only: %w", err)
	}
	for line := range bytes.Lines(text) {
		if fields := strings.Fields(string(line)); fields[0] == "VmRSS:" {
			kb, err := strconv.ParseFloat(fields[1], 64)
			return kb / 1024, err
		}
	}
	return 0, fmt.Errorf("no VmRSS in /proc/%d/status", p.cmd.Process.Pid)
}

// client keeps as many connections as a scenario has senders.
func client(conns int) *http.Client {
	return &http.Client{Transport: &http.Transport{
		MaxIdleConns:        conns,
		MaxIdleConnsPerHost: conns,
		DisableCompression:  true,
	}}
}

// cpu is the processor time that the process has used, on Linux.
func (p *process) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid()))
	if err != nil {
		return 0, fmt.Errorf("processor time can be measured on Linux only: %w", err)
	}
	// Behind the name, which is in brackets: state is field 3, utime 14, stime 15.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[12])
	const tick = 10 * time.Millisecond // USER_HZ is 100 wherever Go runs on Linux
	return time.Duration(user+system) * tick, err
}
