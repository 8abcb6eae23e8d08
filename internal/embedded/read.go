package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

// requestColumns are what scanRequest reads, in its order.
const requestColumns = `seq, id, owner, mode, status, lane, workload, complexity, data, result,
	failure_code, failure_message, failure_upstream,
	callback_url, callback_state, attempts, max_attempts, next_attempt_at, last_status, last_error,
	created_at, started_at, worked_at, starts, epoch,
	not_before, expires_at, callback_options, waited, redelivered_at`

func scanRequest(row interface{ Scan(...any) error }) (req tandem.Request, err error) {
	var (
		result, failureCode, failureMessage, callbackURL, options sql.NullString
		failureUpstream, next, started, worked                    sql.NullInt64
		notBefore, expires, redelivered                           sql.NullInt64
		data                                                      string
		created                                                   int64
	)
	cb := &req.Callback
	err = row.Scan(&req.Seq, &req.ID, &req.Owner, &req.Mode, &req.Status, &req.Lane, &req.Workload, &req.Complexity, &data, &result,
		&failureCode, &failureMessage, &failureUpstream,
		&callbackURL, &cb.State, &cb.Attempts, &cb.MaxAttempts, &next, &cb.LastStatus, &cb.LastError,
		&created, &started, &worked, &req.Starts, &req.Epoch,
		&notBefore, &expires, &options, &req.Waited, &redelivered)
	if err != nil {
		return req, err
	}
	req.Data = []byte(data)
	if result.Valid {
		req.Result = []byte(result.String)
	}
	if failureCode.Valid {
		req.Failure = &tandem.Failure{
			Code:     tandem.FailureCode(failureCode.String),
			Message:  failureMessage.String,
			Upstream: int(failureUpstream.Int64),
		}
	}
	cb.URL, cb.NextAt, cb.Since = callbackURL.String, fromMicros(next), fromMicros(redelivered)
	req.NotBefore, req.ExpiresAt = fromMicros(notBefore), fromMicros(expires)
	if err := store.ReadCallbackOptions(cb, options.String); err != nil {
		return req, fmt.Errorf("callback options of %s: %w", req.ID, err)
	}
	req.CreatedAt, req.StartedAt, req.WorkedAt = time.UnixMicro(created).UTC(), fromMicros(started), fromMicros(worked)
	return req, nil
}

