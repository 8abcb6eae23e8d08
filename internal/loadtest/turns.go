package loadtest

import (
	"math"
	"math/rand/v2"

	"tandem"
)

// turn is one that an arm of a closed model takes: its requests from seq from to
// just before to. It is over when all of them are completed, so no turn works
// off the backlog of another. What is measured of it is a Block.
type turn struct {
	pair     int
	arm      int
	mode     tandem.Mode
	from, to int
}

// turns is the plan of a closed model. The arms take turns, in pairs with the same
// inputs, so that what the machine does meanwhile hits both
// alike. In a comparison a coin decides which goes first; otherwise they
// alternate: a b b a.
func (s Spec) turns() []turn {
	modes := [2]tandem.Mode{tandem.Sync, tandem.Async}
	if s.AA {
		modes[1] = tandem.Sync
	}
	var n [2]int
	n[0] = int(math.Round(s.SyncRatio * float64(s.Requests)))
	n[1] = s.Requests - n[0]
	pairs := s.Pairs
	if pairs == 0 {
		pairs = min(max(max(n[0], n[1])/(2*s.Concurrency), 1), 10)
	}
	if n[0] == 0 || n[1] == 0 {
		pairs = 1
	}
	random := rand.New(rand.NewPCG(s.Seed, 0))
	var all []turn
	for pair := range pairs {
		order := [2]int{pair % 2, 1 - pair%2}
		if s.Pairs > 0 && random.IntN(2) == 1 {
			order[0], order[1] = order[1], order[0]
		}
		for _, arm := range order {
			t := turn{pair: pair, arm: arm, mode: modes[arm], from: pair * n[arm] / pairs, to: (pair + 1) * n[arm] / pairs}
			if t.to > t.from {
				all = append(all, t)
			}
		}
	}
	return all
}
