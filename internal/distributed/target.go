package distributed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"tandem"
)

// Target is a database that the rows of another are moved to. Until the move is
// done no service starts on it.
type Target struct {
	pool     *pgxpool.Pool
	insert   *riverClient
	database string // as it may be shown
}

// Move is how far a move has come. It is kept in the database, and changed in
// the transactions that bring the rows.
type Move struct {
	Source string   `json:"source"`          // the ID of the database that the rows are from
	Table  string   `json:"table,omitempty"` // that is being moved
	After  []string `json:"after,omitempty"` // the key of the last row that was
	Done   bool     `json:"done,omitempty"`
}

const moveSetting = "transfer"

// OpenTarget connects to the database at the URL and brings its schema up to
// date.
func OpenTarget(ctx context.Context, database string, log *slog.Logger) (_ *Target, err error) {
	pool, err := connect(ctx, database)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			pool.Close()
		}
	}()
	if err := migrate(ctx, pool, log); err != nil {
		return nil, fmt.Errorf("prepare the database %s: %w", Hide(database), err)
	}
	insert, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Workers: kinds(nil), Logger: quiet(log)})
	if err != nil {
		return nil, fmt.Errorf("open the queue: %w", err)
	}
	return &Target{pool, insert, Hide(database)}, nil
}

// Close disconnects.
func (t *Target) Close() error {
	t.pool.Close()
	return nil
}

// Begin begins to move the rows of the source with the ID, or returns how far an
// earlier beginning has got. It returns an error if the database holds anything
// else, or if a service runs on it.
func (t *Target) Begin(ctx context.Context, source string) (move Move, err error) {
	err = pgx.BeginFunc(ctx, t.pool, func(tx pgx.Tx) error {
		fresh, err := json.Marshal(Move{Source: source})
		if err != nil {
			return err
		}
		began, err := tx.Exec(ctx, `INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING`, moveSetting, string(fresh))
		if err != nil {
			return err
		}
		if move, err = readMove(ctx, tx); err != nil {
			return err
		}
		if move.Source != source {
			return fmt.Errorf("the database %s was begun to be filled from another file; name that one, or another database", t.database)
		}
		if began.RowsAffected() == 0 {
			return nil
		}
		var used bool
		if err := tx.QueryRow(ctx, usedQuery, moveSetting).Scan(&used); err != nil {
			return err
		}
		if used {
			return fmt.Errorf("the database %s has been used already, and two histories cannot be made one; create an empty database and name that", t.database)
		}
		return nil
	})
	if err != nil {
		return Move{}, fmt.Errorf("begin the transfer: %w", err)
	}
	// A service that starts from here on sees the move, and ends.
	if !move.Done {
		err = t.unserved(ctx)
	}
	return move, err
}

const usedQuery = `SELECT EXISTS (SELECT FROM requests) OR EXISTS (SELECT FROM attempts)
	OR EXISTS (SELECT FROM request_counters) OR EXISTS (SELECT FROM error_counters) OR EXISTS (SELECT FROM pruned_counters)
	OR EXISTS (SELECT FROM idempotency_keys) OR EXISTS (SELECT FROM api_keys) OR EXISTS (SELECT FROM callback_secrets)
	OR EXISTS (SELECT FROM settings WHERE name <> $1) OR EXISTS (SELECT FROM river_job)`

