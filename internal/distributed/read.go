package distributed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

// requestColumns are what scanRequest reads, in its order.
const requestColumns = `seq, id, owner, mode, status, lane, workload, complexity, data, result,
	failure_code, failure_message, failure_upstream,
	callback_url, callback_state, attempts, max_attempts, next_attempt_at, last_status, last_error,
	created_at, started_at, worked_at, starts, epoch,
	not_before, expires_at, callback_options, waited, redelivered_at, started_by, attempt_till`

// row is a request as it is kept.
type row struct {
	tandem.Request
	startedBy string    // the process that started it last
	leased    time.Time // until when the attempt that it owes is a process's own; zero if it is nobody's
}

func scanRow(from pgx.CollectableRow) (r row, err error) {
	var (
		failureCode, failureMessage, callbackURL, options, startedBy      *string
		failureUpstream                                                   *int
		created, next, started, worked, notBefore, expires, since, leased *int64
		data, result                                                      []byte
	)
	req, cb := &r.Request, &r.Request.Callback
	err = from.Scan(&req.Seq, &req.ID, &req.Owner, &req.Mode, &req.Status, &req.Lane, &req.Workload, &req.Complexity, &data, &result,
		&failureCode, &failureMessage, &failureUpstream,
		&callbackURL, &cb.State, &cb.Attempts, &cb.MaxAttempts, &next, &cb.LastStatus, &cb.LastError,
		&created, &started, &worked, &req.Starts, &req.Epoch,
		&notBefore, &expires, &options, &req.Waited, &since, &startedBy, &leased)
	if err != nil {
		return r, err
	}
	req.Data = data
	if result != nil {
		req.Result = result
	}
	if failureCode != nil {
		req.Failure = &tandem.Failure{Code: tandem.FailureCode(*failureCode), Message: value(failureMessage), Upstream: value(failureUpstream)}
	}
	cb.URL, cb.NextAt, cb.Since = value(callbackURL), fromMicros(next), fromMicros(since)
	if err := store.ReadCallbackOptions(cb, value(options)); err != nil {
		return r, fmt.Errorf("callback options of %s: %w", req.ID, err)
	}
	req.NotBefore, req.ExpiresAt = fromMicros(notBefore), fromMicros(expires)
	req.CreatedAt, req.StartedAt, req.WorkedAt = fromMicros(created), fromMicros(started), fromMicros(worked)
	r.startedBy, r.leased = value(startedBy), fromMicros(leased)
	return r, nil
}

func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// Request implements engine.Store.
func (b *Backend) Request(ctx context.Context, id string) (tandem.Request, error) {
	r, err := b.rows.read(ctx, id)
	return r.Request, err
}

// Requests implements engine.Store. A cursor is the seq of the last row of the
// page before.
func (b *Backend) Requests(ctx context.Context, q engine.Query) (engine.Page, error) {
	before, err := store.ReadCursor(q.Cursor)
	if err != nil {
		return engine.Page{}, err
	}
	text, args := pageQuery(q, before)
	rows, err := b.query(ctx, text, args...)
	if err != nil {
		return engine.Page{}, fmt.Errorf("list requests: %w", err)
	}
	page := engine.Page{Requests: []tandem.Request{}}
	for i := range rows {
		if i == q.Limit { // the one beyond: there is a next page
			page.Next = store.Cursor(rows[i-1].Seq)
			break
		}
		page.Requests = append(page.Requests, rows[i].Request)
	}
	return page, nil
}

