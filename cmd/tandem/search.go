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

	SLO   string         `name:"slo" required:"" placeholder:"OBJECTIVE" help:"What must hold, such as 'completion.p99<200ms'; see load --help."`
	First float64        `default:"20" help:"Requests per second to begin with."`
	Stage *time.Duration `placeholder:"DURATION" help:"How long each rate is tried; the last one three times as long. Default: 5s, or as long as the objective needs at --first."`
}

// Run searches the capacity of each pattern.
func (c *searchCmd) Run(ctx context.Context) error {
	spec := loadtest.Spec{
		Workload: c.Workload, Complexity: c.Complexity, SyncRatio: 0.5, Seed: c.Seed,
		Rate: c.First, Duration: 5 * time.Second, Arrivals: loadtest.Poisson,
	}
	slo, sloFault := loadtest.ParseSLO(c.SLO)
	if sloFault != nil {
		sloFault = fmt.Errorf("--slo: %w", sloFault)
	}
	var firstFault, stageFault error
	if !(c.First > 0) {
		firstFault = fmt.Errorf("--first must be above 0 per second, is %v", c.First)
		spec.Rate = 1
	}
	switch {
	case c.Stage != nil && *c.Stage <= 0:
		stageFault = fmt.Errorf("--stage must be at least 5s, is %v", *c.Stage)
	case c.Stage != nil:
		spec.Duration = *c.Stage
	case sloFault == nil:
		spec.Duration = loadtest.StageFor(slo, spec.Rate)
	}
	opts, err := c.options()
	if err := errors.Join(sloFault, firstFault, stageFault, c.chooseMode(ctx, &spec), flagFaults(spec.Check()), err); err != nil {
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
	found, err := loadtest.FindCapacity(ctx, spec, slo, opts)
	if err != nil {
		return explain(err)
	}
	measured := &loadtest.File{Search: found}
	return errors.Join(out.finish(measured), verdict(measured))
}
