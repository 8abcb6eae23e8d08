package distributed

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/postgrestest"
)

// history fills the tables with rows as an old service has them, whose writers
// have drawn every shard of the counters. No request that
// is async has the status callback_failed: so those that look for some must find
// out at once that there are none.
const history = `
	INSERT INTO requests (id, owner, mode, status, lane, workload, complexity, created_at, started_at, worked_at,
		expires_at, callback_url, callback_host, callback_state, attempts, next_attempt_at, data, result)
	SELECT 'req_' || lpad(to_hex(i), 32, '0'), CASE WHEN i % 3 = 0 THEN 'ann' WHEN i % 3 = 1 THEN 'bob' ELSE '' END,
		CASE WHEN i % 2 = 0 THEN 'async' ELSE 'sync' END,
		CASE WHEN i % 1000 = 0 THEN 'pending' WHEN i % 1000 = 1 THEN 'processing' WHEN i % 10 = 2 THEN 'failed'
			WHEN i % 10 = 4 THEN 'callback_sent' ELSE 'completed' END,
		'cpu', 'compute', 3, i, i, i, CASE WHEN i % 500 = 0 THEN i END,
		'http://example.com/', 'example.com:80',
		CASE WHEN i % 100 = 6 THEN 'failed' WHEN i % 10 = 4 THEN 'sent' WHEN i % 200 = 8 THEN 'pending' ELSE 'none' END,
		1, CASE WHEN i % 200 = 8 THEN i END, '{"a":1}', '{"sum":1}'
	FROM generate_series(1, 120000) AS i;
	INSERT INTO attempts SELECT id, 1, worked_at, 10, 200, '', '', '' FROM requests;
	INSERT INTO idempotency_keys SELECT owner, id, '\x00', id, created_at FROM requests;
	INSERT INTO request_counters SELECT 'owner' || i, 'async', s, 'none', shard, 1, 1
		FROM generate_series(1, 300) AS i, unnest(ARRAY['pending', 'completed', 'failed']) AS s, generate_series(0, 63) AS shard;
	INSERT INTO error_counters SELECT 'owner' || i, 'work', 'timeout', shard, 1 FROM generate_series(1, 300) AS i, generate_series(0, 63) AS shard;
	INSERT INTO pruned_counters SELECT 'owner' || i, shard, 1 FROM generate_series(1, 300) AS i, generate_series(0, 63) AS shard;
	INSERT INTO breakers SELECT 'host' || i, i FROM generate_series(1, 1000) AS i;
	INSERT INTO rate_limits SELECT 'key' || i, 1, CASE WHEN i % 1000 = 0 THEN 1 ELSE 9000000000000000000 END, 1 FROM generate_series(1, 120000) AS i;
	INSERT INTO river_job (args, kind, queue, max_attempts, priority, state, finalized_at)
		SELECT jsonb_build_object('id', 'req_' || lpad(to_hex(i), 32, '0')), 'process', 'process_cpu', 1000, 1, 'completed', now()
		FROM generate_series(1, 120000) AS i WHERE i % 1000 > 1;
	INSERT INTO river_job (args, kind, queue, max_attempts, priority, state)
		SELECT jsonb_build_object('id', id), CASE WHEN next_attempt_at IS NULL THEN 'process' ELSE 'deliver' END, 'deliver', 1000, 1, 'available'
		FROM requests WHERE next_attempt_at IS NOT NULL OR mode = 'async' AND status = 'pending';
	ANALYZE`

// explained is a statement of the package, by the name it has there.
type explained struct {
	name  string
	query string
	args  []any
	// reads is how many rows it may look at; mostRead. One that looks at more does
	// not go by an index that knows what is wanted.
	reads float64
}

// mostRead is how many rows a query may look at to find what it wants.
const mostRead = 1000

