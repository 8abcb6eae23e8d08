package report

import (
	"slices"

	"tandem"
	"tandem/internal/loadtest"
)

const stageMarks = "Filled: the stage passed. Hollow: it failed. Small: it could not be measured. "

// stageLatency shows the p99 of completion of each stage of a search at its
// rate.
func stageLatency(s *loadtest.Search, file int, number string) chart {
	c := stageChart(s, file, func(stage loadtest.Stage) *float64 {
		d, ok := stage.Completion.Percentile(0.99)
		return known(d.Seconds(), ok)
	})
	c.Title = number + "Stages: p99 of completion at each rate"
	c.Note = stageMarks + "Stages with too few samples are in the table of stages only."
	c.Plot.Unit, c.Plot.Log = "s", true
	return c
}

// stageGrowth shows how fast the backlog grew in each stage of a search. That is
// known of all of them, so the table stands here.
func stageGrowth(s *loadtest.Search, file int, number string) chart {
	c := stageChart(s, file, func(stage loadtest.Stage) *float64 { return known(stage.Growth, true) })
	c.Title = number + "Stages: growth of the backlog at each rate"
	c.Note = stageMarks + "A rate at which the backlog grows is not sustained, however fast it is accepted."
	c.Plot.Unit = "/s"
	c.Table = stages(s)
	c.Open = true
	return c
}

func stageChart(s *loadtest.Search, file int, of func(loadtest.Stage) *float64) chart {
	sorted := slices.Clone(s.Stages)
	slices.SortStableFunc(sorted, func(a, b loadtest.Stage) int {
		switch {
		case a.Rate < b.Rate:
			return -1
		case a.Rate > b.Rate:
			return 1
		}
		return 0
	})
	c := chart{Plot: plot{Kind: "stage"}}
	for _, stage := range sorted {
		c.Plot.X = append(c.Plot.X, stage.Rate)
	}
	for _, mode := range tandem.Modes {
		for _, became := range []string{"passed", "failed", "void"} {
			line := plotLine{Label: string(mode) + " " + became, Arm: string(mode), File: file, Mark: became, Y: make([]*float64, len(sorted))}
			there := false
			for i, stage := range sorted {
				if stage.Mode == mode && becameOf(stage) == became {
					line.Y[i] = of(stage)
					there = true
				}
			}
			if there {
				c.Plot.Series = append(c.Plot.Series, line)
			}
		}
	}
	return c
}