// pageQuery selects the rows of a page and the one after it. They are the newest
// of those that each of some indexes has, read in order: by mode and status there
// is an index of all requests and one of each owner's, in which each pair that is
// asked for is a part; the callbacks that are owed, that were given up, and that
// told of a failure have small ones of their own. What no index knows - the host of
// a callback, when a request was worked - is looked for in these.
//
// The bounds and the order of a part are those of its index, so that no other will
// do: by seq alone Postgres would go through the whole history for a status that
// has no requests.
func pageQuery(q engine.Query, before int64) (text string, args []any) {
	arg := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	below, most := arg(before), arg(q.Offset+q.Limit+1)
	filters := "" // of every part
	filter := func(condition string) { filters += " AND " + condition }
	var parts []string
	part := func(condition, order string) {
		parts = append(parts, `(SELECT seq FROM requests WHERE `+condition+filters+` ORDER BY `+order+` DESC LIMIT `+most+`)`)
	}
	if !q.Caller.Admin {
		filter(`owner = ` + arg(q.Caller.Name) + ` AND owner <> ''`)
	}
	pairs := func(modes []tandem.Mode, statuses []tandem.Status) {
		for _, mode := range modes {
			for _, status := range statuses {
				if (q.Mode == "" || q.Mode == mode) && (q.Status == "" || q.Status == status) {
					m, s := arg(string(mode)), arg(string(status))
					part(`mode = `+m+` AND (status, seq) < (`+s+`, `+below+`) AND status >= `+s, "status DESC, seq")
				}
			}
		}
	}
	small := func(condition string) { // of a small index by seq
		if q.Mode != "" {
			condition += ` AND mode = ` + arg(string(q.Mode))
		}
		if q.Status != "" {
			condition += ` AND status = ` + arg(string(q.Status))
		}
		part(condition+` AND seq < `+below, "seq")
	}
	if q.Host != "" {
		filter(`callback_host = ` + arg(q.Host))
	}
	if !q.From.IsZero() {
		filter(`worked_at >= ` + arg(q.From.UnixMicro()))
	}
	if !q.To.IsZero() {
		filter(`worked_at < ` + arg(q.To.UnixMicro()))
	}
	switch {
	case q.Callback == tandem.CallbackPending:
		filter(`callback_state = 'pending'`)
		pairs([]tandem.Mode{tandem.Async}, []tandem.Status{tandem.Pending, tandem.Processing})
		small(`next_attempt_at IS NOT NULL`) // of those that are worked
	case q.Callback == tandem.CallbackDelivered:
		filter(`callback_state = 'sent'`)
		pairs([]tandem.Mode{tandem.Async}, []tandem.Status{tandem.CallbackSent})
		small(`status = 'failed'`)
	case q.Callback == tandem.CallbackGivenUp:
		small(`callback_state = 'failed'`)
	case q.Callback == "" && q.Mode == "" && q.Status == "" && q.Caller.Admin:
		small(`true`)
	default:
		if q.Callback != "" {
			filter(`callback_state = ` + arg(string(q.Callback)))
		}
		pairs(tandem.Modes, tandem.Statuses)
	}
	limit, offset := arg(q.Limit+1), arg(q.Offset)
	return `SELECT ` + requestColumns + ` FROM requests WHERE seq = ANY(ARRAY(SELECT seq FROM (` + strings.Join(parts, " UNION ALL ") + `) s ORDER BY seq DESC LIMIT ` + limit + ` OFFSET ` + offset + `)) ORDER BY seq DESC`, args
}

