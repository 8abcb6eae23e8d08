package report

import (
	"fmt"
	"math"
	"time"

	"tandem/internal/loadtest"
)

// Insight is a conclusion in plain words, and the figures it was drawn from.
type Insight struct {
	Text    string
	Because string
}

// equivalent is how far two figures may be apart and still count as the same.
const equivalent = 0.05

// cpuBound is the share of all cores that the service must use for its work to
// count as CPU-bound.
const cpuBound = 0.5

// Insights draws the conclusions that the figures allow, the most important
// first. Where a figure is missing, what would follow from it is missing too.
func Insights(e loadtest.Environment, r *loadtest.Result) []Insight {
	var all []Insight
	add := func(i Insight, ok bool) {
		if ok {
			all = append(all, i)
		}
	}
	for _, arm := range arms(r) {
		add(nothingCompleted(arm))
	}
	if !r.Spec.AA {
		add(response(r))
		add(completion(e, r))
		add(throughput(r))
		add(spread(r))
		add(processor(r))
		add(callbacks(r))
		add(notDurable(r))
	}
	add(backlog(r))
	for _, arm := range arms(r) {
		add(stalled(r, arm))
		add(troubles(arm))
	}
	return all
}

func nothingCompleted(a loadtest.Arm) (Insight, bool) {
	return Insight{
		Text:    fmt.Sprintf("No %s request was completed, so there is nothing to compare.", a.Mode),
		Because: fmt.Sprintf("%d sent, %d accepted, 0 completed", a.Ledger.Sent, a.Ledger.Accepted),
	}, a.Ledger.Completed == 0
}

func response(r *loadtest.Result) (Insight, bool) {
	sync, ok := r.Sync.Response.Percentile(0.5)
	async, okToo := r.Async.Response.Percentile(0.5)
	if !ok || !okToo {
		return Insight{}, false
	}
	i := Insight{Because: fmt.Sprintf("median response: sync %s, async %s", duration(sync), duration(async))}
	switch ratio := float64(sync) / float64(async); {
	case ratio > 1+equivalent:
		i.Text = fmt.Sprintf("Async answered %s sooner: its caller holds a 202 and is free, the sync caller waits for the work.", times(ratio))
	case ratio < 1-equivalent:
		i.Text = fmt.Sprintf("Async answered %s later: this work is done sooner than a request is put on disk. Sync is the better choice for it.", times(1/ratio))
	default:
		i.Text = "Async answered no sooner: this work takes about as long as putting a request on disk."
	}
	return i, true
}

func completion(e loadtest.Environment, r *loadtest.Result) (Insight, bool) {
	sync, ok := r.Sync.Completion.Percentile(0.5)
	async, okToo := r.Async.Completion.Percentile(0.5)
	if !ok || !okToo {
		return Insight{}, false
	}
	i := Insight{Because: fmt.Sprintf("median completion: sync %s, async %s", duration(sync), duration(async))}
	prefix := ""
	if share, ok := cpuShare(e, r); ok {
		prefix = "The work is not CPU-bound: "
		if share >= cpuBound {
			prefix = "The work is CPU-bound: "
		}
		i.Because += fmt.Sprintf("; the service used %.0f %% of all cores", 100*share)
	}
	switch ratio := float64(async) / float64(sync); {
	case ratio > 1+equivalent:
		i.Text = fmt.Sprintf("%sasync completed no sooner, but %s later. Choose it to free the caller, not to have the result earlier.", prefix, times(ratio))
	case ratio < 1-equivalent:
		i.Text = fmt.Sprintf("%sasync completed %s sooner in this run. Both run the same function in the same slots, so look for what differed before counting on it.", prefix, times(1/ratio))
	default:
		i.Text = prefix + "async completed no sooner and no later. Choose it to free the caller, not to have the result earlier."
	}
	i.Text = capital(i.Text)
	return i, true
}

func throughput(r *loadtest.Result) (Insight, bool) {
	sync, ok := r.Sync.Throughput()
	async, okToo := r.Async.Throughput()
	if !ok || !okToo || r.Spec.Open() { // an open model sends what was planned, whatever is completed
		return Insight{}, false
	}
	i := Insight{Because: fmt.Sprintf("completed per second: sync %s, async %s", rate(sync), rate(async))}
	switch ratio := async / sync; {
	case ratio > 1+equivalent:
		i.Text = fmt.Sprintf("Async completed %.0f %% more per second.", 100*(ratio-1))
	case ratio < 1-equivalent:
		i.Text = fmt.Sprintf("Async completed %.0f %% less per second: that is the price of its records and callbacks.", 100*(1-ratio))
	default:
		i.Text = "Both completed as much per second: the same work in the same slots. How fast requests are accepted is not throughput."
	}
	return i, true
}

func spread(r *loadtest.Result) (Insight, bool) {
	sync, ok := r.Sync.Response.Deviation()
	async, okToo := r.Async.Response.Deviation()
	if !ok || !okToo {
		return Insight{}, false
	}
	i := Insight{Because: fmt.Sprintf("standard deviation of the response: sync %s, async %s", duration(sync), duration(async))}
	switch ratio := float64(async) / float64(sync); {
	case ratio < 1-equivalent:
		i.Text = "The 202 is the steadier answer: a sync answer comes as late as its place in the queue for a slot."
	case ratio > 1+equivalent:
		i.Text = "The sync answer was the steadier one in this run."
	default:
		i.Text = "Both answers vary alike."
	}
	return i, true
}

