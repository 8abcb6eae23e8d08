//go:build !linux

package loadtest

import "time"

// precise has nothing to offer on this system: sleeps end up to a millisecond
// late, on Windows up to sixteen.
func precise() (release func()) { return func() {} }

func sleep(d time.Duration) { time.Sleep(d) }