// Attempts implements engine.Store.
func (b *Backend) Attempts(ctx context.Context, id string) ([]tandem.Attempt, error) {
	if _, err := b.Request(ctx, id); err != nil {
		return nil, err
	}
	rows, err := b.pool.Query(ctx, attemptsQuery, id)
	if err != nil {
		return nil, fmt.Errorf("list attempts: %w", err)
	}
	attempts, err := pgx.CollectRows(rows, func(from pgx.CollectableRow) (a tandem.Attempt, err error) {
		var at, duration int64
		err = from.Scan(&a.Number, &at, &duration, &a.Status, &a.Class, &a.Error, &a.Answer)
		a.At, a.Duration = time.UnixMicro(at).UTC(), time.Duration(duration)*time.Microsecond
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("list attempts: %w", err)
	}
	return attempts, nil
}

const attemptsQuery = `SELECT number, at, duration_us, status, class, error, answer FROM attempts WHERE request_id = $1 ORDER BY number`

// Counts implements engine.Store.
func (b *Backend) Counts(ctx context.Context, who tandem.Caller) (engine.Counts, error) {
	var c engine.Counts
	whose, args := "", []any{}
	if !who.Admin {
		whose, args = `WHERE owner = $1`, []any{who.Name}
	}
	rows, err := b.pool.Query(ctx, requestCountsQuery(whose), args...)
	if err != nil {
		return c, fmt.Errorf("read request counters: %w", err)
	}
	c.Requests, err = pgx.CollectRows(rows, func(from pgx.CollectableRow) (n engine.RequestCount, err error) {
		var processing int64
		err = from.Scan(&n.Mode, &n.Status, &n.Callback, &n.N, &processing)
		n.Processing = time.Duration(processing) * time.Microsecond
		return n, err
	})
	if err != nil {
		return c, fmt.Errorf("read request counters: %w", err)
	}
	if rows, err = b.pool.Query(ctx, errorCountsQuery(whose), args...); err != nil {
		return c, fmt.Errorf("read error counters: %w", err)
	}
	c.Errors, err = pgx.CollectRows(rows, func(from pgx.CollectableRow) (n engine.ErrorCount, err error) {
		err = from.Scan(&n.Source, &n.Category, &n.N)
		return n, err
	})
	if err != nil {
		return c, fmt.Errorf("read error counters: %w", err)
	}
	if err := b.pool.QueryRow(ctx, prunedCountQuery(whose), args...).Scan(&c.Pruned); err != nil {
		return c, fmt.Errorf("read the counter of deleted requests: %w", err)
	}
	return c, nil
}

func requestCountsQuery(whose string) string {
	return `SELECT mode, status, callback_state, sum(requests)::bigint, sum(processing_us)::bigint
		FROM request_counters ` + whose + ` GROUP BY mode, status, callback_state`
}

func errorCountsQuery(whose string) string {
	return `SELECT source, category, sum(errors)::bigint FROM error_counters ` + whose + ` GROUP BY source, category ORDER BY source, category`
}

func prunedCountQuery(whose string) string {
	return `SELECT coalesce(sum(pruned), 0)::bigint FROM pruned_counters ` + whose
}

// Backlog implements engine.Store.
func (b *Backend) Backlog(ctx context.Context) (n int, oldest time.Time, err error) {
	var created *int64
	err = b.pool.QueryRow(ctx, backlogQuery).Scan(&n, &created)
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("read backlog: %w", err)
	}
	return n, fromMicros(created), nil
}

const backlogQuery = `SELECT (` + pendingQuery + `),
	(SELECT created_at FROM requests WHERE mode = 'async' AND (status, seq) > ('pending', 0) AND status <= 'pending'
		ORDER BY status, seq LIMIT 1)`

// Holder implements engine.Store.
func (b *Backend) Holder(ctx context.Context, owner string, key engine.IdempotencyKey) (id string, err error) {
	id, fingerprint, err := holderOf(ctx, b.pool, owner, key.Key, b.now())
	if err == nil && id != "" && !bytes.Equal(fingerprint, key.Fingerprint[:]) {
		return "", engine.ErrKeyReused
	}
	return id, err
}

// holderOf returns the request that an Idempotency-Key stands for, "" if none.
func holderOf(ctx context.Context, in interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}, owner, key string, now time.Time) (id string, fingerprint []byte, err error) {
	err = in.QueryRow(ctx, holderQuery, owner, key, now.Add(-engine.IdempotencyKept).UnixMicro()).Scan(&id, &fingerprint)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("read idempotency key: %w", err)
	}
	return id, fingerprint, nil
}

const holderQuery = `SELECT request_id, fingerprint FROM idempotency_keys WHERE owner = $1 AND key = $2 AND created_at >= $3`

