package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"tandem/internal/probe"
)

type checkCmd struct {
	URL      string        `name:"url" default:"http://127.0.0.1:8000" help:"Where the instance is, as its callers reach it."`
	Key      string        `placeholder:"KEY" help:"An API key of the instance. Prefer TANDEM_KEY: a command line can be read by others."`
	OtherKey string        `placeholder:"KEY" help:"The key of another caller, to look at the first one's requests with. The rate of this one is used up."`
	Patience time.Duration `default:"30s" help:"How long a stalled connection may live."`
	Skip     []string      `placeholder:"PROBE" help:"Leave out a probe whose defence is not wanted here. Repeatable."`
}

// Run prints a line for each defence, and fails if one of them does not hold.
func (c *checkCmd) Run(ctx context.Context) error {
	for _, name := range c.Skip {
		if !slices.ContainsFunc(probe.All, func(p probe.Probe) bool { return p.Name == name }) {
			return fmt.Errorf("--skip: there is no probe %q; there are %s", name, probeNames())
		}
	}
	if c.Patience < time.Second || c.Patience > time.Hour {
		return fmt.Errorf("--patience: must be from 1s to 1h, is %v", c.Patience)
	}
	instance, err := probe.Connect(ctx, probe.Target{
		URL: c.URL, Key: c.Key, OtherKey: c.OtherKey, Patience: c.Patience,
		Log: func(line string) { fmt.Fprintln(os.Stderr, line) },
	})
	if err != nil {
		return fmt.Errorf("--url, --key, --other-key: %w", err)
	}
	count := make(map[probe.Verdict]int)
	for _, p := range probe.All {
		finding := probe.Finding{Verdict: probe.Skipped, Reasons: []string{"left out by --skip"}}
		if !slices.Contains(c.Skip, p.Name) {
			finding = instance.Run(ctx, p)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		count[finding.Verdict]++
		fmt.Printf("%-4s  %-16s  %s\n", strings.ToUpper(string(finding.Verdict)), p.Name, p.Defence)
		for _, reason := range finding.Reasons {
			fmt.Printf("      %-16s  - %s\n", "", reason)
		}
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", count[probe.Passed], count[probe.Failed], count[probe.Skipped])
	if n := count[probe.Failed]; n > 0 {
		return fmt.Errorf("%d of the defences of %s do not hold", n, c.URL)
	}
	return nil
}

func probeNames() string {
	var names []string
	for _, p := range probe.All {
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}
