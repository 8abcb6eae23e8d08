package loadtest

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"tandem"
)

// SLO is a service level objective, such as async.accept.p99<20ms:
//
//	[sync.|async.]metric[.statistic] operator limit
//
//	accept         async: from the planned time until the 202
//	latency        sync: from the planned time until the answer
//	completion     from the planned time until the outcome was here
//	error_rate     the part of what was sent that was not completed
//	callback_rate  async: the part of what was accepted whose outcome came in a verified callback
//
// Latencies have a statistic (mean, max, p50 to p99.99) and an upper limit
// (20ms, 1.5s); they are those of the requests that succeeded. Rates have a
// limit such as 1% or 0.01. Without a mode, an objective holds for every mode
// that it can be measured in and that sent something. Two SLOs are equal if
// they say the same in the same units.
type SLO struct {
	mode   tandem.Mode // empty: all modes of the metric
	metric string
	stat   string  // of a latency
	q      float64 // the quantile; 0: the statistic is none
	op     string
	limit  float64 // seconds, or a part of one
	unit   string  // the limit as it was written
}

// The metrics of an SLO.
const (
	metricAccept       = "accept"
	metricLatency      = "latency"
	metricCompletion   = "completion"
	metricErrorRate    = "error_rate"
	metricCallbackRate = "callback_rate"
)

var (
	sloForm      = regexp.MustCompile(`^\s*([^<>=\s]+)\s*(<=|>=|<|>)\s*([0-9.]+\s+[a-zµ%]+|[^<>=\s]+)\s*$`)
	quantileForm = regexp.MustCompile(`^p([0-9]{2}(?:\.[0-9]{1,2})?)$`)
)

// ParseSLO reads an SLO. Its errors say what is wrong and show one that is
// right.
func ParseSLO(text string) (SLO, error) {
	s, err := parseSLO(text)
	if err != nil {
		return SLO{}, fmt.Errorf("objective %q: %w", text, err)
	}
	return s, nil
}

func parseSLO(text string) (SLO, error) {
	parts := sloForm.FindStringSubmatch(text)
	if parts == nil {
		return SLO{}, errors.New("it must be a metric, one of < <= > >=, and a limit, such as async.accept.p99<20ms")
	}
	name, s := parts[1], SLO{op: parts[2], unit: strings.Join(strings.Fields(parts[3]), "")}
	if mode, rest, ok := strings.Cut(name, "."); ok && slices.Contains(tandem.Modes, tandem.Mode(mode)) {
		s.mode, name = tandem.Mode(mode), rest
	}
	s.metric, s.stat, _ = strings.Cut(name, ".")
	if err := s.checkMetric(); err != nil {
		return SLO{}, err
	}
	if s.isLatency() {
		if err := s.setStatistic(); err != nil {
			return SLO{}, err
		}
		return s, s.setDuration()
	}
	if s.stat != "" || strings.HasSuffix(name, ".") {
		return SLO{}, fmt.Errorf("%s has no statistic: write %s%s%s", s.metric, s.metric, s.op, s.unit)
	}
	return s, s.setRate()
}

func (s SLO) checkMetric() error {
	switch {
	case !slices.Contains([]string{metricAccept, metricLatency, metricCompletion, metricErrorRate, metricCallbackRate}, s.metric):
		return fmt.Errorf("there is no metric %q; there are accept, latency, completion, error_rate and callback_rate, "+
			"such as completion.p95<2s", s.metric)
	case s.mode != "" && !s.Applies(s.mode):
		return fmt.Errorf("%s is not measured of %s requests; write %s", s.metric, s.mode, map[string]string{
			metricAccept:       "sync.latency.p99<20ms for the answer of a sync request",
			metricLatency:      "async.accept.p99<20ms for the 202, or async.completion.p99<2s for the outcome",
			metricCallbackRate: "async.callback_rate>99.9%",
		}[s.metric])
	case s.isLatency() && s.op[0] == '>':
		return fmt.Errorf("a latency is bounded from above: write %s.p99<20ms", s.metric)
	case s.metric == metricErrorRate && s.op[0] == '>':
		return errors.New("an error rate is bounded from above: write error_rate<1%")
	case s.metric == metricCallbackRate && s.op[0] == '<':
		return errors.New("a callback rate is bounded from below: write callback_rate>99.9%")
	}
	return nil
}

func (s *SLO) setStatistic() error {
	if s.stat == "mean" || s.stat == "max" {
		return nil
	}
	if s.stat == "" {
		return fmt.Errorf("%s needs a statistic (mean, max, p50 to p99.99), such as %[1]s.p99<20ms", s.metric)
	}
	if digits := quantileForm.FindStringSubmatch(s.stat); digits != nil {
		var err error
		if s.q, err = percent(digits[1]); err == nil && s.q >= 0.5 {
			return nil
		}
	}
	return fmt.Errorf("%q is no statistic; there are mean, max and p50 to p99.99, such as %s.p99<20ms", s.stat, s.metric)
}

func (s *SLO) setDuration() error {
	limit, err := time.ParseDuration(s.unit)
	if err != nil {
		return fmt.Errorf("the limit %q must be a duration, such as 20ms or 1.5s", s.unit)
	}
	if limit < time.Microsecond || limit > longestLatency {
		return fmt.Errorf("the limit must be from 1us to %v, such as 20ms; it is %v", longestLatency, limit)
	}
	s.limit = limit.Seconds()
	return nil
}