// queries are all that the package asks of tables that grow.
func queries() []explained {
	id := []string{"req_" + strings.Repeat("0", 31) + "1", "req_" + strings.Repeat("0", 30) + "ff"}
	n, at, text := []int{1, 1}, []int64{1, 1}, []string{"completed", "completed"}
	bytes := [][]byte{nil, nil}
	all := []explained{
		{"requestsQuery", requestsQuery, []any{id}, 0},
		{"attemptsQuery", attemptsQuery, []any{id[0]}, 0},
		{"backlogQuery", backlogQuery, nil, 0},
		{"pendingQuery", pendingQuery, nil, 64}, // a row of each shard, however many owners there are
		{"holderQuery", holderQuery, []any{"ann", id[0], int64(0)}, 0},
		{"expiredQuery", expiredQuery, []any{int64(1000)}, 0},
		{"overdueQuery", overdueQuery, []any{int64(1000)}, 0},
		{"workedQuery", workedQuery, []any{id}, 0},
		{"stoppedQuery", stoppedQuery, []any{id}, 0},
		{"forgetKeysQuery", forgetKeysQuery, []any{int64(5)}, 0},
		{"forgetRatesQuery", forgetRatesQuery, nil, 0},
		{"settledQuery", settledQuery, []any{int64(1000), "async", "completed", int64(0), 500}, 2 * mostRead},
		{"settledQuery of none", settledQuery, []any{int64(1000), "async", "callback_failed", int64(0), 500}, 0},
		{"deleteQuery", deleteQuery, []any{at}, 0},
		{"deleteAttemptsQuery", deleteAttemptsQuery, []any{id}, 0},
		{"deleteKeysQuery", deleteKeysQuery, []any{id}, 0},
		{"startQuery", startQuery, []any{id, n, at, "me"}, 0},
		{"requeueQuery", requeueQuery, []any{id, n, n}, 0},
		{"finishQuery", finishQuery, []any{id, n, text, at, at, bytes, text, text, n, at, at, "me"}, 0},
		{"failQuery", failQuery, []any{id, n, at, text, text, at}, 0},
		{"releaseQuery", releaseQuery, []any{id, "pending"}, 0},
		{"redeliverQuery", redeliverQuery, []any{id, text, text, at, at, n}, 0},
		{"leaseQuery", leaseQuery, []any{id, n, at, "me"}, 0},
		{"yieldQuery", yieldQuery, []any{id, n, "me"}, 0},
		{"settleQuery", settleQuery, []any{id, text, n, text, text, n, at, n, text, "me"}, 0},
		{"deleteJobsQuery", deleteJobsQuery, []any{[]int64{1, 2}}, 0},
		{"interruptQuery", interruptQuery, []any{id, text}, 0},
		// A row of each owner and standing in each shard, whatever their history.
		{"requestCountsQuery", requestCountsQuery(""), nil, 300 * 3 * 64},
		{"requestCountsQuery of one", requestCountsQuery("WHERE owner = $1"), []any{"ann"}, 0},
		{"errorCountsQuery", errorCountsQuery(""), nil, 300 * 64},
		{"errorCountsQuery of one", errorCountsQuery("WHERE owner = $1"), []any{"ann"}, 0},
		{"prunedCountQuery", prunedCountQuery(""), nil, 300 * 64},
		{"prunedCountQuery of one", prunedCountQuery("WHERE owner = $1"), []any{"ann"}, 0},
		{"breakersQuery", breakersQuery, nil, 0},
		{"probeQuery", probeQuery, []any{"host1", int64(1), int64(2)}, 0},
		{"openQuery", openQuery, []any{"host1", int64(1)}, 0},
		{"closeQuery", closeQuery, []any{"host1"}, 0},
		{"forgetHostsQuery", forgetHostsQuery, []any{int64(5)}, 3 * mostRead}, // of 1,000 hosts
		{"pausedQuery", pausedQuery, nil, 0},
		{"leadsQuery", leadsQuery, []any{"me"}, 0},
		// All that is owed and its jobs: 120 requests and 600 callbacks.
		{"lostQuery of process", lostProcessQuery, []any{restorePage}, 0},
		{"lostQuery of deliver", lostDeliverQuery, []any{restorePage}, 2 * mostRead},
	}
	page := func(q engine.Query) {
		q.Limit = 50
		text, args := pageQuery(q, 90_000)
		all = append(all, explained{fmt.Sprintf("pageQuery of %q: %q %q %q", q.Caller.Name, q.Mode, q.Status, q.Callback), text, args, 2 * mostRead})
	}
	for _, caller := range []tandem.Caller{tandem.Anyone, {Name: "ann"}} {
		for _, mode := range append([]tandem.Mode{""}, tandem.Modes...) {
			for _, status := range append([]tandem.Status{""}, tandem.Statuses...) {
				page(engine.Query{Caller: caller, Mode: mode, Status: status, Offset: 20})
			}
		}
		for _, state := range []tandem.CallbackState{tandem.CallbackPending, tandem.CallbackDelivered, tandem.CallbackGivenUp} {
			page(engine.Query{Caller: caller, Callback: state})
			page(engine.Query{Caller: caller, Callback: state, Host: "example.com:80", From: time.UnixMicro(5)})
		}
	}
	return all
}

