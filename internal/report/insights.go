package report

import (
	"fmt"

	"tandem/internal/loadtest"
)

// Insight is a conclusion in plain words, and the figures it was drawn from.
type Insight struct {
	Text    string `json:"text"`
	Because string `json:"because"`
}

// equivalent is how far two figures may be apart and still count as the same.
const equivalent = 0.05

// cpuBound is the share of all CPUs that the service must use for its work to
// count as CPU-bound.
const cpuBound = 0.5

// Insights draws the conclusions that the figures of a file's run allow, the
// most important first. Where a figure is missing, what would follow from it is
// missing too; and nothing follows from a run that is void. A search has none.
func Insights(f *loadtest.File) []Insight {
	r := result(f)
	if r == nil || len(r.Void) > 0 {
		return nil
	}
	var found []Insight
	add := func(i Insight, ok bool) {
		if ok {
			found = append(found, i)
		}
	}
	all := sides(f)
	for _, s := range all {
		add(nothingCompleted(s))
		add(stall(s))
		add(backlogGrew(s))
	}
	if sync, async, ok := pair(all); ok && async.async() {
		if f.Compare == nil { // else compared says it, and whether it may be chance
			add(response(sync.arm, async.arm))
			add(completion(sync.arm, async.arm, all))
			add(throughput(sync, async))
		}
		add(spread(sync.arm, async.arm))
		add(processor(sync.arm, async.arm))
	}
	for _, s := range all {
		if s.async() {
			add(callbacks(s))
			add(notDurable(s))
		}
	}
	for _, s := range all {
		add(troubles(s))
	}
	return found
}

func response(sync, async loadtest.Arm) (Insight, bool) {
	ratio, i, ok := medians("response", sync.Response, async.Response)
	switch {
	case ratio > 1+equivalent:
		i.Text = fmt.Sprintf("Async answered %s sooner: its caller holds a 202 and is free, the sync caller waits for the work.", times(ratio))
	case ratio < 1-equivalent:
		i.Text = fmt.Sprintf("Async answered %s later: this work is done sooner than a request is put on disk. Sync is the better choice for it.", times(1/ratio))
	default:
		i.Text = "Async answered no sooner: this work takes about as long as putting a request on disk."
	}
	return i, ok
}

func completion(sync, async loadtest.Arm, all []side) (Insight, bool) {
	ratio, i, ok := medians("completion", sync.Completion, async.Completion)
	if !ok {
		return i, false
	}
	prefix := ""
	if used, ok := targetShare(all); ok && !all[0].run.Spec.Open() { // closed callers keep it busy
		prefix = kindOfWork(used) + ": "
		i.Because += fmt.Sprintf("; the service used %.0f %% of all CPUs", 100*used)
	}
	accepted, choose := "async", "Choose async to free the caller, not to have the result earlier."
	if sooner, _, ok := medians("response", sync.Response, async.Response); ok && sooner > 1+equivalent {
		accepted = fmt.Sprintf("async accepted %s sooner and", times(sooner))
		choose = "Choose async for responsiveness, not for throughput."
	}
	switch {
	case ratio < 1-equivalent:
		i.Text = fmt.Sprintf("%sasync completed %s later than sync. %s", prefix, times(1/ratio), choose)
		if accepted != "async" {
			i.Text = fmt.Sprintf("%s%s completed no sooner, but %s later. %s", prefix, accepted, times(1/ratio), choose)
		}
	case ratio > 1+equivalent:
		i.Text = fmt.Sprintf("%sasync completed %s sooner in this run. Both run the same function in the same slots, so look for what differed before counting on it.", prefix, times(ratio))
	default:
		i.Text = fmt.Sprintf("%s%s completed no sooner and no later. %s", prefix, accepted, choose)
	}
	i.Text = capital(i.Text)
	return i, true
}

// kindOfWork says what the share of the CPUs that the service used tells of the
// work. A small one tells less: the service may have been kept from using more.
func kindOfWork(used float64) string {
	if used >= cpuBound {
		return "The work is CPU-bound"
	}
	return "The CPUs did not bound this work, unless others used them"
}

// medians returns how many times sooner async was, and the figures.
func medians(what string, sync, async loadtest.Latency) (ratio float64, i Insight, ok bool) {
	a, ok := sync.Percentile(0.5)
	b, okToo := async.Percentile(0.5)
	if !ok || !okToo || a <= 0 || b <= 0 {
		return 0, Insight{}, false
	}
	return float64(a) / float64(b), Insight{Because: fmt.Sprintf("median %s: sync %s, async %s", what, duration(a), duration(b))}, true
}

// throughput compares what closed callers got done. In an open run both arms
// complete what was offered to them, or fall behind; see backlogGrew.
func throughput(sync, async side) (Insight, bool) {
	a, ok := sync.arm.Throughput()
	b, okToo := async.arm.Throughput()
	if !ok || !okToo || sync.run.Spec.Open() {
		return Insight{}, false
	}
	i := Insight{Because: fmt.Sprintf("completed per second: sync %s, async %s", rate(a), rate(b))}
	switch ratio := b / a; {
	case ratio > 1+equivalent:
		i.Text = fmt.Sprintf("Async completed %.0f %% more per second in this run; compare tells whether that is chance.", 100*(ratio-1))
	case ratio < 1-equivalent:
		i.Text = fmt.Sprintf("Async completed %.0f %% less per second in this run: its records and callbacks have a price. How much of it is chance, compare tells.", 100*(1-ratio))
	default:
		i.Text = "Both completed as much per second: the same work in the same slots. How fast requests are accepted is not throughput."
	}
	return i, true
}

func spread(sync, async loadtest.Arm) (Insight, bool) {
	a, ok := sync.Response.Deviation()
	b, okToo := async.Response.Deviation()
	if !ok || !okToo || a <= 0 {
		return Insight{}, false
	}
	i := Insight{Because: fmt.Sprintf("standard deviation of the response: sync %s, async %s", duration(a), duration(b))}
	switch ratio := float64(b) / float64(a); {
	case ratio < 1-equivalent:
		i.Text = "The 202 is the steadier answer: a sync answer comes as late as its place in the queue for a slot."
	case ratio > 1+equivalent:
		i.Text = "The sync answer was the steadier one in this run."
	default:
		i.Text = "Both answers vary alike."
	}
	return i, true
}

func processor(sync, async loadtest.Arm) (Insight, bool) {
	a, ok := cpuPerRequest(sync)
	b, okToo := cpuPerRequest(async)
	if !ok || !okToo || a <= 0 {
		return Insight{}, false
	}
	i := Insight{Because: fmt.Sprintf("processor time of the service per completed request: sync %s, async %s", duration(a), duration(b))}
	switch ratio := float64(b) / float64(a); {
	case ratio > 1+equivalent:
		i.Text = fmt.Sprintf("An async request cost the service %s more processor time: it is stored before it is answered, and called back.", duration(b-a))
	case ratio < 1-equivalent:
		i.Text = fmt.Sprintf("An async request cost the service %s less processor time in this run.", duration(a-b))
	default:
		i.Text = "Both cost the service the same processor time: almost all of it is the work."
	}
	return i, true
}
