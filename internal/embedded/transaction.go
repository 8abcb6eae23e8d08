package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

// transaction is one batch under way: the prepared statements, and the changes
// to the counters, which are written once at its end.
//
// It may assume that all rows stand as the guards of bulk statements ask, which
// they do but for a race with a cancellation. Then rows are gathered and written
// at its end, or before a statement that could see the difference.
type transaction struct {
	*statements
	store.Tally
	room   int // for requests that wait to be started, when it began
	assume bool
}

func newTransaction(s *statements, room int, assume bool) *transaction {
	for _, stmt := range s.bulks {
		stmt.forget() // what a transaction that failed has left
	}
	return &transaction{statements: s, Tally: store.NewTally(), room: room, assume: assume}
}

// errAssumed says that not all rows stood as was assumed. The transaction must
// not be committed.
var errAssumed = errors.New("a row has moved on")

// write runs a bulk statement for one row. It returns ErrMovedOn if that does
// not stand as the guard asks. seq, if it is not nil, is where the seq of a new
// row is wanted, once the transaction is committed.
func (t *transaction) write(stmt *bulk, seq *int64, args ...any) error {
	stmt.gather(seq, args)
	if t.assume {
		return nil
	}
	return stmt.flush()
}

// flush writes what was gathered, or returns errAssumed.
func (t *transaction) flush() error {
	for _, stmt := range t.bulks {
		if err := stmt.flush(); errors.Is(err, engine.ErrMovedOn) {
			return errAssumed
		} else if err != nil {
			return err
		}
	}
	return nil
}

// changed runs a guarded statement. It returns ErrMovedOn if no row stood as
// the guard asks.
func (t *transaction) changed(stmt *sql.Stmt, args ...any) error {
	if err := t.flush(); err != nil {
		return err
	}
	result, err := stmt.Exec(args...)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n == 1 {
		return err
	}
	return engine.ErrMovedOn
}

// read reads one value of a request.
func (t *transaction) read(stmt *sql.Stmt, id string, into any) error {
	if err := t.flush(); err != nil {
		return err
	}
	return stmt.QueryRow(id).Scan(into)
}

// readState reads where the callback of a request stands that somebody waited
// for: it may have been released since, and owe a callback now.
func (t *transaction) readState(req *tandem.Request) error {
	if !req.Waited {
		return nil
	}
	return t.read(t.stateOf, req.ID, &req.Callback.State)
}

func (t *transaction) writeCounters() error {
	for key, c := range t.Requests {
		if c == (store.Change{}) {
			continue
		}
		_, err := t.addRequests.Exec(key.Owner, string(key.Mode), string(key.Status), string(key.Callback), c.Requests, c.ProcessingMicros)
		if err != nil {
			return fmt.Errorf("count requests: %w", err)
		}
	}
	for key, n := range t.Errors {
		if _, err := t.addErrors.Exec(key.Owner, key.Source, key.Name, n); err != nil {
			return fmt.Errorf("count errors: %w", err)
		}
	}
	for owner, n := range t.Pruned {
		if _, err := t.addPruned.Exec(owner, n); err != nil {
			return fmt.Errorf("count what was pruned: %w", err)
		}
	}
	return nil
}

// holdsQuery finds the request that an Idempotency-Key stands for.
const holdsQuery = `SELECT request_id, fingerprint FROM idempotency_keys WHERE owner = ? AND key = ? AND created_at >= ?`

// statements are what the writer runs, prepared once.
type statements struct {
	insert, start, finish, settle, insertAttempt bulk

	bulks []*bulk // these, in an order in which a request goes through them

	begin, commit          *sql.Stmt
	requeue, fail          *sql.Stmt
	release, redeliver     *sql.Stmt
	giveUp                 *sql.Stmt
	statusOf, stateOf      *sql.Stmt
	holds, claim, forget   *sql.Stmt
	addRequests, addErrors *sql.Stmt
	touch, addSetting      *sql.Stmt

	deleteRequest, deleteAttempts, deleteKeys, addPruned, vacuum *sql.Stmt

	open []*sql.Stmt // all of them
}

