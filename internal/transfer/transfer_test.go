package transfer

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tandem"
	"tandem/internal/access"
	"tandem/internal/distributed"
	"tandem/internal/embedded"
	"tandem/internal/engine"
	"tandem/internal/postgrestest"
	"tandem/webhook"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"tandem/internal/storetest"
)

func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m.Run)) }

var quiet = slog.New(slog.DiscardHandler)

// requestsMade is enough for several batches.
const requestsMade = 3*batchRows + 17

// fill makes a file with a history in which requests stand in every way there
// is.
func fill(t *testing.T, file string) {
	t.Helper()
	ctx := t.Context()
	b, err := embedded.Open(ctx, file, embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	if _, err := b.Secret(ctx); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	var all sync.WaitGroup
	for i := range requestsMade {
		all.Go(func() {
			req := *storetest.Pending("")
			req.Owner, req.Data = []string{"", "alice"}[i%2], json.RawMessage(fmt.Sprintf(`{"n":%d,"text":"grün"}`, i))
			if i%3 == 0 {
				req.Callback = tandem.Callback{URL: "http://127.0.0.1:1/", State: tandem.CallbackPending, MaxAttempts: 3,
					Timeout: time.Second, Header: map[string]string{"X-Of": "me"}}
			}
			steps := []func() error{func() error {
				if i%50 == 0 {
					_, err := b.Claim(ctx, &req, engine.IdempotencyKey{Key: fmt.Sprint("key ", i), Fingerprint: [32]byte{byte(i)}})
					return err
				}
				return b.Accept(ctx, &req)
			}}
			if i%5 > 0 { // the others wait
				steps = append(steps, func() error {
					req.StartedAt = now
					return b.Start(ctx, &req)
				})
			}
			if i%5 > 1 || i > 20 && i%5 > 0 { // a few of the others were being worked when the process died
				steps = append(steps, func() error {
					req.Status, req.WorkedAt, req.Result = tandem.Completed, now, json.RawMessage(`{"is":"done"}`)
					if i%7 == 0 {
						req.Status, req.Result = tandem.Failed, nil
						req.Failure = &tandem.Failure{Code: tandem.FailureWork, Message: "bad \x00 and \xff"}
					}
					return b.Complete(ctx, &req)
				})
				if i%3 == 0 && i%2 == 0 {
					steps = append(steps, func() error {
						req.Callback.Attempts, req.Callback.LastStatus, req.Callback.LastError = 1, 500, "no"
						req.Callback.NextAt = now.Add(time.Duration(i) * time.Second)
						return b.RecordAttempt(ctx, &req, tandem.Attempt{Number: 1, At: now, Duration: time.Millisecond, Status: 500, Class: tandem.ErrorClass("5xx"), Error: "no", Answer: []byte{0, 0xff}})
					})
				}
			}
			for _, step := range steps {
				if err := step(); err != nil {
					t.Errorf("request %d: %v", i, err)
					return
				}
			}
		})
	}
	all.Wait()
	keys, err := embedded.OpenKeys(ctx, file)
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	for _, name := range []string{"alice", "bob"} {
		_, id := access.NewToken()
		err := keys.Create(ctx, access.Key{Name: name, TokenID: id, Hash: [32]byte{1, 2}, Admin: name == "bob", CreatedAt: now, Secrets: []access.Secret{{Secret: webhook.NewSecret(), CreatedAt: now}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := keys.Revoke(ctx, "bob", now); err != nil {
		t.Fatal(err)
	}
}

// kept is what can be seen of a history.
type kept struct {
	rows     []tandem.Request
	attempts [][]tandem.Attempt
	counts   engine.Counts
	secret   string
	holders  []string
}

type backend interface {
	engine.Backend
	Secret(ctx context.Context) (webhook.Secret, error)
}

// look reads a history and closes the backend.
func look(t *testing.T, b backend) (k kept) {
	t.Helper()
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	admin := tandem.Caller{Admin: true}
	for cursor := ""; ; {
		page, err := b.Requests(t.Context(), engine.Query{Caller: admin, Cursor: cursor, Limit: 100})
		must(err)
		for _, r := range page.Requests {
			if r.Failure != nil { // the file keeps what Postgres cannot
				r.Failure.Message = distributed.Clean(r.Failure.Message)
			}
			var attempts []tandem.Attempt
			if r.Callback.Attempts > 0 {
				attempts, err = b.Attempts(t.Context(), r.ID)
				must(err)
			}
			k.rows, k.attempts = append(k.rows, r), append(k.attempts, attempts)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	var err error
	k.counts, err = b.Counts(t.Context(), admin)
	must(err)
	secret, err := b.Secret(t.Context())
	must(err)
	k.secret = secret.Reveal()
	for i := 0; i < requestsMade; i += 50 {
		id, err := b.Holder(t.Context(), "", engine.IdempotencyKey{Key: fmt.Sprint("key ", i), Fingerprint: [32]byte{byte(i)}})
		must(err)
		k.holders = append(k.holders, id)
	}
	return k
}

// list describes all keys.
func list(t *testing.T, keys interface {
	List(context.Context) ([]access.Key, error)
}) (all []string) {
	t.Helper()
	list, err := keys.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range list {
		all = append(all, fmt.Sprintf("%+v %s", k, k.Secrets[0].Secret.Reveal()))
	}
	return all
}

func openFile(t *testing.T, file string) *embedded.Backend {
	t.Helper()
	b, err := embedded.Open(t.Context(), file, embedded.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func openPostgres(t *testing.T, database string) *distributed.Backend {
	t.Helper()
	b, err := distributed.Open(t.Context(), database, distributed.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// cutOff runs a transfer until it has written so many batches of requests.
func cutOff(t *testing.T, file, database string, batches int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := Run(ctx, file, database, quiet, func(p Progress) {
		if p.Table == requests {
			if batches--; batches == 0 {
				cancel()
			}
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("the transfer that was cut off ends with %v", err)
	}
}

func TestAHistoryIsMovedWholeThoughCutOffTwice(t *testing.T) {
	t.Parallel()
	database := postgrestest.Database(t)
	file := filepath.Join(t.TempDir(), "requests.db")
	fill(t, file)
	want := look(t, openFile(t, file))

	for range 2 {
		cutOff(t, file, database, 1)
		if _, err := distributed.Open(t.Context(), database, distributed.Options{}); err == nil || !strings.Contains(err.Error(), "tandem transfer") {
			t.Fatalf("a service on half a history: %v", err)
		}
	}
	var last Progress
	result, err := Run(t.Context(), file, database, quiet, func(p Progress) { last = p })
	if err != nil {
		t.Fatal(err)
	}
	if !result.Resumed || result.Already || result.Moved != requestsMade-2*batchRows || last != (Progress{requests, requestsMade, requestsMade}) {
		t.Errorf("the third run says %+v and at last %+v", result, last)
	}
	var process, deliver int64
	for _, r := range want.rows {
		switch {
		case r.Status == tandem.Pending:
			process++
		case !r.Callback.NextAt.IsZero():
			deliver++
		}
	}
	if process == 0 || deliver == 0 || result.Process != process || result.Deliver != deliver {
		t.Errorf("%d are to be worked and %d delivered, want %d and %d", result.Process, result.Deliver, process, deliver)
	}
	got := look(t, openPostgres(t, database))
	if len(got.rows) != len(want.rows) {
		t.Fatalf("%d requests, want %d", len(got.rows), len(want.rows))
	}
	for i := range want.rows {
		if !reflect.DeepEqual(got.rows[i], want.rows[i]) || !reflect.DeepEqual(got.attempts[i], want.attempts[i]) {
			t.Fatalf("row %d is\n%+v %+v, want\n%+v %+v", i, got.rows[i], got.attempts[i], want.rows[i], want.attempts[i])
		}
	}
	if !reflect.DeepEqual(got.counts, want.counts) {
		t.Errorf("counts %+v, want %+v", got.counts, want.counts)
	}
	if got.secret != want.secret || !slices.Equal(got.holders, want.holders) {
		t.Errorf("the callback secret or the holders of idempotency keys differ")
	}
	fileKeys, err := embedded.OpenKeys(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer fileKeys.Close()
	keys, err := distributed.OpenKeys(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	if got, want := list(t, keys), list(t, fileKeys); len(got) != 2 || !slices.Equal(got, want) {
		t.Errorf("keys %q, want %q", got, want)
	}

	b := openPostgres(t, database)
	defer b.Close()
	fresh := storetest.Pending("")
	if err := b.Accept(t.Context(), fresh); err != nil || fresh.Seq <= want.rows[0].Seq {
		t.Errorf("a new request comes as %d after %d: %v", fresh.Seq, want.rows[0].Seq, err)
	}
	if result, err := Run(t.Context(), file, database, quiet, func(Progress) {}); err != nil || !result.Already || result.Moved != 0 {
		t.Errorf("a run after the last says %+v, %v", result, err)
	}
}

func TestATransferRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	small := func(name string) string {
		file := filepath.Join(dir, name)
		look(t, openFile(t, file))
		return file
	}
	file, other := small("requests.db"), small("other.db")
	foreign := filepath.Join(dir, "foreign.db")
	db, err := sql.Open("sqlite", foreign)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`CREATE TABLE notes (text TEXT)`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		file    string
		prepare func(t *testing.T, database string)
		says    string
	}{
		{"a file that is not there", filepath.Join(dir, "none.db"), nil, "no such database"},
		{"a file of another program", foreign, nil, "no database of tandem"},
		{"a file that a service has open", file, func(t *testing.T, _ string) {
			b := openFile(t, file)
			t.Cleanup(func() { b.Close() })
		}, "in use by process"},
		{"a Postgres that a service runs on", other, func(t *testing.T, database string) {
			b := openPostgres(t, database)
			t.Cleanup(func() { b.Close() })
		}, "a service runs on"},
		{"a Postgres that has been used", other, func(t *testing.T, database string) {
			look(t, openPostgres(t, database))
		}, "has been used already"},
		{"a Postgres that is being filled from another file", other, func(t *testing.T, database string) {
			target, err := distributed.OpenTarget(t.Context(), database, quiet)
			if err != nil {
				t.Fatal(err)
			}
			defer target.Close()
			if _, err := target.Begin(t.Context(), "another"); err != nil {
				t.Fatal(err)
			}
		}, "from another file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			database := postgrestest.Database(t)
			if c.prepare != nil {
				c.prepare(t, database)
			}
			if _, err := Run(t.Context(), c.file, database, quiet, func(Progress) {}); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error is %v, want one that says %q", err, c.says)
			}
		})
	}
}

func TestWhatIsNotAsInTheFileIsFound(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "requests.db")
	fill(t, file)
	for _, c := range []struct{ table, change string }{
		{"requests", `UPDATE requests SET result = 'x' WHERE seq = 3`},
		{"requests", `DELETE FROM requests WHERE seq = 3`},
		{"attempts", `UPDATE attempts SET answer = NULL WHERE request_id = (SELECT min(request_id) FROM attempts)`},
		{"settings", `UPDATE settings SET value = 'x' WHERE name = 'callback_secret'`},
		{"request_counters", `UPDATE request_counters SET requests = requests + 1 WHERE owner = 'alice'`},
		{"there are jobs", `DELETE FROM river_job WHERE id = (SELECT min(id) FROM river_job)`},
	} {
		t.Run(c.change, func(t *testing.T) {
			database := postgrestest.Database(t)
			cutOff(t, file, database, 2)
			db, err := sql.Open("pgx", database)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.Exec(c.change); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := Run(t.Context(), file, database, quiet, func(Progress) {}); err == nil || !strings.Contains(err.Error(), c.table) {
				t.Errorf("the error is %v, want one that names %q", err, c.table)
			}
			if _, err := distributed.Open(t.Context(), database, distributed.Options{}); err == nil {
				t.Error("a service starts on it")
			}
		})
	}
}

func TestNoColumnOfTheFileIsForgotten(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "requests.db")
	look(t, openFile(t, file))
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query(`SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c
		WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name NOT IN ('schema_meta', 'goose_db_version')`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var want, got []string
	for rows.Next() {
		var table, column string
		if err := rows.Scan(&table, &column); err != nil {
			t.Fatal(err)
		}
		want = append(want, table+"."+column)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		for _, column := range table.names() {
			got = append(got, table.name+"."+column)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("moved are\n%v, the file has\n%v", got, want)
	}
}
