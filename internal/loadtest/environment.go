package loadtest

import (
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
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

// readSelf returns what this process has used so far, or nil if that is not
// known.
func readSelf() *Usage { return process(os.Getpid()).read() }

// since is what was used between two readings, so far apart.
func (u *Usage) since(before *Usage, over time.Duration) *Usage {
	if u == nil || before == nil {
		return nil
	}
	return &Usage{CPU: u.CPU - before.CPU, PeakBytes: max(u.PeakBytes, before.PeakBytes), Over: over}
}

// plus joins two stretches of use. A nil one adds nothing.
func (u *Usage) plus(other *Usage) *Usage {
	if u == nil || other == nil {
		return other
	}
	return &Usage{CPU: u.CPU + other.CPU, PeakBytes: max(u.PeakBytes, other.PeakBytes), Over: u.Over + other.Over}
}
