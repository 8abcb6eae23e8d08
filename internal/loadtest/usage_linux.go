package loadtest

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of processor time in /proc: USER_HZ is 100 wherever Go runs
// on Linux.
const tick = 10 * time.Millisecond

// ReadUsage reads what a process has used so far: its processor time, to 10 ms,
// and its resident memory at this moment.
func ReadUsage(pid int) (Usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, err
	}
	// Behind the name, which is in brackets, proc_pid_stat(5): state is field 3,
	// utime 14, stime 15, rss 24.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var values [3]int64
	for i, field := range []int{14, 15, 24} {
		if values[i], err = strconv.ParseInt(fields[field-3], 10, 64); err != nil {
			return Usage{}, fmt.Errorf("read /proc/%d/stat: %w", pid, err)
		}
	}
	return Usage{
		CPU:       time.Duration(values[0]+values[1]) * tick,
		PeakBytes: values[2] * int64(os.Getpagesize()),
	}, nil
}

// cpuModel is the name of the processor, or empty if the system does not say.
func cpuModel() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