// unserved returns an error if a service has the database open, as far as can be
// seen: by the names of connections, which a PgBouncer does not pass on, and by
// the lease of the one that leads the queue.
func (t *Target) unserved(ctx context.Context) error {
	var served bool
	err := t.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM river_leader WHERE expires_at > now())
		OR EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name IN ('tandem', 'tandem queue'))`).Scan(&served)
	if err != nil {
		return fmt.Errorf("ask whether the database is served: %w", err)
	}
	if served {
		return fmt.Errorf("a service runs on the database %s; stop it first (one that was killed counts for up to 20 s)", t.database)
	}
	return nil
}

// querier is what reads: a pool or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func readMove(ctx context.Context, from querier) (move Move, err error) {
	var text string
	err = from.QueryRow(ctx, `SELECT value FROM settings WHERE name = $1`, moveSetting).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return Move{Done: true}, nil // there never was one
	}
	if err == nil {
		err = json.Unmarshal([]byte(text), &move)
	}
	return move, err
}

func writeMove(ctx context.Context, tx pgx.Tx, move Move) error {
	text, err := json.Marshal(move)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `UPDATE settings SET value = $2 WHERE name = $1`, moveSetting, string(text))
	return err
}

// checkMoved returns an error if a move into the database is not done: what is
// there yet is a part of a history.
func (b *Backend) checkMoved(ctx context.Context) error {
	move, err := readMove(ctx, b.pool)
	if err != nil {
		return fmt.Errorf("read whether the database is whole: %w", err)
	}
	if !move.Done {
		return errors.New("the database is being filled by tandem transfer, or that was cut off: run it to its end first")
	}
	return nil
}

// Write adds rows to a table, the jobs that the owed requests among them give
// rise to, and how far the move is with them: all in one transaction.
func (t *Target) Write(ctx context.Context, move Move, columns []string, rows [][]any, owed []tandem.Request) error {
	jobs := make([]river.InsertManyParams, len(owed))
	for i := range owed {
		if owed[i].Status == tandem.Pending {
			jobs[i] = processJob(&owed[i])
		} else {
			jobs[i] = deliverJob(&owed[i])
		}
	}
	err := pgx.BeginFunc(ctx, t.pool, func(tx pgx.Tx) error {
		if _, err := tx.CopyFrom(ctx, pgx.Identifier{move.Table}, columns, pgx.CopyFromRows(rows)); err != nil {
			return err
		}
		if len(jobs) > 0 {
			if _, err := t.insert.InsertManyFastTx(ctx, tx, jobs); err != nil {
				return err
			}
		}
		return writeMove(ctx, tx, move)
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", move.Table, err)
	}
	return nil
}

// Read calls row with the values of columns of all rows of a table, in any
// order. The state of the move itself is no row of settings.
func (t *Target) Read(ctx context.Context, table string, columns []string, row func(values []any) error) error {
	text := `SELECT ` + strings.Join(columns, ", ") + ` FROM ` + table
	if table == "settings" {
		text += ` WHERE name <> '` + moveSetting + `'`
	}
	rows, err := t.pool.Query(ctx, text)
	if err != nil {
		return fmt.Errorf("read %s: %w", table, err)
	}
	defer rows.Close()
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return fmt.Errorf("read %s: %w", table, err)
		}
		if err := row(values); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read %s: %w", table, err)
	}
	return nil
}

// Jobs returns how many requests there is a job to process for, and how many
// there is one to deliver for.
func (t *Target) Jobs(ctx context.Context) (process, deliver int64, err error) {
	err = t.pool.QueryRow(ctx, `SELECT count(DISTINCT args->>'id') FILTER (WHERE kind = $1), count(DISTINCT args->>'id') FILTER (WHERE kind = $2) FROM river_job`,
		processArgs{}.Kind(), deliverArgs{}.Kind()).Scan(&process, &deliver)
	if err != nil {
		return 0, 0, fmt.Errorf("count jobs: %w", err)
	}
	return process, deliver, nil
}

// Finish ends the move: new requests come after those that were moved, queries
// are planned for tables of their size, and services may start.
func (t *Target) Finish(ctx context.Context, move Move) error {
	move.Done = true
	err := pgx.BeginFunc(ctx, t.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SELECT setval(pg_get_serial_sequence('requests', 'seq'), max(seq)) FROM requests HAVING max(seq) IS NOT NULL`)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `ANALYZE requests, attempts, request_counters, idempotency_keys, river_job`); err != nil {
			return err
		}
		return writeMove(ctx, tx, move)
	})
	if err != nil {
		return fmt.Errorf("end the transfer: %w", err)
	}
	return nil
}

// Clean makes a text fit for a column of text, as the service does.
func Clean(s string) string { return clean(s) }
