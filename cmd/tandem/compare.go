package main

import (
	"context"
	"errors"
	"fmt"

	"tandem/internal/loadtest"
)

type compareCmd struct {
	labFlags

	Requests    int  `short:"n" default:"2000" help:"Requests to send, half of them each way."`
	Concurrency int  `short:"c" default:"10" help:"Callers that each hold one request until it is completed."`
	Pairs       int  `default:"10" help:"Pairs of blocks, one sync and one async, in random order."`
	AA          bool `name:"aa" help:"Compare sync with itself: no difference may be found."`
}

// fewestPairs is how many pairs an interval needs.
const fewestPairs = 10

// Run compares the two patterns.
func (c *compareCmd) Run(ctx context.Context) error {
	spec := loadtest.Spec{
		Workload: c.Workload, Complexity: c.Complexity, SyncRatio: 0.5, Seed: c.Seed,
		Requests: c.Requests, Concurrency: c.Concurrency, Pairs: c.Pairs, AA: c.AA,
	}
	var pairsFault error
	if c.Pairs < fewestPairs || c.Pairs > c.Requests/2 {
		pairsFault = fmt.Errorf("--pairs must be from %d to half of --requests, is %d", fewestPairs, c.Pairs)
	}
	opts, err := c.options()
	if err := errors.Join(pairsFault, c.chooseMode(ctx, &spec), flagFaults(spec.Check()), err); err != nil {
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
	comparison, err := loadtest.Compare(ctx, spec, opts)
	if err != nil {
		return explain(err)
	}
	measured := &loadtest.File{Compare: comparison}
	return errors.Join(out.finish(measured), verdict(measured))
}
