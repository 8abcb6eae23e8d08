//go:build !linux

package loadtest

import (
	"fmt"
	"net/netip"
	"runtime"
)

func readProcess(int) (Usage, error) {
	return Usage{}, fmt.Errorf("processor time and memory of a process are not read on %s", runtime.GOOS)
}

func listener(netip.AddrPort) (pid int) { return 0 }

func cpuModel() string { return "" }

func kernel() string { return "" }
