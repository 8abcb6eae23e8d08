package transfer

import "fmt"

// table is one that is moved.
type table struct {
	name    string
	key     []string // the primary key in the file, whose order the rows are moved in
	columns []column
}

// column is one of a table, by the name it has in the file.
type column struct {
	name string
	kind kind
}

// kind is what a column holds. Any may be NULL as well.
type kind int

const (
	text kind = iota
	number
	data // bytes, which the file may keep as text
	flag // 0 or 1 in the file
)

// shard is the column that counters have in Postgres only. All that was counted
// goes to the first.
const shard = "shard"

// tables are all that a service keeps, in the order they are moved in.
var tables = []table{
	{"settings", []string{"name"}, columns(texts("name", "value"))},
	{"api_keys", []string{"name"}, columns(texts("name", "token_id", "rate"), datas("token_hash"), flags("admin"), numbers("created_at", "revoked_at"))},
	{"callback_secrets", []string{"owner", "secret"}, columns(texts("owner", "secret"), numbers("created_at", "expires_at"))},
	{"idempotency_keys", []string{"owner", "key"}, columns(texts("owner", "key", "request_id"), datas("fingerprint"), numbers("created_at"))},
	{"request_counters", []string{"owner", "mode", "status", "callback_state"},
		columns(texts("owner", "mode", "status", "callback_state"), numbers("requests", "processing_us"))},
	{"error_counters", []string{"owner", "source", "category"}, columns(texts("owner", "source", "category"), numbers("errors"))},
	{"pruned_counters", []string{"owner"}, columns(texts("owner"), numbers("requests"))},
	{"attempts", []string{"request_id", "number"},
		columns(texts("request_id", "class", "error"), numbers("number", "at", "duration_us", "status"), datas("answer"))},
	{requests, []string{"seq"}, columns(
		numbers("seq"),
		texts("id", "owner", "mode", "status", "lane", "workload"),
		numbers("complexity", "created_at", "started_at", "worked_at", "not_before", "expires_at", "redelivered_at", "starts", "epoch"),
		flags("waited"),
		texts("callback_url", "callback_host", "callback_state", "callback_options"),
		numbers("attempts", "max_attempts", "next_attempt_at", "last_status"),
		texts("last_error", "failure_code", "failure_message"), numbers("failure_upstream"), texts("traceparent"),
		datas("data", "result"))},
}

const requests = "requests"

func columns(groups ...[]column) (all []column) {
	for _, group := range groups {
		all = append(all, group...)
	}
	return all
}

func of(k kind, names []string) []column {
	all := make([]column, len(names))
	for i, name := range names {
		all[i] = column{name, k}
	}
	return all
}

func texts(names ...string) []column   { return of(text, names) }
func numbers(names ...string) []column { return of(number, names) }
func datas(names ...string) []column   { return of(data, names) }
func flags(names ...string) []column   { return of(flag, names) }

// names returns the columns by their names in the file.
func (t *table) names() []string {
	all := make([]string, len(t.columns))
	for i, c := range t.columns {
		all[i] = c.name
	}
	return all
}

// targetNames returns the columns by their names in Postgres.
func (t *table) targetNames() []string {
	all := t.names()
	if t.name == "pruned_counters" {
		all[1] = "pruned"
	}
	return all
}

// sharded reports whether the table has shards in Postgres.
func (t *table) sharded() bool {
	return t.name == "request_counters" || t.name == "error_counters" || t.name == "pruned_counters"
}

// value returns the value of a named column of a row.
func (t *table) value(row []any, name string) any {
	for i, c := range t.columns {
		if c.name == name {
			return row[i]
		}
	}
	panic(fmt.Sprintf("table %s has no column %s", t.name, name)) // unreachable: both are written in this package
}