func processor(r *loadtest.Result) (Insight, bool) {
	sync, ok := cpuPerRequest(r.Sync)
	async, okToo := cpuPerRequest(r.Async)
	if !ok || !okToo {
		return Insight{}, false
	}
	i := Insight{Because: fmt.Sprintf("processor time of the service per completed request: sync %s, async %s", duration(sync), duration(async))}
	switch ratio := float64(async) / float64(sync); {
	case ratio > 1+equivalent:
		i.Text = fmt.Sprintf("An async request cost the service %s more processor time: it is stored before it is answered, and called back.", duration(async-sync))
	case ratio < 1-equivalent:
		i.Text = fmt.Sprintf("An async request cost the service %s less processor time in this run.", duration(sync-async))
	default:
		i.Text = "Both cost the service the same processor time: almost all of it is the work."
	}
	return i, true
}

func callbacks(r *loadtest.Result) (Insight, bool) {
	l := r.Async.Ledger
	if l.Accepted == 0 {
		return Insight{}, false
	}
	verified := l.Completed + l.Failed
	i := Insight{Because: fmt.Sprintf("%d accepted, %d outcomes received, %d missing", l.Accepted, verified, l.Missing)}
	switch {
	case l.Missing == 0 && r.Service.Completion == string(loadtest.Poll):
		i.Text = "Every accepted request had an outcome when it was polled for. Callbacks were not tried."
	case l.Missing == 0 && !r.Service.Verified:
		i.Text = "Every accepted request was called back over a real socket. Nothing shows that the calls were the service's: they are not signed."
	case l.Missing == 0:
		i.Text = "Every accepted request was called back over a real socket, and every signature verified."
	default:
		i.Text = fmt.Sprintf("%d accepted requests had no outcome in time: async broke its promise in this run.", l.Missing)
	}
	return i, true
}

func notDurable(r *loadtest.Result) (Insight, bool) {
	return Insight{
		Text:    "The 202s of this run would not have survived a restart, so they cost less than those of a durable service.",
		Because: "the service says that it is not durable",
	}, r.Service.Durable != nil && !*r.Service.Durable
}

// backlog speaks of an open run in which async requests were accepted faster
// than they were completed.
func backlog(r *loadtest.Result) (Insight, bool) {
	accepted, ok := r.Async.Accepted()
	completed, okToo := r.Async.Throughput()
	if r.Spec.AA || !r.Spec.Open() || !ok || !okToo {
		return Insight{}, false
	}
	return Insight{
		Text:    "Async accepted more than it completed while the load went on: a backlog grew, and how fast it accepts says nothing of its capacity.",
		Because: fmt.Sprintf("accepted %s, completed %s", rate(accepted), rate(completed)),
	}, accepted > (1+equivalent)*completed
}

// stalled speaks of coordinated omission: latencies from the planned time that
// are far from those from the sending.
func stalled(r *loadtest.Result, a loadtest.Arm) (Insight, bool) {
	planned, ok := a.Response.Percentile(0.99)
	sent, okToo := a.Uncorrected.Percentile(0.99)
	if !r.Spec.Open() || !ok || !okToo {
		return Insight{}, false
	}
	return Insight{
		Text:    fmt.Sprintf("The %s requests were sent late because others were waited for; a tool that counts from the sending would have hidden it.", a.Mode),
		Because: fmt.Sprintf("p99 of the response: %s from the planned time, %s from the sending", duration(planned), duration(sent)),
	}, float64(planned) > 2*float64(sent)
}

func troubles(a loadtest.Arm) (Insight, bool) {
	l := a.Ledger
	i := Insight{
		Text:    fmt.Sprintf("%d of %d %s requests did not succeed.", l.Sent-l.Completed, l.Sent, a.Mode),
		Because: fmt.Sprintf("%d rejected, %d errored, %d timed out, %d failed, %d missing", l.Rejected, l.Errored, l.TimedOut, l.Failed, l.Missing),
	}
	if l.Completed > 0 {
		i.Text += " The latencies are of those that did: read them with care."
	}
	return i, l.Sent > l.Completed
}

// cpuShare is the part of all cores that the service used in both modes.
func cpuShare(e loadtest.Environment, r *loadtest.Result) (float64, bool) {
	if r.Sync.Usage == nil || r.Async.Usage == nil || e.CPUs == 0 {
		return 0, false
	}
	busy := r.Sync.Usage.Over + r.Async.Usage.Over
	if busy <= 0 {
		return 0, false
	}
	used := r.Sync.Usage.CPU + r.Async.Usage.CPU
	return float64(used) / float64(busy) / float64(e.CPUs), true
}

// cpuPerRequest divides by what was completed. Processor time is counted in
// steps of 10 ms; below twenty of them it says too little to be divided.
func cpuPerRequest(a loadtest.Arm) (time.Duration, bool) {
	if a.Usage == nil || a.Ledger.Completed == 0 || a.Usage.CPU < 200*time.Millisecond {
		return 0, false
	}
	return a.Usage.CPU / time.Duration(a.Ledger.Completed), true
}

// times writes a ratio above one: "3.4 times", or "12 %" if it is small.
func times(ratio float64) string {
	if ratio < 2 {
		return fmt.Sprintf("%.0f %%", math.Round(100*(ratio-1)))
	}
	if ratio < 10 {
		return fmt.Sprintf("%.1f times", ratio)
	}
	return fmt.Sprintf("%.0f times", ratio)
}
