package loadtest

// ExitCode is how a program ends that measured something, for scripts to act
// on.
type ExitCode int

// The exit codes. Where several fit, void wins over missed, and missed over
// inconclusive.
const (
	ExitOK           ExitCode = 0
	ExitUsage        ExitCode = 1 // nothing was measured: wrong arguments, or an error
	ExitMissed       ExitCode = 2 // an objective was missed
	ExitVoid         ExitCode = 3 // the figures do not count
	ExitInconclusive ExitCode = 4 // there is no answer: too few samples, or no clear difference
)

// Exit is the verdict on what was measured.
func (f *File) Exit() ExitCode {
	switch {
	case f.Load != nil:
		return f.Load.Exit()
	case f.Compare != nil:
		return f.Compare.Exit()
	default:
		return f.Search.Exit()
	}
}

// Exit is the verdict on a run. An objective that could not be measured makes
// it inconclusive, and so does a pattern of which nothing was completed.
func (r *Result) Exit() ExitCode {
	code := ExitOK
	if len(r.Void) > 0 {
		return ExitVoid
	}
	for _, arm := range r.arms() {
		if arm.Ledger.Planned > 0 && arm.Ledger.Completed == 0 {
			code = ExitInconclusive
		}
	}
	for _, o := range r.SLOs {
		switch o.Outcome {
		case Missed:
			return ExitMissed
		case NotMeasured:
			code = ExitInconclusive
		}
	}
	return code
}

// Exit is the verdict on a comparison: that of its run, and inconclusive if not
// one metric has an answer. An A/A test need not prove the arms equal; but if it
// finds a difference, what measures is broken and the figures are void.
func (c *Comparison) Exit() ExitCode {
	answers, measured, difference := 0, 0, false
	for _, m := range c.Metrics {
		switch m.Verdict {
		case Faster, Slower:
			answers, measured, difference = answers+1, measured+1, true
		case Equivalent:
			answers, measured = answers+1, measured+1
		case Inconclusive:
			measured++
		}
	}
	code := c.Run.Exit()
	switch {
	case code == ExitVoid || c.AA && difference:
		return ExitVoid
	case code != ExitOK:
		return code
	case c.AA && measured > 0 || answers > 0:
		return ExitOK
	}
	return ExitInconclusive
}

// Exit is the verdict on a search: void if it did not come to its end, or if of
// some mode no rate could be measured at all, missed if every rate that was tried
// failed, inconclusive if a capacity is only known to be at least so much or was
// not confirmed.
func (s *Search) Exit() ExitCode {
	code := ExitOK
	for _, c := range s.Capacities {
		switch {
		case c.Passed == 0 && c.Failed == 0:
			return ExitVoid
		case c.Passed == 0:
			code = ExitMissed
		case code == ExitOK && (c.Failed == 0 || !c.Confirmed):
			code = ExitInconclusive
		}
	}
	if len(s.Capacities) == 0 || len(s.Void) > 0 {
		return ExitVoid
	}
	return code
}
