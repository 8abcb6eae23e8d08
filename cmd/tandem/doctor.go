package main

import (
	"context"
	"errors"
	"fmt"

	"tandem/server"
)

type doctorCmd struct {
	Database string `default:"requests.db" help:"Path of the service's SQLite file. The service may be running, but not for --repair."`
	Repair   bool   `help:"Put right what can be: counters, indexes, requests that would never move again."`
}

func (c *doctorCmd) Run(ctx context.Context) error {
	found, err := server.Examine(ctx, c.Database, c.Repair)
	if err != nil {
		return fmt.Errorf("doctor: %w", err)
	}
	if found.Requests > 0 || found.Sound() { // else they could not be counted
		fmt.Printf("%s  %.1f MB, %.0f %% of it free; %d requests, %d of them not settled\n",
			found.Path, float64(found.Bytes)/1e6, 100*found.FreePages, found.Requests, found.Unsettled)
	}
	for _, f := range found.Findings {
		if f.Repaired {
			fmt.Println("repaired ", f.Problem)
		} else {
			fmt.Printf("wrong     %s\n          %s\n", f.Problem, f.Remedy)
		}
	}
	if !found.Sound() {
		return errors.New("doctor: the database is not sound")
	}
	fmt.Println("sound")
	return nil
}