func (s *SLO) setRate() error {
	limit, err := strconv.ParseFloat(s.unit, 64)
	if number, ok := strings.CutSuffix(s.unit, "%"); ok {
		limit, err = percent(number)
	}
	if err != nil {
		return fmt.Errorf("the limit %q must be a rate, such as 1%% or 0.01", s.unit)
	}
	if !(limit >= 0 && limit <= 1) {
		return fmt.Errorf("the limit must be from 0%% to 100%%, such as 1%% or 0.01; it is %s", s.unit)
	}
	if s.op == "<" && limit == 0 || s.op == ">" && limit == 1 {
		return fmt.Errorf("it can never be met: write %s%s=%s", s.metric, s.op, s.unit)
	}
	s.limit = limit
	return nil
}

// percent reads a decimal number of hundredths. A division would not do:
// 99.9/100 is more than 0.999 in binary, which 999 of 1000 then miss.
func percent(number string) (float64, error) { return strconv.ParseFloat(number+"e-2", 64) }

// String is the objective in the form that ParseSLO reads, without spaces.
func (s SLO) String() string {
	name := s.metric
	if s.mode != "" {
		name = string(s.mode) + "." + name
	}
	if s.stat != "" {
		name += "." + s.stat
	}
	return name + s.op + s.unit
}

// Applies reports whether the objective is about requests of the mode.
func (s SLO) Applies(mode tandem.Mode) bool {
	if s.mode != "" && s.mode != mode {
		return false
	}
	switch s.metric {
	case metricAccept, metricCallbackRate:
		return mode == tandem.Async
	case metricLatency:
		return mode == tandem.Sync
	}
	return true
}

// Duration is the limit of an objective about a latency. ok is false if it is
// about a rate.
func (s SLO) Duration() (limit time.Duration, ok bool) {
	return time.Duration(math.Round(s.limit * float64(time.Second))), s.isLatency()
}

func (s SLO) isLatency() bool {
	return s.metric == metricAccept || s.metric == metricLatency || s.metric == metricCompletion
}

// Check holds the objective against a run: against every arm that it applies to
// and that sent something, reporting the worst: what two modes have is the worse
// the higher it is. A latency is not measured if there are too few samples to
// tell, see Enough. A rate is a count of this run, and one request will do.
func (s SLO) Check(r *Result) Objective {
	worst := Objective{SLO: s.String(), Outcome: NotMeasured}
	var worstValue float64
	found := false
	for _, arm := range []Arm{r.Sync, r.Async} {
		if arm.Ledger.Sent == 0 || !s.Applies(arm.Mode) {
			continue
		}
		value, o := s.checkArm(r, arm)
		o.SLO = s.String()
		if !found || badness[o.Outcome] > badness[worst.Outcome] || o.Outcome == worst.Outcome && value > worstValue {
			worst, worstValue, found = o, value, true
		}
	}
	return worst
}

// badness orders what was found of two arms: the objective is missed if one of
// them misses it, however little is known of the other.
var badness = map[Outcome]int{Met: 0, NotMeasured: 1, Missed: 2}

func (s SLO) checkArm(r *Result, arm Arm) (value float64, o Objective) {
	var ok bool
	switch s.metric {
	case metricErrorRate:
		value, o.Measured, ok = rate(arm.Ledger.unsuccessful(), arm.Ledger.Sent)
		o.N = arm.Ledger.Sent
	case metricCallbackRate:
		if o.N = arm.Ledger.Accepted; r.Service.Verified {
			value, o.Measured, ok = rate(arm.Ledger.Completed+arm.Ledger.Failed, arm.Ledger.Accepted)
		}
	default:
		latency := arm.Response
		if s.metric == metricCompletion {
			latency = arm.Completion
		}
		var d time.Duration
		d, ok = s.statistic(latency)
		value, o.N = d.Seconds(), latency.N()
		if ok {
			o.Measured = threeDigits(d).String()
		}
	}
	switch {
	case !ok:
		o.Outcome = NotMeasured
	case s.within(value):
		o.Outcome = Met
	default:
		o.Outcome = Missed
	}
	return value, o
}

func (s SLO) statistic(l Latency) (d time.Duration, ok bool) {
	switch s.stat {
	case "mean":
		return l.Mean()
	case "max":
		return l.Max()
	}
	return l.Percentile(s.q)
}

func (s SLO) within(value float64) bool {
	switch s.op {
	case "<":
		return value < s.limit
	case "<=":
		return value <= s.limit
	case ">":
		return value > s.limit
	}
	return value >= s.limit
}

// unsuccessful is how many requests were sent and not completed.
func (l Ledger) unsuccessful() int { return l.Rejected + l.Errored + l.TimedOut + l.Failed + l.Missing }

// rate writes a part of a whole with its counts, since 99.99996 % and 100 % are
// not the same.
func rate(part, whole int) (value float64, text string, ok bool) {
	if whole == 0 {
		return 0, "", false
	}
	value = float64(part) / float64(whole)
	return value, fmt.Sprintf("%.4g%% (%d of %d)", 100*value, part, whole), true
}

// threeDigits rounds a duration to three digits.
func threeDigits(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d.Abs()/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
