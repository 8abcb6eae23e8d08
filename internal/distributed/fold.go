package distributed

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"tandem/internal/store"
)

const (
	// foldCheck is how often counters are folded.
	foldCheck = time.Minute
	// foldPage is how many rows are folded in one transaction at most: a writer
	// may have to wait for it.
	foldPage = 500
	// foldRest is how long folding rests after each, in lengths of that.
	foldRest = 3
)

// fold adds up the shards of the counters. Writers draw their shard anew at each
// start: so in time every counter would have a row in all of them, and who asks
// for the counters of all owners would read as many as that. Of the processes the
// one that leads the queue does it.
//
// What is added up is kept in a shard that no writer draws, and rows that others
// are writing are left for the next time: so it waits for nobody.
func (b *Backend) fold(ctx context.Context) error {
	if leads, err := b.leads(ctx); err != nil || !leads {
		return err
	}
	for _, query := range []string{foldRequestsQuery, foldErrorsQuery, foldPrunedQuery} {
		for folded := foldPage; folded == foldPage; {
			began := time.Now()
			var err error
			if folded, err = b.foldOnce(ctx, query); err != nil {
				return fmt.Errorf("fold counters: %w", err)
			}
			store.Pause(ctx, foldRest*time.Since(began))
		}
	}
	return nil
}

// foldOnce folds some rows of a table, and returns how many.
func (b *Backend) foldOnce(ctx context.Context, query string) (folded int, err error) {
	tx, err := b.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback(context.WithoutCancel(ctx)) // after a lost connection it fails, harmlessly
		}
	}()
	if err := tx.QueryRow(ctx, query, foldPage).Scan(&folded); err != nil {
		return 0, err
	}
	return folded, tx.Commit(ctx)
}

// foldedShard is the shard in which the others are added up.
const foldedShard = shards

var (
	foldRequestsQuery = foldQuery("request_counters", "owner, mode, status, callback_state", "requests", "processing_us")
	foldErrorsQuery   = foldQuery("error_counters", "owner, source, category", "errors")
	foldPrunedQuery   = foldQuery("pruned_counters", "owner", "pruned")
)

// foldQuery folds some rows of a table with a key and sums, and selects how many.
func foldQuery(table, key string, sums ...string) string {
	names, added, total, zero := "", "", "", ""
	for _, sum := range sums {
		if names != "" {
			names, added, total, zero = names+", ", added+", ", total+", ", zero+" OR "
		}
		names += sum
		added += "sum(" + sum + ")"
		total += sum + " = c." + sum + " + excluded." + sum
		zero += "sum(" + sum + ") <> 0"
	}
	shard := strconv.Itoa(foldedShard)
	return `WITH folded AS (
			DELETE FROM ` + table + ` WHERE ctid = ANY(ARRAY(
				SELECT ctid FROM ` + table + ` WHERE shard <> ` + shard + ` LIMIT $1 FOR UPDATE SKIP LOCKED))
			RETURNING *),
		added AS (
			INSERT INTO ` + table + ` AS c (` + key + `, ` + names + `, shard)
			SELECT ` + key + `, ` + added + `, ` + shard + ` FROM folded GROUP BY ` + key + ` HAVING ` + zero + `
			ON CONFLICT (` + key + `, shard) DO UPDATE SET ` + total + `)
		SELECT count(*) FROM folded`
}
