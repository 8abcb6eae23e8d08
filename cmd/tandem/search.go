package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tandem/internal/loadtest"
)

type searchCmd struct {
	labFlags

	SLO   string        `name:"slo" required:"" placeholder:"OBJECTIVE" help:"What must hold, such as 'completion.p99<200ms'; see load --help."`
	First float64       `default:"20" help:"Requests per second to begin with."`
	Stage time.Duration `default:"5s" help:"How long each rate is tried; the last one three times as long."`
}

// Run searches the capacity of each pattern.
func (c *searchCmd) Run(ctx context.Context) error {
	spec := loadtest.Spec{
		Workload: c.Workload, Complexity: c.Complexity, SyncRatio: 0.5, Seed: c.Seed,
		Rate: c.First, Duration: c.Stage, Arrivals: loadtest.Poisson,
	}
	slo, sloFault := loadtest.ParseSLO(c.SLO)
	if sloFault != nil {
		sloFault = fmt.Errorf("--slo: %w", sloFault)
	}
	var firstFault error
	if !(c.First > 0) {
		firstFault = fmt.Errorf("--first must be above 0 per second, is %v", c.First)
		spec.Rate = 1
	}
	opts, err := c.options()
	if err := errors.Join(sloFault, firstFault, c.chooseMode(ctx, &spec), flagFaults(spec.Check()), err); err != nil {
		return err
	}
	out, err := c.openOutputs()
	if err != nil {
		return err
	}
	defer out.discard()
	found, err := loadtest.FindCapacity(ctx, spec, slo, opts)
	if err != nil {
		return explain(err)
	}
	measured := &loadtest.File{Search: found}
	return errors.Join(out.finish(measured), verdict(measured))
}
