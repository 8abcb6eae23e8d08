package loadtest

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// precise readies the calling goroutine to sleep precisely, until release is
// called: Go's own timers wake up to a millisecond late (golang/go#44343), and
// the kernel's, without the slack that it allows itself, some ten microseconds.
func precise() (release func()) {
	runtime.LockOSThread()
	// The slack is a courtesy to batteries; without it we sleep less precisely.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	return func() {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // 0: the default
		runtime.UnlockOSThread()
	}
}

// sleep sleeps for d, or less if a signal comes.
func sleep(d time.Duration) {
	spec := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&spec, nil) // EINTR: the caller looks at the clock anyway
}
