package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tandem/internal/loadtest"
)

type loadCmd struct {
	labFlags

	Requests    *int    `short:"n" placeholder:"N" help:"Requests to send. Default: 100; in production mode 50."`
	Concurrency *int    `short:"c" placeholder:"N" help:"Callers that each hold one request until it is completed (closed model). Default: 10; in production mode 5. With --rate: the most requests that may be unanswered; without it as many as fall due."`
	SyncRatio   float64 `default:"0.5" help:"The part of the requests that is sync, 0 to 1."`

	Rate     *float64       `placeholder:"N" help:"Requests per second, due whatever the service does (open model)."`
	Ramp     string         `placeholder:"A..B" help:"Instead of --rate: from A to B requests per second."`
	Duration *time.Duration `placeholder:"30s" help:"How long an open model sends. Default: 30s."`
	Arrivals string         `placeholder:"poisson" help:"How the times of an open model are spread: poisson, as independent callers, which is the default, or constant."`

	SLO []string `name:"slo" sep:"none" placeholder:"OBJECTIVE" help:"Such as 'async.accept.p99<20ms', 'sync.latency.p95<100ms', 'completion.p99<1s', 'error_rate<1%' or 'callback_rate>99.9%'. Repeatable. One that is missed ends the program with 2."`
}

// Run measures one load.
func (c *loadCmd) Run(ctx context.Context) error {
	spec, opts, err := c.read(ctx)
	if err != nil {
		return err
	}
	if err := c.checkWorkload(ctx); err != nil {
		return err
	}
	out, err := c.openOutputs()
	if err != nil {
		return err
	}
	defer out.discard()
	result, err := loadtest.Run(ctx, spec, opts)
	if err != nil {
		return explain(err)
	}
	measured := &loadtest.File{Load: result}
	return errors.Join(out.finish(measured), verdict(measured))
}

// read turns the flags into what is to be run, and says all that is wrong with
// them.
func (c *loadCmd) read(ctx context.Context) (loadtest.Spec, loadtest.Options, error) {
	spec := loadtest.Spec{
		Workload: c.Workload, Complexity: c.Complexity, SyncRatio: c.SyncRatio, Seed: c.Seed,
	}
	faults := []error{c.openModel(&spec), c.counts(&spec), c.chooseMode(ctx, &spec)}
	c.defaults(&spec)
	opts, err := c.options()
	faults = append(faults, flagFaults(spec.Check()), err)
	for _, text := range c.SLO {
		slo, err := loadtest.ParseSLO(text)
		if err != nil {
			faults = append(faults, fmt.Errorf("--slo: %w", err))
		}
		opts.SLOs = append(opts.SLOs, slo)
	}
	return spec, opts, errors.Join(faults...)
}

// openModel reads the flags of the open model, if there are any.
func (c *loadCmd) openModel(spec *loadtest.Spec) (err error) {
	switch {
	case c.Ramp != "" && c.Rate != nil:
		return errors.New("--ramp: instead of --rate, not with it")
	case c.Ramp != "":
		if spec.Rate, spec.RateTo, err = parseRamp(c.Ramp); err != nil {
			return err
		}
	case c.Rate != nil:
		if spec.Rate = *c.Rate; !spec.Open() {
			return fmt.Errorf("--rate must be above 0, is %v", *c.Rate)
		}
	case c.Duration != nil:
		return errors.New("--duration: is of the open model; give it a --rate or a --ramp, or leave it out: a closed model ends with its --requests")
	case c.Arrivals != "":
		return errors.New("--arrivals: is of the open model; give it a --rate or a --ramp, or leave it out")
	default:
		return nil
	}
	spec.Duration, spec.Arrivals = 30*time.Second, loadtest.Poisson
	if c.Duration != nil {
		spec.Duration = *c.Duration
	}
	if c.Arrivals != "" {
		spec.Arrivals = loadtest.Arrivals(c.Arrivals)
	}
	if c.Requests != nil {
		return errors.New("--requests: an open model sends by the clock; leave it out, or --rate")
	}
	return nil
}

// counts reads how many requests and callers there are. A zero that is given is
// refused: in a Spec it means the default.
func (c *loadCmd) counts(spec *loadtest.Spec) error {
	var faults []error
	for _, count := range []struct {
		flag  string
		given *int
		field *int
	}{{"--requests", c.Requests, &spec.Requests}, {"--concurrency", c.Concurrency, &spec.Concurrency}} {
		if count.given == nil {
			continue
		}
		if *count.field = *count.given; *count.given == 0 {
			faults = append(faults, fmt.Errorf("%s must be at least 1, is 0", count.flag))
		}
	}
	return errors.Join(faults...)
}

// defaults fills in what a closed model was not told, once the mode is known.
func (c *loadCmd) defaults(spec *loadtest.Spec) {
	if spec.Open() {
		return
	}
	requests, callers := 100, 10
	if c.ProductionMode {
		requests, callers = productionRequests, productionCallers
	}
	spec.Requests = cmp.Or(spec.Requests, requests)
	spec.Concurrency = cmp.Or(spec.Concurrency, callers)
}

// parseRamp reads a ramp such as 50..500.
func parseRamp(text string) (from, to float64, err error) {
	first, last, ok := strings.Cut(text, "..")
	if ok {
		from, err = strconv.ParseFloat(first, 64)
	}
	if ok && err == nil {
		to, err = strconv.ParseFloat(last, 64)
	}
	if !ok || err != nil || !(from > 0 && to > 0) {
		return 0, 0, fmt.Errorf("--ramp: must be like 50..500, requests per second at the beginning and at the end, is %q", text)
	}
	return from, to, nil
}
