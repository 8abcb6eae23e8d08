package engine

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// niceness of the threads that compute on and on: a tenth of the weight of a
// thread that does anything else, enough to be set aside at once when one wakes.
const niceness = 10

// letOthersFirst lowers the priority of the calling goroutine's thread, which is
// its own from here on: the runtime ends the thread with the goroutine, because
// a priority can be lowered by anyone and raised again only by root.
func letOthersFirst() {
	runtime.LockOSThread()
	// 0 is the calling thread on Linux, setpriority(2). If it fails the thread
	// keeps its priority, which costs promptness and nothing else.
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, niceness)
}