// Request implements engine.Store.
func (b *Backend) Request(ctx context.Context, id string) (tandem.Request, error) {
	req, err := scanRequest(b.read.QueryRowContext(ctx, `SELECT `+requestColumns+` FROM requests WHERE id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return req, engine.ErrNotFound
	}
	if err != nil {
		return req, fmt.Errorf("read request: %w", explain(b.path, err))
	}
	return req, nil
}

// Requests implements engine.Store. A cursor is the seq of the last row of the
// page before.
func (b *Backend) Requests(ctx context.Context, q engine.Query) (engine.Page, error) {
	before, err := store.ReadCursor(q.Cursor)
	if err != nil {
		return engine.Page{}, err
	}
	seqs, args := selectSeqs(q, before)
	args = append(args, q.Limit+1, q.Offset)
	rows, err := b.read.QueryContext(ctx, `SELECT `+requestColumns+` FROM requests WHERE seq IN (`+seqs+` ORDER BY seq DESC LIMIT ? OFFSET ?) ORDER BY seq DESC`, args...)
	if err != nil {
		return engine.Page{}, fmt.Errorf("list requests: %w", explain(b.path, err))
	}
	defer rows.Close()
	page := store.NewPager(q.Limit)
	for more := true; more && rows.Next(); {
		req, err := scanRequest(rows)
		if err != nil {
			return engine.Page{}, fmt.Errorf("list requests: %w", err)
		}
		more = page.Add(&req)
	}
	if err := rows.Err(); err != nil {
		return engine.Page{}, fmt.Errorf("list requests: %w", explain(b.path, err))
	}
	return page.Page, nil
}

// setOf is what is in each set by itself, and the index that has it. There is one by
// mode and status of all requests and one of each owner's.
var setOf = map[store.Set]struct{ index, condition string }{
	store.ByStanding:    {``, `true`},
	store.Everything:    {``, `true`},
	store.Owed:          {`INDEXED BY requests_owed`, `next_attempt_at IS NOT NULL`},
	store.GivenUp:       {`INDEXED BY requests_given_up`, `callback_state = 'failed'`},
	store.ToldOfFailure: {`INDEXED BY requests_told_of_failure`, `status = 'failed' AND callback_state = 'sent'`},
}

// selectSeqs selects the seqs of the rows a query asks for: the newest of those that
// each of its parts has.
func selectSeqs(q engine.Query, before int64) (text string, args []any) {
	arg := func(v any) string {
		args = append(args, v)
		return "?" + strconv.Itoa(len(args))
	}
	filters := ` AND seq < ` + arg(before) // of every part
	most := arg(q.Offset + q.Limit + 1)
	if !q.Caller.Admin {
		filters += ` AND owner = ` + arg(q.Caller.Name) + ` AND owner <> ''`
	}
	if q.Callback != "" {
		filters += ` AND callback_state = ` + arg(string(q.Callback))
	}
	if q.Host != "" {
		filters += ` AND callback_host = ` + arg(q.Host)
	}
	if !q.From.IsZero() {
		filters += ` AND worked_at >= ` + arg(micros(q.From))
	}
	if !q.To.IsZero() {
		filters += ` AND worked_at < ` + arg(micros(q.To))
	}
	var parts []string
	for _, part := range store.Parts(q) {
		set := setOf[part.Set]
		condition := set.condition
		if part.Mode != "" {
			condition += ` AND mode = ` + arg(string(part.Mode))
		}
		if part.Status != "" {
			condition += ` AND status = ` + arg(string(part.Status))
		}
		parts = append(parts, `SELECT * FROM (SELECT seq FROM requests `+set.index+` WHERE `+condition+filters+` ORDER BY seq DESC LIMIT `+most+`)`)
	}
	return strings.Join(parts, " UNION ALL "), args
}

// Attempts implements engine.Store.
func (b *Backend) Attempts(ctx context.Context, id string) ([]tandem.Attempt, error) {
	if _, err := b.Request(ctx, id); err != nil {
		return nil, err
	}
	rows, err := b.read.QueryContext(ctx, `
		SELECT number, at, duration_us, status, class, error, answer
		FROM attempts WHERE request_id = ? ORDER BY number`, id)
	if err != nil {
		return nil, fmt.Errorf("list attempts: %w", err)
	}
	defer rows.Close()
	attempts := []tandem.Attempt{}
	for rows.Next() {
		var a tandem.Attempt
		var at, duration int64
		if err := rows.Scan(&a.Number, &at, &duration, &a.Status, &a.Class, &a.Error, &a.Answer); err != nil {
			return nil, fmt.Errorf("list attempts: %w", err)
		}
		a.At, a.Duration = time.UnixMicro(at).UTC(), time.Duration(duration)*time.Microsecond
		attempts = append(attempts, a)
	}
	return attempts, rows.Err()
}

// Counts implements engine.Store.
func (b *Backend) Counts(ctx context.Context, who tandem.Caller) (engine.Counts, error) {
	var c engine.Counts
	whose := []any{who.Admin, who.Name}
	err := b.each(ctx, `
		SELECT mode, status, callback_state, sum(requests), sum(processing_us)
		FROM request_counters WHERE ? OR owner = ? GROUP BY mode, status, callback_state`, whose,
		func(rows *sql.Rows) error {
			var n engine.RequestCount
			var processing int64
			err := rows.Scan(&n.Mode, &n.Status, &n.Callback, &n.N, &processing)
			n.Processing = time.Duration(processing) * time.Microsecond
			c.Requests = append(c.Requests, n)
			return err
		})
	if err != nil {
		return c, fmt.Errorf("read request counters: %w", err)
	}
	err = b.each(ctx, `SELECT source, category, sum(errors) FROM error_counters WHERE ? OR owner = ? GROUP BY source, category`, whose,
		func(rows *sql.Rows) error {
			var n engine.ErrorCount
			err := rows.Scan(&n.Source, &n.Category, &n.N)
			c.Errors = append(c.Errors, n)
			return err
		})
	if err != nil {
		return c, fmt.Errorf("read error counters: %w", err)
	}
	err = b.read.QueryRowContext(ctx, `SELECT coalesce(sum(requests), 0) FROM pruned_counters WHERE ? OR owner = ?`, whose...).Scan(&c.Pruned)
	if err != nil {
		return c, fmt.Errorf("read the count of deleted requests: %w", err)
	}
	return c, nil
}

// Backlog implements engine.Store.
func (b *Backend) Backlog(ctx context.Context) (n int, oldest time.Time, err error) {
	var since sql.NullInt64
	err = b.read.QueryRowContext(ctx, backlogQuery, b.now().UnixMicro()).Scan(&n, &since)
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("read backlog: %w", err)
	}
	return n, fromMicros(since), nil
}

// backlogQuery counts what waits, less what may not begin yet, and finds since when
// the first of each lane waits, and the first of what is due. A million that may not
// begin yet are counted in 0.1 s.
const backlogQuery = `
	SELECT (SELECT coalesce(sum(requests), 0) FROM request_counters WHERE mode = 'async' AND status = 'pending')
		- (SELECT count(*) FROM requests WHERE lane IN ('cpu', 'io') AND status = 'pending' AND not_before IS NOT NULL AND not_before > ?1),
	(SELECT min(since) FROM (
		SELECT * FROM (SELECT created_at AS since FROM requests WHERE lane = 'cpu' AND status = 'pending' AND not_before IS NULL ORDER BY seq LIMIT 1)
		UNION ALL
		SELECT * FROM (SELECT created_at FROM requests WHERE lane = 'io' AND status = 'pending' AND not_before IS NULL ORDER BY seq LIMIT 1)
		UNION ALL
		SELECT * FROM (SELECT max(created_at, not_before) FROM requests WHERE status = 'pending' AND not_before IS NOT NULL
			AND max(created_at, not_before) <= ?1 ORDER BY max(created_at, not_before) LIMIT 1)))`

// pendingAfter returns the next requests of a lane's backlog.
func (b *Backend) pendingAfter(ctx context.Context, lane string, after int64, limit int) ([]*tandem.Request, error) {
	page, err := b.queryRequests(ctx, pendingQuery, lane, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read backlog: %w", err)
	}
	return page, nil
}

const pendingQuery = `
	SELECT ` + requestColumns + ` FROM requests
	WHERE lane = ? AND status = 'pending' AND not_before IS NULL AND seq > ? ORDER BY seq LIMIT ?`

// dueAfter returns the delayed requests of a lane that are due, in the order in
// which they are, and when the next one will be; zero time if none will.
func (b *Backend) dueAfter(ctx context.Context, lane string, after moment, now time.Time, limit int) (due []*tandem.Request, next time.Time, err error) {
	from := int64(-1)
	if !after.at.IsZero() {
		from = after.at.UnixMicro()
	}
	due, err = b.queryRequests(ctx, `
		SELECT `+requestColumns+` FROM requests
		WHERE lane = ? AND status = 'pending' AND not_before IS NOT NULL
			AND (not_before, seq) > (?, ?) AND not_before <= ?
		ORDER BY not_before, seq LIMIT ?`, lane, from, after.seq, now.UnixMicro(), limit)
	if err != nil {
		return nil, next, fmt.Errorf("read delayed requests: %w", err)
	}
	if len(due) == limit {
		return due, now, nil
	}
	var at sql.NullInt64
	err = b.read.QueryRowContext(ctx, `
		SELECT min(not_before) FROM requests
		WHERE lane = ? AND status = 'pending' AND not_before IS NOT NULL AND not_before > ?`, lane, now.UnixMicro()).Scan(&at)
	if err != nil {
		return nil, next, fmt.Errorf("read delayed requests: %w", err)
	}
	return due, fromMicros(at), nil
}

// expired returns pending requests whose time is over.
func (b *Backend) expired(ctx context.Context, now time.Time, limit int) ([]*tandem.Request, error) {
	all, err := b.queryRequests(ctx, `
		SELECT `+requestColumns+` FROM requests
		WHERE status = 'pending' AND expires_at IS NOT NULL AND expires_at <= ? LIMIT ?`, now.UnixMicro(), limit)
	if err != nil {
		return nil, fmt.Errorf("read expired requests: %w", err)
	}
	return all, nil
}

// owed returns the most urgent callbacks owed to a host.
func (b *Backend) owed(ctx context.Context, host string, limit int) ([]debt, error) {
	var page []debt
	err := b.each(ctx, `
		SELECT id, next_attempt_at FROM requests
		WHERE callback_host = ? AND next_attempt_at IS NOT NULL
		ORDER BY next_attempt_at LIMIT ?`, []any{host, limit},
		func(rows *sql.Rows) error {
			var id string
			var at int64
			err := rows.Scan(&id, &at)
			page = append(page, debt{id: id, at: time.UnixMicro(at)})
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("read owed callbacks: %w", err)
	}
	return page, nil
}

// owedHosts returns every host that is owed a callback. It seeks from host to
// host, so that its cost does not grow with the callbacks owed to each.
func (b *Backend) owedHosts(ctx context.Context) ([]string, error) {
	var hosts []string
	err := b.each(ctx, `
		WITH RECURSIVE host(name) AS (
			SELECT min(callback_host) FROM requests WHERE next_attempt_at IS NOT NULL
			UNION ALL
			SELECT (SELECT min(callback_host) FROM requests
				WHERE next_attempt_at IS NOT NULL AND callback_host > host.name)
			FROM host WHERE host.name IS NOT NULL
		)
		SELECT name FROM host WHERE name IS NOT NULL`, nil,
		func(rows *sql.Rows) error {
			var name string
			err := rows.Scan(&name)
			hosts = append(hosts, name)
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("read owed hosts: %w", err)
	}
	return hosts, nil
}

func (b *Backend) queryRequests(ctx context.Context, query string, args ...any) ([]*tandem.Request, error) {
	var all []*tandem.Request
	err := b.each(ctx, query, args, func(rows *sql.Rows) error {
		req, err := scanRequest(rows)
		all = append(all, &req)
		return err
	})
	return all, err
}

func (b *Backend) each(ctx context.Context, query string, args []any, scan func(*sql.Rows) error) error {
	rows, err := b.read.QueryContext(ctx, query, args...)
	if err != nil {
		return explain(b.path, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return explain(b.path, rows.Err())
}
