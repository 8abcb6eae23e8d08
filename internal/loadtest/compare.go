package loadtest

import (
	"context"
	"errors"
)

// Compare runs an A/B test: sync against async (or against itself) in pairs of
// blocks in random order. An error means that it could not be begun.
func Compare(ctx context.Context, spec Spec, opts Options) (*Comparison, error) {
	if spec.Pairs == 0 {
		return nil, errors.New("pairs of blocks must be asked for")
	}
	l, err := openLab(ctx, spec, opts)
	if err != nil {
		return nil, err
	}
	defer l.close()
	result, blocks, err := l.run(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &Comparison{AA: spec.AA, Pairs: spec.Pairs, Metrics: compare(blocks, spec.Seed), Blocks: blocks, Run: *result}, nil
}
