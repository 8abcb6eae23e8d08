package distributed

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"tandem"
)

// standing is what the request counters are keyed by.
type standing struct {
	owner    string
	mode     tandem.Mode
	status   tandem.Status
	callback tandem.CallbackState
}

type change struct{ requests, processingMicros int64 }

type category struct{ owner, source, name string }

// count adds n requests that stand as req does with the given status and
// callback state.
func (t *transaction) count(req *tandem.Request, status tandem.Status, cb tandem.CallbackState, n int64) {
	key := standing{req.Owner, req.Mode, status, cb}
	c := t.requests[key]
	c.requests += n
	if status.Worked() {
		c.processingMicros += n * req.ProcessingTime().Microseconds()
	}
	t.requests[key] = c
	if req.Mode == tandem.Async && status == tandem.Pending {
		t.pending += n
	}
}

func (t *transaction) countError(req *tandem.Request, source, name string) {
	t.errors[category{req.Owner, source, name}]++
}

// writeCounters writes in the order of the keys, so that no two transactions
// wait for each other's rows.
func (t *transaction) writeCounters(ctx context.Context) error {
	var owners, modes, statuses, states []string
	var requests, processing []int64
	for _, key := range sortedKeys(t.requests, func(a, b standing) int {
		return cmp.Or(cmp.Compare(a.owner, b.owner), cmp.Compare(a.mode, b.mode), cmp.Compare(a.status, b.status), cmp.Compare(a.callback, b.callback))
	}) {
		if c := t.requests[key]; c != (change{}) {
			owners, modes = append(owners, key.owner), append(modes, string(key.mode))
			statuses, states = append(statuses, string(key.status)), append(states, string(key.callback))
			requests, processing = append(requests, c.requests), append(processing, c.processingMicros)
		}
	}
	if len(owners) > 0 {
		_, err := t.tx.Exec(ctx, `
			INSERT INTO request_counters AS c (owner, mode, status, callback_state, requests, processing_us, shard)
			SELECT u.*, $7 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[]) AS u
			ON CONFLICT (owner, mode, status, callback_state, shard) DO UPDATE
			SET requests = c.requests + excluded.requests, processing_us = c.processing_us + excluded.processing_us`,
			owners, modes, statuses, states, requests, processing, t.shard)
		if err != nil {
			return fmt.Errorf("count requests: %w", err)
		}
	}
	for _, owner := range sortedKeys(t.pruned, cmp.Compare) {
		_, err := t.tx.Exec(ctx, `
			INSERT INTO pruned_counters AS c (owner, pruned, shard) VALUES ($1, $2, $3)
			ON CONFLICT (owner, shard) DO UPDATE SET pruned = c.pruned + excluded.pruned`, owner, t.pruned[owner], t.shard)
		if err != nil {
			return fmt.Errorf("count deleted requests: %w", err)
		}
	}
	if len(t.errors) == 0 {
		return nil
	}
	var owner, source, name []string
	var n []int64
	for _, key := range sortedKeys(t.errors, func(a, b category) int {
		return cmp.Or(cmp.Compare(a.owner, b.owner), cmp.Compare(a.source, b.source), cmp.Compare(a.name, b.name))
	}) {
		owner, source, name, n = append(owner, key.owner), append(source, key.source), append(name, key.name), append(n, t.errors[key])
	}
	_, err := t.tx.Exec(ctx, `
		INSERT INTO error_counters AS c (owner, source, category, errors, shard)
		SELECT u.*, $5 FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS u
		ON CONFLICT (owner, source, category, shard) DO UPDATE SET errors = c.errors + excluded.errors`,
		owner, source, name, n, t.shard)
	if err != nil {
		return fmt.Errorf("count errors: %w", err)
	}
	return nil
}

func sortedKeys[K comparable, V any](m map[K]V, by func(a, b K) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, by)
	return keys
}
