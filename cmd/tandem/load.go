package main

import (
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
	var rampFault, openFault, countFault error
	if c.Rate != nil {
		spec.Rate = *c.Rate
	}
	if c.Ramp != "" {
		spec.Rate, spec.RateTo, rampFault = parseRamp(c.Ramp)
		if c.Rate != nil {
			rampFault = errors.New("--ramp: instead of --rate, not with it")
		}
	}
	switch {
	case spec.Open() || c.Rate != nil:
		spec.Duration, spec.Arrivals = 30*time.Second, loadtest.Poisson
		if c.Duration != nil {
			spec.Duration = *c.Duration
		}
		if c.Arrivals != "" {
			spec.Arrivals = loadtest.Arrivals(c.Arrivals)
		}
		if c.Requests != nil {
			openFault = errors.New("--requests: an open model sends by the clock; leave it out, or --rate")
		}
		if c.Rate != nil && !(*c.Rate > 0) {
			openFault = fmt.Errorf("--rate must be above 0, is %v", *c.Rate)
		}
	case c.Ramp != "": // it is not understood
	case c.Duration != nil:
		openFault = errors.New("--duration: is of the open model; give it a --rate or a --ramp, or leave it out: a closed model ends with its --requests")
	case c.Arrivals != "":
		openFault = errors.New("--arrivals: is of the open model; give it a --rate or a --ramp, or leave it out")
	}
	for _, count := range []struct {
		flag  string
		given *int
		field *int
	}{{"--requests", c.Requests, &spec.Requests}, {"--concurrency", c.Concurrency, &spec.Concurrency}} {
		if count.given == nil {
			continue
		}
		if *count.field = *count.given; *count.given == 0 { // which in a Spec means the default
			countFault = errors.Join(countFault, fmt.Errorf("%s must be at least 1, is 0", count.flag))
		}
	}
	modeFault := c.chooseMode(ctx, &spec)
	if !spec.Open() {
		if spec.Requests == 0 {
			spec.Requests = 100
			if c.ProductionMode {
				spec.Requests = productionRequests
			}
		}
		if spec.Concurrency == 0 {
			spec.Concurrency = 10
			if c.ProductionMode {
				spec.Concurrency = productionCallers
			}
		}
	}
	opts, optionFaults := c.options()
	faults := []error{rampFault, openFault, countFault, modeFault, flagFaults(spec.Check()), optionFaults}
	for _, text := range c.SLO {
		slo, err := loadtest.ParseSLO(text)
		if err != nil {
			faults = append(faults, fmt.Errorf("--slo: %w", err))
		}
		opts.SLOs = append(opts.SLOs, slo)
	}
	return spec, opts, errors.Join(faults...)
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
