package report

import (
	"fmt"
	"time"

	"tandem/internal/loadtest"
)

func nothingCompleted(s side) (Insight, bool) {
	l := s.arm.Ledger
	return Insight{
		Text:    fmt.Sprintf("No %s request was completed, so there is nothing to compare.", s.label),
		Because: fmt.Sprintf("%d sent, %d accepted, 0 completed", l.Sent, l.Accepted),
	}, l.Completed == 0
}

// stallFactor and stallMargin are how far the corrected p99 must be above the
// uncorrected one to be called a stall.
const (
	stallFactor = 2
	stallMargin = 5 * time.Millisecond
)

// stall finds coordinated omission: what requests waited to be sent. Callers of
// a closed run plan nothing ahead, so there is none to find. Where the
// generator was late by as much, the service may not be to blame.
func stall(s side) (Insight, bool) {
	corrected, ok := s.arm.Response.Percentile(0.99)
	uncorrected, okToo := s.arm.Uncorrected.Percentile(0.99)
	if !ok || !okToo || !s.run.Spec.Open() || corrected < stallFactor*uncorrected || corrected < uncorrected+stallMargin {
		return Insight{}, false
	}
	i := Insight{
		Text: fmt.Sprintf("The service stalled, and %s requests waited to be sent. A closed-loop tool would have waited with them and hidden it.", s.label),
		Because: fmt.Sprintf("p99 of the %s response: %s from the planned time, %s from the sending",
			s.label, duration(corrected), duration(uncorrected)),
	}
	if lag, ok := s.run.Generator.Lag.Percentile(0.99); ok {
		i.Because += fmt.Sprintf("; the generator's own lag: %s", duration(lag))
		if lag > (corrected-uncorrected)/2 {
			i.Text = fmt.Sprintf("The %s requests were sent late, and the generator itself may be why: do not put it down to the service.", s.label)
		}
	}
	return i, true
}

// backlogGrew is about open runs: more was accepted than completed, and what
// waits has grown. The requests that are being worked when the load ends are no
// sign of that by themselves.
func backlogGrew(s side) (Insight, bool) {
	accepted, ok := s.arm.Accepted()
	completed, okToo := s.arm.Throughput()
	early, late, grew := growth(s.run)
	if !ok || !s.async() || !s.run.Spec.Open() || completed >= accepted*(1-equivalent) || !grew {
		return Insight{}, false
	}
	rates := "accepted " + rate(accepted) + ", completed none"
	if okToo {
		rates = fmt.Sprintf("accepted %s, completed %s", rate(accepted), rate(completed))
	}
	return Insight{
		Text:    fmt.Sprintf("The backlog of %s requests grew: more were accepted than completed. The rate of acceptance is not a capacity; the service cannot go on like this.", s.label),
		Because: fmt.Sprintf("while the load lasted: %s; waiting on average in its second quarter %s, in its last %s", rates, digits(early), digits(late)),
	}, true
}

// growth compares the backlog in the second and in the last quarter of an open
// run's load.
func growth(r *loadtest.Result) (early, late float64, grew bool) {
	var counts [4]int
	var sums [4]float64
	for _, s := range r.Series {
		if at := time.Duration(s.At) * time.Second; at >= 0 && at < r.Spec.Duration {
			quarter := int(4 * at / r.Spec.Duration)
			counts[quarter]++
			sums[quarter] += s.Backlog
		}
	}
	if counts[1] == 0 || counts[3] == 0 {
		return 0, 0, false
	}
	early, late = sums[1]/float64(counts[1]), sums[3]/float64(counts[3])
	return early, late, late > 1.5*early+1
}

func callbacks(s side) (Insight, bool) {
	l := s.arm.Ledger
	if l.Accepted == 0 {
		return Insight{}, false
	}
	way := "callbacks"
	switch {
	case polled(s.run):
		way = "outcomes found by polling"
	case s.run.Service.Verified:
		way = "verified callbacks"
	}
	i := Insight{Because: fmt.Sprintf("%d accepted, %d %s, %d missing", l.Accepted, delivered(s.arm), way, l.Missing)}
	switch came := s.run.Callbacks; {
	case l.Missing > 0 && came.Verified == 0 && came.Refused() > 0:
		i.Text = fmt.Sprintf("Of %s no callback came that can be believed. Is the secret the one that the service signs with?", counted(l.Missing, "accepted request"))
		i.Because += fmt.Sprintf("; %d callbacks did not pass", came.Refused())
	case l.Missing > 0:
		i.Text = fmt.Sprintf("Of %s the outcome never came: async broke its promise in this run.", counted(l.Missing, "accepted request"))
	case polled(s.run):
		i.Text = "Every accepted request came to an outcome. It was asked for: this run says nothing about callbacks."
	case !s.run.Service.Verified:
		i.Text = "Every accepted request was called back."
	default:
		i.Text = "Every accepted request was called back over a real socket, and every one of these signatures verified."
	}
	return i, true
}

func notDurable(s side) (Insight, bool) {
	return Insight{
		Text:    "The 202s of this run would not have survived a restart, so they cost less than those of a durable service.",
		Because: "the service says that it is not durable",
	}, s.run.Service.Durable != nil && !*s.run.Service.Durable && s.arm.Ledger.Accepted > 0
}

func troubles(s side) (Insight, bool) {
	l := s.arm.Ledger
	i := Insight{
		Text:    fmt.Sprintf("%d of %d %s requests did not succeed.", l.Sent-l.Completed, l.Sent, s.label),
		Because: fmt.Sprintf("%d rejected, %d errored, %d timed out, %d failed, %d missing", l.Rejected, l.Errored, l.TimedOut, l.Failed, l.Missing),
	}
	if n := s.arm.Errors[loadtest.CategoryRateLimited]; n > 0 {
		i.Because += fmt.Sprintf("; %d of them answered 429", n)
	}
	if l.Completed > 0 {
		i.Text += " The latencies are of those that did: read them with care."
	}
	return i, l.Sent > l.Completed
}
