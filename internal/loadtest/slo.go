package loadtest

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"tandem"
)

// SLO is a service level objective, such as async.accept.p99<20ms.
type SLO struct {
	text   string
	mode   tandem.Mode // empty: of both
	metric string      // accept, latency, completion, error_rate or callback_rate
	stat   string      // mean, max, or p and a percentile; empty for rates
	q      float64     // of a percentile, 0 to 1
	op     string      // <, <=, > or >=
	limit  float64     // seconds, or a part of one
}

// String is the objective as it was written.
func (s SLO) String() string { return s.text }

const sloExample = "write it like async.accept.p99<20ms, sync.latency.p95<100ms, completion.p99<1s, error_rate<1% or callback_rate>99.9%"

// ParseSLO reads an objective: [sync.|async.]metric[.stat] op limit. Metrics
// are accept (the 202 of async), latency (the answer of sync), completion (of
// both), error_rate and callback_rate (of async); stats mean, max and p50 to
// p99.99; limits durations, or parts of one like 1% and 0.01.
func ParseSLO(text string) (SLO, error) {
	s := SLO{text: text}
	fault := func(format string, args ...any) (SLO, error) {
		return SLO{}, fmt.Errorf("%q: %s; %s", text, fmt.Sprintf(format, args...), sloExample)
	}
	at := strings.IndexAny(text, "<>")
	if at < 0 {
		return fault("has no < or >")
	}
	name, limit := strings.TrimSpace(text[:at]), text[at+1:]
	s.op = text[at : at+1]
	if rest, ok := strings.CutPrefix(limit, "="); ok {
		s.op, limit = s.op+"=", rest
	}
	limit = strings.TrimSpace(limit)

	for _, mode := range []tandem.Mode{tandem.Sync, tandem.Async} {
		if rest, ok := strings.CutPrefix(name, string(mode)+"."); ok {
			s.mode, name = mode, rest
			break
		}
	}
	s.metric, s.stat, _ = strings.Cut(name, ".")
	only := map[string]tandem.Mode{"accept": tandem.Async, "latency": tandem.Sync, "callback_rate": tandem.Async}
	switch s.metric {
	case "accept", "latency", "callback_rate":
		if s.mode != "" && s.mode != only[s.metric] {
			return fault("%s is a metric of %s requests only", s.metric, only[s.metric])
		}
		s.mode = only[s.metric]
	case "completion", "error_rate":
	default:
		return fault("%q is not a metric", s.metric)
	}
	var err error
	if strings.HasSuffix(s.metric, "_rate") {
		if s.stat != "" {
			return fault("a rate has no %s", s.stat)
		}
		if s.limit, err = parsePart(limit); err != nil {
			return fault("%v", err)
		}
		return s, nil
	}
	if err := s.parseStat(); err != nil {
		return fault("%v", err)
	}
	d, err := time.ParseDuration(limit)
	if err != nil || d <= 0 {
		return fault("%q is not a duration", limit)
	}
	s.limit = d.Seconds()
	return s, nil
}

func (s *SLO) parseStat() error {
	switch s.stat {
	case "":
		return fmt.Errorf("%s needs a percentile such as .p99, or .mean or .max", s.metric)
	case "mean", "max":
		return nil
	}
	number, ok := strings.CutPrefix(s.stat, "p")
	percent, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || !(percent >= 50 && percent <= 99.99) {
		return fmt.Errorf("%q is not mean, max or a percentile from p50 to p99.99", s.stat)
	}
	s.q = percent / 100
	return nil
}

// parsePart reads a part of one: 1%, or 0.01.
func parsePart(text string) (float64, error) {
	number, percent := strings.CutSuffix(text, "%")
	part, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if percent {
		part /= 100
	}
	if err != nil || !(part >= 0 && part <= 1) {
		return 0, fmt.Errorf("%q is not a part from 0%% to 100%%", text)
	}
	return part, nil
}

// Applies reports whether the objective says something of a mode.
func (s SLO) Applies(mode tandem.Mode) bool { return s.mode == "" || s.mode == mode }

// Duration is the limit of an objective on a latency.
func (s SLO) Duration() (limit time.Duration, ok bool) {
	return time.Duration(s.limit * float64(time.Second)), s.stat != ""
}

// Check holds a run against the objective. One that says nothing of a mode
// must hold for each that sent something, and what is reported is the worse.
func (s SLO) Check(r *Result) Objective {
	o := Objective{SLO: s.text, Outcome: NotMeasured}
	if s.metric == "error_rate" && s.mode == "" {
		s.judge(&o, errorRate(r.Sync, r.Async))
		return o
	}
	for _, arm := range []Arm{r.Sync, r.Async} {
		if !s.Applies(arm.Mode) || arm.Ledger.Sent == 0 {
			continue
		}
		one := Objective{SLO: s.text}
		s.judge(&one, s.measure(arm))
		if o.N == 0 || worse(one.Outcome, o.Outcome) {
			o = one
		}
	}
	return o
}

func worse(a, b Outcome) bool {
	order := map[Outcome]int{Met: 0, NotMeasured: 1, Missed: 2}
	return order[a] > order[b]
}

// figure is a measured value; ok is false if it could not be measured.
type figure struct {
	value float64
	n     int
	ok    bool
}

func (s SLO) measure(a Arm) figure {
	switch s.metric {
	case "error_rate":
		return errorRate(a)
	case "callback_rate":
		l := a.Ledger
		return figure{float64(l.Completed+l.Failed) / float64(max(l.Accepted, 1)), l.Accepted, l.Accepted > 0}
	}
	latency := a.Response
	if s.metric == "completion" {
		latency = a.Completion
	}
	var d time.Duration
	var ok bool
	switch s.stat {
	case "mean":
		d, ok = latency.Mean()
	case "max":
		d, ok = latency.Max()
	default:
		d, ok = latency.Percentile(s.q)
	}
	return figure{d.Seconds(), latency.N(), ok}
}

// errorRate is the part of what was sent that was not completed.
func errorRate(arms ...Arm) figure {
	sent, completed := 0, 0
	for _, a := range arms {
		sent += a.Ledger.Sent
		completed += a.Ledger.Completed
	}
	return figure{float64(sent-completed) / float64(max(sent, 1)), sent, sent > 0}
}

func (s SLO) judge(o *Objective, f figure) {
	o.N = f.n
	if o.Outcome = NotMeasured; !f.ok {
		return
	}
	if s.stat == "" {
		o.Measured = strconv.FormatFloat(math.Round(1e5*f.value)/1e3, 'f', -1, 64) + "%"
	} else {
		o.Measured = time.Duration(f.value * float64(time.Second)).Round(time.Microsecond).String()
	}
	met := false
	switch s.op {
	case "<":
		met = f.value < s.limit
	case "<=":
		met = f.value <= s.limit
	case ">":
		met = f.value > s.limit
	default:
		met = f.value >= s.limit
	}
	if o.Outcome = Missed; met {
		o.Outcome = Met
	}
}
