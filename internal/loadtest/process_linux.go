package loadtest

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of processor time in /proc: USER_HZ is 100 wherever Go runs
// on Linux.
const tick = 10 * time.Millisecond

// readProcess reads what a process has used so far: its processor time, to
// 10 ms, and its resident memory at this moment.
func readProcess(pid int) (Usage, error) {
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

// listener finds the process that listens at a local address, by the inode of
// its socket (proc_net(5)). It is 0 if that cannot be seen, as of another user.
func listener(address netip.AddrPort) (pid int) {
	inode := listeningInode(address)
	if inode == "" {
		return 0
	}
	sockets, _ := filepath.Glob("/proc/[0-9]*/fd/*") // its one error is that of a bad pattern
	for _, link := range sockets {
		if target, err := os.Readlink(link); err == nil && target == "socket:["+inode+"]" {
			pid, _ := strconv.Atoi(strings.Split(link, "/")[2]) // the pattern says it is a number
			return pid
		}
	}
	return 0
}

func listeningInode(address netip.AddrPort) string {
	const listening = "0A"
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		table, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(table)) {
			// sl, local_address, rem_address, st, ..., inode
			fields := strings.Fields(line)
			if len(fields) < 10 || fields[3] != listening {
				continue
			}
			ip, port, _ := strings.Cut(fields[1], ":")
			if port == fmt.Sprintf("%04X", address.Port()) && listensAt(ip, address.Addr().Unmap()) {
				return fields[9]
			}
		}
	}
	return ""
}

// listensAt reports whether a listener at ip, as /proc writes it, takes
// connections to an address: it is that address, or none in particular.
func listensAt(ip string, address netip.Addr) bool {
	raw, err := hex.DecodeString(ip)
	if err != nil {
		return false
	}
	for word := 0; word+4 <= len(raw); word += 4 { // each 32 bits in the machine's order, which is little-endian wherever this is seen
		raw[word], raw[word+1], raw[word+2], raw[word+3] = raw[word+3], raw[word+2], raw[word+1], raw[word]
	}
	own, ok := netip.AddrFromSlice(raw)
	return ok && (own.IsUnspecified() || own.Unmap() == address)
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

// kernel is the name and release of the kernel.
func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:])
}