// elsewhere are the beginnings of the other statements of the package, with the
// reason why their cost does not grow with the history.
var elsewhere = map[string]string{
	"INSERT INTO":                       "goes by the keys of what it inserts",
	"SELECT granted, room, reset_us":    "a function, whose one SELECT goes by the primary key",
	"SELECT pg_":                        "no table",
	"SELECT current_setting":            "no table",
	"SELECT to_regclass":                "no table",
	"SELECT min_reader_version":         "one row",
	"SELECT value FROM settings":        "some rows",
	"UPDATE settings":                   "some rows",
	"UPDATE api_keys":                   "as many rows as keys",
	"SELECT name, token_id":             "as many rows as keys",
	"SELECT owner, secret":              "as many rows as keys",
	"DELETE FROM callback_secrets":      "as many rows as keys",
	"UPDATE callback_secrets":           "as many rows as keys",
	"SELECT EXISTS (SELECT FROM river_": "one row; of a transfer",
	"SELECT EXISTS (SELECT FROM reque":  "of a transfer: ends with the first row of each table",
	"SELECT count(DISTINCT args":        "of a transfer, which reads everything once",
	"SELECT setval(pg_get_serial":       "of a transfer, which reads everything once",
	"SELECT ":                           "of a transfer, which reads everything once",
}

var statement = regexp.MustCompile(`^\s*(?:(?:SELECT|INSERT|UPDATE|DELETE)\b|WITH \w+ AS \()`)

// A statement that is added to the package is explained, or it is said why not.
func TestEveryStatementOfThePackageIsExplained(t *testing.T) {
	t.Parallel()
	known := make(map[string]bool)
	for _, q := range queries() {
		name, _, _ := strings.Cut(q.name, " ")
		known[name] = true
	}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	files := token.NewFileSet()
	found := make(map[string]bool)
	check := func(owner string, within ast.Node) {
		ast.Inspect(within, func(node ast.Node) bool {
			literal, ok := node.(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(literal.Value)
			if err != nil || !statement.MatchString(text) {
				return true
			}
			found[owner] = true
			if known[owner] {
				return true
			}
			text = strings.Join(strings.Fields(text), " ")
			if at := files.Position(literal.Pos()); !reasonFor(at.Filename, text) {
				t.Errorf("%s: a statement of %s is not explained: %s", at, owner, text)
			}
			return true
		})
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				check(d.Name.Name, d)
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if v, ok := spec.(*ast.ValueSpec); ok {
						check(v.Names[0].Name, v)
					}
				}
			}
		}
	}
	for name := range known {
		if !found[name] {
			t.Errorf("%s is explained, and is in the package no more", name)
		}
	}
}

// reasonFor reports whether a statement is one of those elsewhere.
func reasonFor(file, text string) bool {
	for prefix := range elsewhere {
		if strings.HasPrefix(text+" ", prefix) && (prefix != "SELECT " || file == "target.go") {
			return true
		}
	}
	return false
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
	// As Postgres plans when it is left alone, and has an ample choice of rows; and
	// as it does for the backend. It plans for the values that it is given, and for
	// any: which of the two it uses is up to it.
	free, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close(context.WithoutCancel(t.Context()))
	ours, err := b.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Release()
	small := []string{"request_counters", "error_counters", "pruned_counters", "pending_counters", "breakers", "river_leader", "river_queue"} // which it reads whole, being short
	for _, who := range []struct {
		name string
		conn *pgx.Conn
	}{{"left alone", free}, {"for the backend", ours.Conn()}} {
		for _, plans := range []string{"force_custom_plan", "force_generic_plan"} {
			for _, q := range queries() {
				seen := explain(t, who.conn, plans, q)
				for _, table := range seen.whole {
					if !slices.Contains(small, table) {
						t.Errorf("%s: %s, with %s, Postgres reads all of %s", q.name, who.name, plans, table)
					}
				}
				for _, scan := range seen.blind {
					t.Errorf("%s: %s, with %s, Postgres looks for rows: %s", q.name, who.name, plans, scan)
				}
				if most := cmp.Or(q.reads, mostRead); seen.rows > most {
					t.Errorf("%s: %s, with %s, Postgres looks at %.0f rows, want at most %.0f", q.name, who.name, plans, seen.rows, most)
				}
			}
		}
	}
	// What the test would say of queries that no index serves.
	for _, q := range []explained{
		{"by a column without an index", `SELECT id FROM requests WHERE complexity = 4`, nil, 0},
		{"in the order of an index that does not know", `SELECT id FROM requests WHERE started_at < 0 ORDER BY seq LIMIT 1`, nil, 0},
		{"by an index, with a bound that does not end the scan", `SELECT seq FROM requests WHERE (mode, status, seq) < ('async', 'pending', 0)
			AND (mode, status, seq) > ('async', 'pending', -1) ORDER BY mode DESC, status DESC, seq DESC LIMIT 1`, nil, 0},
	} {
		if seen := explain(t, free, "force_custom_plan", q); len(seen.whole) == 0 && len(seen.blind) == 0 && seen.rows <= mostRead {
			t.Errorf("%s: Postgres reads everything, and the test has not seen it: %+v", q.name, seen)
		}
	}
}

