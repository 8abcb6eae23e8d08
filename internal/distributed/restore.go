package distributed

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"tandem"
	"tandem/internal/store"
)

const (
	// restoreCheck is how often lost jobs are looked for.
	restoreCheck = 10 * time.Second
	// restoreRest is how long looking rests, in lengths of what it took: with a
	// backlog of a million it takes seconds.
	restoreRest = 20
	// restorePage is how many jobs are made again at a time.
	restorePage = 10_000
)

// restore makes a job for every request that is owed something and has none. A
// request and its job come in one transaction, and a job ends after what its
// request owes: so a job can only be missing because somebody has cancelled,
// deleted or discarded it, with River's tools or with SQL. Of the processes the
// one that leads the queue looks.
func (b *Backend) restore(ctx context.Context) error {
	began := time.Now()
	if leads, err := b.leads(ctx); err != nil || !leads {
		return err
	}
	for _, lost := range []struct {
		query string
		job   func(*tandem.Request) river.InsertManyParams
	}{
		{lostProcessQuery, processJob},
		{lostDeliverQuery, deliverJob},
	} {
		for made := restorePage; made == restorePage; {
			var err error
			if made, err = b.makeAgain(ctx, lost.query, lost.job); err != nil {
				return err
			}
		}
	}
	store.Pause(ctx, restoreRest*time.Since(began))
	return nil
}

// makeAgain makes the jobs of some requests that a query finds to have lost
// theirs, and returns how many.
func (b *Backend) makeAgain(ctx context.Context, query string, job func(*tandem.Request) river.InsertManyParams) (int, error) {
	rows, err := b.pool.Query(ctx, query, restorePage)
	if err != nil {
		return 0, fmt.Errorf("look for lost jobs: %w", err)
	}
	var jobs []river.InsertManyParams
	var req tandem.Request
	var notBefore, next *int64
	_, err = pgx.ForEachRow(rows, []any{&req.ID, &req.Lane, &notBefore, &next}, func() error {
		req.NotBefore, req.Callback.NextAt = fromMicros(notBefore), fromMicros(next)
		jobs = append(jobs, job(&req))
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("look for lost jobs: %w", err)
	}
	if len(jobs) == 0 {
		return 0, nil
	}
	if _, err := b.insert.InsertManyFast(ctx, jobs); err != nil {
		return 0, fmt.Errorf("make lost jobs again: %w", err)
	}
	b.log.Warn("jobs were lost and have been made again; to cancel a request, use DELETE /requests/{id}", "jobs", len(jobs))
	return len(jobs), nil
}

// leads reports whether this process leads the queue.
func (b *Backend) leads(ctx context.Context) (leads bool, err error) {
	if err := b.pool.QueryRow(ctx, leadsQuery, b.name).Scan(&leads); err != nil {
		return false, fmt.Errorf("ask who leads the queue: %w", err)
	}
	return leads, nil
}

const leadsQuery = `SELECT EXISTS (SELECT FROM river_leader WHERE leader_id = $1 AND expires_at > now())`

var (
	lostProcessQuery = lostQuery(`mode = 'async' AND status IN ('pending', 'processing')`, processArgs{}.Kind())
	lostDeliverQuery = lostQuery(`next_attempt_at IS NOT NULL`, deliverArgs{}.Kind())
)

// lostQuery selects some of what is owed that there is no job for. It takes the
// one from the other as sets, not row by row: a plan that was made for a short
// queue must not take hours on a long one.
func lostQuery(owed, kind string) string {
	return `SELECT id, lane, not_before, next_attempt_at FROM requests WHERE id = ANY(ARRAY(
		SELECT id FROM requests WHERE ` + owed + `
		EXCEPT SELECT args->>'id' FROM river_job WHERE kind = '` + kind + `'
			AND state IN ('available', 'pending', 'retryable', 'running', 'scheduled')
		LIMIT $1))`
}
