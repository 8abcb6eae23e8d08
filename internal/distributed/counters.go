package distributed

import (
	"cmp"
	"slices"

	"tandem/internal/store"
)

// writeCounters puts what has been counted into the transaction's last batch, in
// the order of the keys, so that no two transactions wait for each other's rows.
func (t *transaction) writeCounters() {
	var owners, modes, statuses, states []string
	var requests, processing []int64
	for _, key := range sortedKeys(t.Requests, func(a, b store.Standing) int {
		return cmp.Or(cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.Mode, b.Mode), cmp.Compare(a.Status, b.Status), cmp.Compare(a.Callback, b.Callback))
	}) {
		if c := t.Requests[key]; c != (store.Change{}) {
			owners, modes = append(owners, key.Owner), append(modes, string(key.Mode))
			statuses, states = append(statuses, string(key.Status)), append(states, string(key.Callback))
			requests, processing = append(requests, c.Requests), append(processing, c.ProcessingMicros)
		}
	}
	if len(owners) > 0 {
		t.last.Queue(`
			INSERT INTO request_counters AS c (owner, mode, status, callback_state, requests, processing_us, shard)
			SELECT u.*, $7 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[]) AS u
			ON CONFLICT (owner, mode, status, callback_state, shard) DO UPDATE
			SET requests = c.requests + excluded.requests, processing_us = c.processing_us + excluded.processing_us`,
			owners, modes, statuses, states, requests, processing, t.shard)
	}
	for _, owner := range sortedKeys(t.Pruned, cmp.Compare) {
		t.last.Queue(`
			INSERT INTO pruned_counters AS c (owner, pruned, shard) VALUES ($1, $2, $3)
			ON CONFLICT (owner, shard) DO UPDATE SET pruned = c.pruned + excluded.pruned`, owner, t.Pruned[owner], t.shard)
	}
	if len(t.Errors) == 0 {
		return
	}
	var owner, source, name []string
	var n []int64
	for _, key := range sortedKeys(t.Errors, func(a, b store.Category) int {
		return cmp.Or(cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Name, b.Name))
	}) {
		owner, source, name, n = append(owner, key.Owner), append(source, key.Source), append(name, key.Name), append(n, t.Errors[key])
	}
	t.last.Queue(`
		INSERT INTO error_counters AS c (owner, source, category, errors, shard)
		SELECT u.*, $5 FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS u
		ON CONFLICT (owner, source, category, shard) DO UPDATE SET errors = c.errors + excluded.errors`,
		owner, source, name, n, t.shard)
}

func sortedKeys[K comparable, V any](m map[K]V, by func(a, b K) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, by)
	return keys
}
