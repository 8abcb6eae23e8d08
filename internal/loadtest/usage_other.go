//go:build !linux

package loadtest

import (
	"fmt"
	"runtime"
)

// ReadUsage reads what a process has used so far. It is not known how to on
// this system.
func ReadUsage(int) (Usage, error) {
	return Usage{}, fmt.Errorf("processor time and memory of another process are not read on %s", runtime.GOOS)
}

func cpuModel() string { return "" }