// expired returns pending requests whose time was over at the given one.
func (b *Backend) expired(ctx context.Context, at time.Time) ([]row, error) {
	rows, err := b.query(ctx, expiredQuery, at.UnixMicro())
	if err != nil {
		return nil, fmt.Errorf("read expired requests: %w", err)
	}
	return rows, nil
}

const expiredQuery = `SELECT ` + requestColumns + ` FROM requests
	WHERE status = 'pending' AND expires_at IS NOT NULL AND expires_at <= $1 ORDER BY expires_at LIMIT 1000`

// overdue returns sync requests that were begun before a time and have no
// outcome.
func (b *Backend) overdue(ctx context.Context, before time.Time) ([]row, error) {
	rows, err := b.query(ctx, overdueQuery, before.UnixMicro())
	if err != nil {
		return nil, fmt.Errorf("read overdue requests: %w", err)
	}
	return rows, nil
}

const overdueQuery = `SELECT ` + requestColumns + ` FROM requests
	WHERE mode = 'sync' AND (status, seq) > ('processing', 0) AND status <= 'processing' AND started_at < $1
	ORDER BY status, seq LIMIT 1000`

func (b *Backend) query(ctx context.Context, text string, args ...any) ([]row, error) {
	rows, err := b.pool.Query(ctx, text, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanRow)
}

// rowReader reads requests by their ids. Those that are asked for at once are
// read together.
type rowReader struct {
	pool  *pgxpool.Pool
	queue chan rowAsked
	ended chan struct{} // closed when nobody reads any more
}

type rowAsked struct {
	id  string
	got chan<- rowGot
}

type rowGot struct {
	row row
	err error
}

// readersAtOnce is how many such reads are under way at once, and mostRows how
// many rows one reads.
const (
	readersAtOnce = 2
	mostRows      = 256
)

func newRowReader(pool *pgxpool.Pool) *rowReader {
	return &rowReader{pool: pool, queue: make(chan rowAsked), ended: make(chan struct{})}
}

// read returns the whole record of a request, or CodeNotFound.
func (r *rowReader) read(ctx context.Context, id string) (row, error) {
	got := make(chan rowGot, 1)
	select {
	case r.queue <- rowAsked{id, got}:
	case <-r.ended:
		return row{}, engine.ErrClosed
	case <-ctx.Done():
		return row{}, fmt.Errorf("read request: %w", ctx.Err())
	}
	select {
	case g := <-got:
		return g.row, g.err
	case <-ctx.Done():
		return row{}, fmt.Errorf("read request: %w", ctx.Err())
	}
}

func (r *rowReader) run(ctx context.Context) {
	defer close(r.ended)
	var all sync.WaitGroup
	for range readersAtOnce {
		all.Go(func() {
			for {
				select {
				case first := <-r.queue:
					r.answer(r.gather(first))
				case <-ctx.Done():
					return
				}
			}
		})
	}
	all.Wait()
}

func (r *rowReader) gather(first rowAsked) []rowAsked {
	all := []rowAsked{first}
	for len(all) < mostRows {
		select {
		case next := <-r.queue:
			all = append(all, next)
		default:
			return all
		}
	}
	return all
}

func (r *rowReader) answer(asked []rowAsked) {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	wanted := make([]string, len(asked))
	for i := range asked {
		wanted[i] = asked[i].id
	}
	found := make(map[string]row, len(asked))
	rows, err := r.pool.Query(ctx, requestsQuery, wanted)
	if err == nil {
		var all []row
		all, err = pgx.CollectRows(rows, scanRow)
		for _, one := range all {
			found[one.ID] = one
		}
	}
	for _, a := range asked {
		one, ok := found[a.id]
		switch {
		case err != nil:
			a.got <- rowGot{err: fmt.Errorf("read request: %w", err)}
		case !ok:
			a.got <- rowGot{err: engine.ErrNotFound}
		default:
			a.got <- rowGot{row: one}
		}
	}
}

const requestsQuery = `SELECT ` + requestColumns + ` FROM requests WHERE id = ANY($1)`
