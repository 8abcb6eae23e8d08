package distributed

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/postgrestest"
)

// history fills the tables with rows as an old service has them.
const history = `
	INSERT INTO requests (id, owner, mode, status, lane, workload, complexity, created_at, started_at, worked_at,
		expires_at, callback_url, callback_host, callback_state, attempts, next_attempt_at, data, result)
	SELECT 'req_' || lpad(to_hex(i), 32, '0'), CASE WHEN i % 3 = 0 THEN 'ann' WHEN i % 3 = 1 THEN 'bob' ELSE '' END,
		CASE WHEN i % 2 = 0 THEN 'async' ELSE 'sync' END,
		CASE WHEN i % 1000 = 0 THEN 'pending' WHEN i % 1000 = 1 THEN 'processing' WHEN i % 10 = 2 THEN 'failed'
			WHEN i % 10 = 4 THEN 'callback_sent' WHEN i % 100 = 6 THEN 'callback_failed' ELSE 'completed' END,
		'cpu', 'compute', 3, i, i, i, CASE WHEN i % 500 = 0 THEN i END,
		'http://example.com/', 'example.com:80', CASE WHEN i % 100 = 6 THEN 'failed' WHEN i % 10 = 4 THEN 'sent' ELSE 'none' END,
		1, CASE WHEN i % 100 = 8 THEN i END, '{"a":1}', '{"sum":1}'
	FROM generate_series(1, 120000) AS i;
	INSERT INTO attempts SELECT id, 1, worked_at, 10, 200, '', '', '' FROM requests;
	INSERT INTO idempotency_keys SELECT owner, id, '\x00', id, created_at FROM requests;
	INSERT INTO request_counters SELECT 'owner' || i, 'async', s, 'none', i % 64, 1, 1
		FROM generate_series(1, 300) AS i, unnest(ARRAY['pending', 'completed', 'failed']) AS s;
	INSERT INTO error_counters SELECT 'owner' || i, 'work', 'timeout', i % 64, 1 FROM generate_series(1, 300) AS i;
	INSERT INTO breakers SELECT 'host' || i, i FROM generate_series(1, 1000) AS i;
	ANALYZE`

type explained struct {
	name  string
	query string
	args  []any
}

// queries are all that the package asks of tables that grow.
func queries() []explained {
	id := []string{"req_" + strings.Repeat("0", 31) + "1", "req_" + strings.Repeat("0", 30) + "ff"}
	n, at, text := []int{1, 1}, []int64{1, 1}, []string{"completed", "completed"}
	bytes := [][]byte{nil, nil}
	all := []explained{
		{"read requests", requestsQuery, []any{id}},
		{"attempts of a request", attemptsQuery, []any{id[0]}},
		{"the oldest of the backlog", oldestQuery, nil},
		{"requests waiting", pendingQuery, nil},
		{"the holder of a key", holderQuery, []any{"ann", id[0], int64(0)}},
		{"expired requests", expiredQuery, []any{int64(1000)}},
		{"overdue requests", overdueQuery, []any{int64(1000)}},
		{"what was worked", workedQuery, []any{id}},
		{"what is to stop", stoppedQuery, []any{id}},
		{"old keys", forgetKeysQuery, []any{int64(5)}},
		{"settled requests", settledQuery, []any{int64(1000), "async", "completed", int64(0), 500}},
		{"delete requests", deleteQuery, []any{at}},
		{"delete attempts", deleteAttemptsQuery, []any{id}},
		{"delete keys", deleteKeysQuery, []any{id}},
		{"start", startQuery, []any{id, n, at, "me"}},
		{"requeue", requeueQuery, []any{id, n, n}},
		{"finish", finishQuery, []any{id, n, text, at, at, bytes, text, text, n, at, at, "me"}},
		{"fail", failQuery, []any{id, n, at, text, text, at}},
		{"release", releaseQuery, []any{id, "pending"}},
		{"redeliver", redeliverQuery, []any{id, text, text, at, at, n}},
		{"claim", claimQuery, []any{id, n, at, "me"}},
		{"yield", yieldQuery, []any{id, n, "me"}},
		{"settle", settleQuery, []any{id, text, n, text, text, n, at, n, text, "me"}},
		{"interrupt", interruptQuery, []any{id, text}},
		{"counts of all", requestCountsQuery(""), nil},
		{"counts of one", requestCountsQuery("WHERE owner = $1"), []any{"ann"}},
		{"errors of all", errorCountsQuery(""), nil},
		{"errors of one", errorCountsQuery("WHERE owner = $1"), []any{"ann"}},
		{"breakers", breakersQuery, nil},
		{"leave to probe", probeQuery, []any{"host1", int64(1), int64(2)}},
	}
	for _, caller := range []tandem.Caller{tandem.Anyone, {Name: "ann"}} {
		for _, mode := range append([]tandem.Mode{""}, tandem.Modes...) {
			for _, status := range append([]tandem.Status{""}, tandem.Statuses...) {
				q := engine.Query{Caller: caller, Mode: mode, Status: status, Limit: 50, Offset: 20}
				text, args := pageQuery(q, 90_000)
				all = append(all, explained{fmt.Sprintf("page of %q %q %q", caller.Name, mode, status), text, args})
			}
		}
	}
	text1, args := pageQuery(engine.Query{Caller: tandem.Anyone, Callback: tandem.CallbackGivenUp, Host: "example.com:80", From: time.UnixMicro(5), Limit: 100}, 1<<62)
	return append(all, explained{"callbacks that were given up", text1, args})
}

func TestEveryQueryGoesByIndex(t *testing.T) {
	t.Parallel()
	database := postgrestest.Database(t)
	b, err := Open(t.Context(), database, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.pool.Exec(t.Context(), history, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	// As Postgres plans when it is left alone, and has an ample choice of rows.
	free, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close(context.WithoutCancel(t.Context()))
	small := []string{"request_counters", "error_counters", "breakers"} // which it reads whole, being short
	for _, q := range queries() {
		for _, line := range explain(t, free, q) {
			if table, found := scanned(line); found && !slices.Contains(small, table) {
				t.Errorf("%s: left alone, Postgres reads all of %s:\n%s", q.name, table, strings.Join(explain(t, free, q), "\n"))
				break
			}
		}
		conn, err := b.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range explain(t, conn.Conn(), q) {
			// The counters of all owners are added up, which takes them all: as
			// many as there are owners, whatever their history.
			if table, found := scanned(line); found && !strings.HasSuffix(q.name, " of all") {
				t.Errorf("%s: the backend reads all of %s", q.name, table)
			}
		}
		conn.Release()
	}
}

// scanned returns the table that a line of a plan reads whole.
func scanned(line string) (table string, found bool) {
	_, rest, found := strings.Cut(line, "Seq Scan on ")
	table, _, _ = strings.Cut(rest, " ")
	return table, found
}

func explain(t *testing.T, conn *pgx.Conn, q explained) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), "EXPLAIN "+q.query, q.args...)
	if err != nil {
		t.Fatalf("%s: %v", q.name, err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", q.name, err)
	}
	return lines
}
