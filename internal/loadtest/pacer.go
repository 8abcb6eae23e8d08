package loadtest

import (
	"context"
	"time"
)

// longestSleep is how long the pacer may not see that the run is over.
const longestSleep = 50 * time.Millisecond

// pace calls send with the requests of the schedule as they fall due, at times
// counted from start. The times are absolute, so that lateness does not add up:
// what is overdue goes out at once, however much it is. It returns how many
// requests of each arm were not sent because ctx ended.
func pace(ctx context.Context, spec Spec, start time.Duration, now func() time.Duration, send func(planned)) (unsent [2]int) {
	release := precise()
	defer release()
	for p := range spec.schedule() {
		p.at += start
		for wait := p.at - now(); wait > 0 && ctx.Err() == nil; wait = p.at - now() {
			sleep(min(wait, longestSleep))
		}
		if ctx.Err() != nil {
			unsent[p.arm]++
			continue
		}
		send(p)
	}
	return unsent
}