// lookedAt is what a query has looked at.
type lookedAt struct {
	whole []string // tables, from one end to the other
	blind []string // scans that read many blocks for few rows
	rows  float64
}

// node is of a plan as EXPLAIN has it.
type node struct {
	Type     string  `json:"Node Type"`
	Relation string  `json:"Relation Name"`
	Rows     float64 `json:"Actual Rows"`
	Loops    float64 `json:"Actual Loops"`
	Filtered float64 `json:"Rows Removed by Filter"`
	Checked  float64 `json:"Rows Removed by Index Recheck"`
	Hit      float64 `json:"Shared Hit Blocks"`
	Read     float64 `json:"Shared Read Blocks"`
	Index    string  `json:"Index Name"`
	Plans    []node
}

func (n *node) add(to *lookedAt) {
	if n.Type == "Seq Scan" && n.Loops > 0 {
		to.whole = append(to.whole, n.Relation)
	}
	rows, blocks := (n.Rows+n.Filtered+n.Checked)*n.Loops, n.Hit+n.Read
	for _, part := range n.Plans {
		blocks -= part.Hit + part.Read
	}
	if n.Relation != "" {
		to.rows += rows
	}
	// Of an index it is not told how much was passed over, but for the blocks: some
	// to find the place, and at most a few a row.
	if strings.HasSuffix(n.Type, "Scan") && blocks > 50+10*rows {
		to.blind = append(to.blind, fmt.Sprintf("%.0f blocks of %s %s, for %.0f rows", blocks, n.Relation, n.Index, rows))
	}
	for i := range n.Plans {
		n.Plans[i].add(to)
	}
}

// explain runs a query, undoes what it has changed, and returns what it has
// looked at.
func explain(t *testing.T, conn *pgx.Conn, plans string, q explained) (seen lookedAt) {
	t.Helper()
	ctx := t.Context()
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if _, err := tx.Exec(ctx, `SET LOCAL plan_cache_mode = `+plans); err != nil {
		t.Fatal(err)
	}
	prepared, err := conn.Prepare(ctx, "explained", q.query)
	if err != nil {
		t.Fatalf("%s: %v", q.name, err)
	}
	defer conn.Deallocate(context.WithoutCancel(ctx), "explained")
	var values []string
	for i, arg := range q.args {
		text, err := conn.TypeMap().Encode(prepared.ParamOIDs[i], pgx.TextFormatCode, arg, nil)
		if err != nil {
			t.Fatalf("%s: argument %d: %v", q.name, i+1, err)
		}
		values = append(values, `'`+strings.ReplaceAll(string(text), `'`, `''`)+`'`)
	}
	call := "explained"
	if len(values) > 0 {
		call += "(" + strings.Join(values, ", ") + ")"
	}
	var text []byte
	if err := tx.QueryRow(ctx, `EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE `+call, pgx.QueryExecModeSimpleProtocol).Scan(&text); err != nil {
		t.Fatalf("%s: %v", q.name, err)
	}
	var plan []struct{ Plan node }
	if err := json.Unmarshal(text, &plan); err != nil {
		t.Fatalf("%s: %v", q.name, err)
	}
	plan[0].Plan.add(&seen)
	return seen
}
