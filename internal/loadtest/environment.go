package loadtest

import (
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// ReadEnvironment describes this machine.
func ReadEnvironment() Environment {
	return Environment{
		OS: runtime.GOOS, Kernel: kernel(), Arch: runtime.GOARCH,
		CPU: cpuModel(), CPUs: runtime.NumCPU(), Go: runtime.Version(),
		Git: commit(),
	}
}

// commit is what the program was built from, or empty if it was not built from
// a repository.
func commit() (revision string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	changed := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = "+"
		}
	}
	return revision + changed
}

// process is a process whose use of the machine is measured; 0 is one that is
// not known.
type process int

// findProcess finds the process that listens at an address of this machine. If
// that is this very process, what it uses says nothing of the service.
func findProcess(address netip.AddrPort) process {
	pid := listener(address)
	if pid == os.Getpid() {
		return 0
	}
	return process(pid)
}

// read returns what the process has used so far, or nil if that is not known.
func (p process) read() *Usage {
	if p == 0 {
		return nil
	}
	u, err := readProcess(int(p))
	if err != nil {
		return nil // it has ended, or this system does not say: nothing will be reported
	}
	return &u
}

// self is this process.
func self() process { return process(os.Getpid()) }

// meter measures what a process uses over a stretch of time. Memory is read
// every now and then: a process's own record of its most (VmHWM) is that of its
// whole life, and not of this stretch.
type meter struct {
	process process
	before  *Usage

	mu   sync.Mutex
	peak int64
}

func (p process) meter() *meter {
	m := &meter{process: p}
	m.before = m.read()
	return m
}

// read is what was used so far, and the most memory that was seen.
func (m *meter) read() *Usage {
	u := m.process.read()
	if u == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.peak = max(m.peak, u.PeakBytes)
	return &Usage{CPU: u.CPU, PeakBytes: m.peak}
}

// used is what was used since the meter was made, over so long; nil if that is
// not known.
func (m *meter) used(over time.Duration) *Usage {
	u := m.read()
	if u == nil || m.before == nil {
		return nil
	}
	return &Usage{CPU: u.CPU - m.before.CPU, PeakBytes: u.PeakBytes, Over: over}
}

// plus joins two stretches of use. A nil one adds nothing.
func (u *Usage) plus(other *Usage) *Usage {
	if u == nil || other == nil {
		return other
	}
	return &Usage{CPU: u.CPU + other.CPU, PeakBytes: max(u.PeakBytes, other.PeakBytes), Over: u.Over + other.Over}
}
