package report

import (
	"time"

	"tandem"
	"tandem/internal/loadtest"
)

// side is one arm of a run, as it stands beside others.
type side struct {
	label string // sync or async; sync A and sync B of an A/A test; with the file's number if there are several
	class string // sync or async: the arm's colour
	file  int    // the place of its file, from 0
	arm   loadtest.Arm
	run   *loadtest.Result
	cpus  int // of the machine that the load came from
}

func (s side) void() bool  { return len(s.run.Void) > 0 }
func (s side) async() bool { return s.arm.Mode == tandem.Async }

// result is the run of a file: a load, or all blocks of a comparison together.
// A search has none.
func result(f *loadtest.File) *loadtest.Result {
	switch {
	case f.Load != nil:
		return f.Load
	case f.Compare != nil:
		return &f.Compare.Run
	default:
		return nil
	}
}

// sides are the arms of a file's run that had a part in it.
func sides(f *loadtest.File) []side {
	r := result(f)
	if r == nil {
		return nil
	}
	a := side{label: "sync", class: "sync", arm: r.Sync, run: r, cpus: f.Environment.CPUs}
	b := side{label: "async", class: "async", arm: r.Async, run: r, cpus: f.Environment.CPUs}
	a.arm.Mode, b.arm.Mode = tandem.Sync, tandem.Async
	if f.Compare != nil && f.Compare.AA {
		a.label, b.label, b.arm.Mode = "sync A", "sync B", tandem.Sync
		return []side{a, b}
	}
	var all []side
	if took(r.Sync) || !took(r.Async) && r.Spec.SyncRatio > 0 {
		all = append(all, a)
	}
	if took(r.Async) || !took(r.Sync) && r.Spec.SyncRatio < 1 {
		all = append(all, b)
	}
	return all
}

// took reports whether an arm had a part in its run.
func took(a loadtest.Arm) bool { return a.Ledger.Planned > 0 || a.Ledger.Sent > 0 }

// sidesOf are the arms of several files, each labelled with its file's number.
func sidesOf(files []*loadtest.File) []side {
	var all []side
	for i, f := range files {
		for _, s := range sides(f) {
			s.file = i
			s.label = numbered(files, i) + s.label
			all = append(all, s)
		}
	}
	return all
}

// runsOf are the runs of several files, each a side without an arm and labelled
// with no more than its file's number: for what both arms share.
func runsOf(files []*loadtest.File) []side {
	var all []side
	for i, f := range files {
		if r := result(f); r != nil {
			all = append(all, side{label: numbered(files, i), file: i, run: r, cpus: f.Environment.CPUs})
		}
	}
	return all
}

// pair returns both sides of a run that had two.
func pair(all []side) (a, b side, ok bool) {
	if len(all) != 2 {
		return side{}, side{}, false
	}
	return all[0], all[1], true
}

// polled reports whether outcomes were asked for, so that there were no
// callbacks.
func polled(r *loadtest.Result) bool { return r.Service.Completion == "poll" }

// delivered is how many of the accepted requests of an async arm came to an
// outcome: a callback, verified where they are signed, or a poll.
func delivered(a loadtest.Arm) int { return a.Ledger.Completed + a.Ledger.Failed }

// leastWatched is how long a process must have been watched for its share:
// processor time is counted in steps of 10 ms.
const leastWatched = 200 * time.Millisecond

// processorShare is the part of so many CPUs that a process used.
func processorShare(u *loadtest.Usage, cpus int) (float64, bool) {
	if u == nil || u.Over < leastWatched || cpus <= 0 {
		return 0, false
	}
	return u.CPU.Seconds() / u.Over.Seconds() / float64(cpus), true
}

// targetShare is the part of all CPUs that a local service used: while each mode
// ran alone, or else during the whole run.
func targetShare(all []side) (float64, bool) {
	if len(all) == 0 {
		return 0, false
	}
	var used loadtest.Usage
	for _, s := range all {
		if s.arm.Usage == nil {
			return processorShare(s.run.Service.Usage, s.cpus)
		}
		used.CPU += s.arm.Usage.CPU
		used.Over += s.arm.Usage.Over
	}
	return processorShare(&used, all[0].cpus)
}

// cpuPerRequest divides by what was completed. Processor time is counted in
// steps of 10 ms; below twenty of them it says too little to be divided.
func cpuPerRequest(a loadtest.Arm) (time.Duration, bool) {
	if a.Usage == nil || a.Ledger.Completed == 0 || a.Usage.CPU < 200*time.Millisecond {
		return 0, false
	}
	return a.Usage.CPU / time.Duration(a.Ledger.Completed), true
}