func (s *statements) prepare(conn *sql.Conn) error {
	for _, p := range []struct {
		stmt *bulk
		text string
	}{
		{&s.insert, `
			INSERT INTO requests (id, owner, mode, status, lane, workload, complexity, data,
				callback_url, callback_host, callback_state, max_attempts,
				created_at, started_at, starts, epoch,
				worked_at, result, failure_code, failure_message, failure_upstream,
				not_before, expires_at, callback_options, waited)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO NOTHING`},
		{&s.start, `
			UPDATE requests SET status = 'processing', starts = starts + 1, epoch = epoch + 1, started_at = ?
			WHERE id = ? AND status = 'pending' AND epoch = ?`},
		{&s.finish, `
			UPDATE requests SET status = ?, started_at = ?, worked_at = ?, result = ?,
				failure_code = ?, failure_message = ?, failure_upstream = ?, next_attempt_at = ?
			WHERE id = ? AND status = 'processing' AND epoch = ?`},
		{&s.settle, `
			UPDATE requests SET status = ?, callback_state = ?, attempts = ?, next_attempt_at = ?,
				last_status = ?, last_error = ?
			WHERE id = ? AND status = ? AND callback_state = 'pending' AND attempts = ?`},
		{&s.insertAttempt, `
			INSERT INTO attempts (request_id, number, at, duration_us, status, class, error, answer)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?)`},
	} {
		p.stmt.width = strings.Count(p.text, "?")
		if err := s.prepareOne(conn, &p.stmt.one, p.text); err != nil {
			return err
		}
		if err := s.prepareOne(conn, &p.stmt.many, inBulk(p.text, bulkRows)); err != nil {
			return err
		}
		s.bulks = append(s.bulks, p.stmt)
	}
	for _, p := range []struct {
		stmt **sql.Stmt
		text string
	}{
		{&s.begin, `BEGIN IMMEDIATE`},
		{&s.commit, `COMMIT`},
		{&s.requeue, `
			UPDATE requests SET status = 'pending', starts = starts - ?, started_at = NULL
			WHERE id = ? AND status = 'processing' AND epoch = ?`},
		{&s.fail, `
			UPDATE requests SET status = 'failed', worked_at = ?, failure_code = ?, failure_message = ?, failure_upstream = 0, next_attempt_at = ?
			WHERE id = ? AND status = 'pending' AND epoch = ?`},
		{&s.release, `
			UPDATE requests SET waited = 0, callback_state = ?
			WHERE id = ? AND waited = 1 AND status IN ('pending', 'processing')`},
		{&s.redeliver, `
			UPDATE requests SET callback_state = 'pending', next_attempt_at = ?, redelivered_at = ?, max_attempts = ?
			WHERE id = ? AND status = ? AND callback_state = ?`},
		{&s.giveUp, `
			UPDATE requests SET status = CASE status WHEN 'completed' THEN 'callback_failed' ELSE status END,
				callback_state = 'failed', next_attempt_at = NULL, last_error = ?1
			WHERE seq IN (SELECT value FROM json_each(?2)) AND callback_state = 'pending'
				AND coalesce(redelivered_at, worked_at) < ?3 AND next_attempt_at < ?4
			RETURNING id, owner, mode, status, callback_state, redelivered_at IS NOT NULL, started_at, worked_at`},
		{&s.statusOf, `SELECT status FROM requests WHERE id = ?`},
		{&s.stateOf, `SELECT callback_state FROM requests WHERE id = ?`},
		{&s.holds, holdsQuery},
		{&s.claim, `
			INSERT INTO idempotency_keys (owner, key, fingerprint, request_id, created_at) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET fingerprint = excluded.fingerprint, request_id = excluded.request_id, created_at = excluded.created_at`},
		{&s.forget, `
			DELETE FROM idempotency_keys WHERE (owner, key) IN (
				SELECT owner, key FROM idempotency_keys WHERE created_at < ? LIMIT 1000)`},
		{&s.addRequests, `
			INSERT INTO request_counters (owner, mode, status, callback_state, requests, processing_us)
			VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
				processing_us = processing_us + excluded.processing_us`},
		{&s.touch, `
			INSERT INTO settings (name, value) VALUES ('written_at', ?)
			ON CONFLICT DO UPDATE SET value = excluded.value`},
		{&s.addSetting, `INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING`},
		{&s.addErrors, `
			INSERT INTO error_counters (owner, source, category, errors) VALUES (?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET errors = errors + excluded.errors`},
		{&s.deleteRequest, `
			DELETE FROM requests
			WHERE seq = ? AND status NOT IN ('pending', 'processing') AND callback_state <> 'pending'
			RETURNING id, owner, mode, status, callback_state, started_at, worked_at`},
		{&s.deleteAttempts, `DELETE FROM attempts WHERE request_id = ?`},
		{&s.deleteKeys, `DELETE FROM idempotency_keys WHERE request_id = ?`},
		{&s.addPruned, `
			INSERT INTO pruned_counters (owner, requests) VALUES (?, ?)
			ON CONFLICT DO UPDATE SET requests = requests + excluded.requests`},
		{&s.vacuum, `PRAGMA incremental_vacuum(` + strconv.Itoa(vacuumPages) + `)`},
	} {
		if err := s.prepareOne(conn, p.stmt, p.text); err != nil {
			return err
		}
	}
	return nil
}

func (s *statements) prepareOne(conn *sql.Conn, stmt **sql.Stmt, text string) (err error) {
	if *stmt, err = conn.PrepareContext(context.Background(), text); err != nil {
		return fmt.Errorf("prepare %q: %w", text, err)
	}
	s.open = append(s.open, *stmt)
	return nil
}

// close frees the statements. database/sql leaves those of a single connection
// to us, and with one of them open SQLite would not end the connection: the
// file would be left with its WAL beside it.
func (s *statements) close() error {
	var faults []error
	for _, stmt := range s.open {
		faults = append(faults, stmt.Close())
	}
	return errors.Join(faults...)
}
