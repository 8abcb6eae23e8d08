package embedded

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"

	"tandem"
)

// Examination is what Examine found out about a database.
type Examination struct {
	Path      string
	Bytes     int64
	Requests  int64
	Unsettled int64 // of these; the next start takes them up
	FreePages float64
	Findings  []Finding
}

// Sound reports whether nothing is wrong, or nothing is any more.
func (e *Examination) Sound() bool {
	for _, f := range e.Findings {
		if !f.Repaired {
			return false
		}
	}
	return true
}

// Finding is something that is wrong.
type Finding struct {
	Problem  string
	Remedy   string // what to do about it; empty if it was repaired
	Repaired bool
}

const (
	remedyRepair  = "stop the service and run tandem doctor --repair"
	remedyRestore = "put a backup in its place with tandem restore"
)

// Examine checks the database at path: the file itself, the counters against
// the rows, and the rows for what would never move again. It changes nothing,
// and a running service may have the file open.
//
// Repair puts right what can be, in one transaction, and needs the file to
// itself: it returns an error if a service has it open. It brings an older
// schema up to date first.
func Examine(ctx context.Context, path string, repair bool) (_ *Examination, err error) {
	path, err = existingFile(path)
	if err != nil {
		return nil, err
	}
	open := func() (*sql.DB, error) { return openPlain(path, 1, "query_only(1)") }
	if repair {
		unlock, err := lockFile(path)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, unlock()) }()
		open = func() (*sql.DB, error) { return openSQL(path, 1, "synchronous(FULL)") }
	}
	db, err := open()
	if err != nil {
		return nil, err
	}
	defer db.Close()
	x := &examiner{ctx: ctx, repair: repair, found: &Examination{Path: path}}
	err = readable(ctx, db)
	if err == nil && repair {
		if err = migrate(ctx, db); err != nil {
			err = fmt.Errorf("bring the schema up to date: %w", err)
		}
	}
	if err == nil {
		err = x.examine(db)
	}
	if damaged(err) {
		x.found.Findings = nil // what was repaired before was rolled back
		x.add("the file is damaged, and cannot be read to its end: "+err.Error(), remedyRestore, false)
		return x.found, nil
	}
	if err != nil {
		return nil, explain(path, err)
	}
	return x.found, nil
}

// existingFile is the path of a database that must be there, without links.
func existingFile(path string) (string, error) {
	if path == Memory {
		return "", errors.New("a database in memory is gone with its service: name a file")
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("there is no such database: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is no file", path)
	}
	return withoutLinks(path), nil
}

// readable returns an error if a file is no database of ours, or asks for a
// newer program.
func readable(ctx context.Context, db *sql.DB) error {
	var tables, needs int
	if err := db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema WHERE name = 'schema_meta'`).Scan(&tables); err != nil {
		return err
	}
	if tables == 0 {
		return errors.New("it is no database of tandem: it has no table schema_meta")
	}
	if err := db.QueryRowContext(ctx, `SELECT min_reader_version FROM schema_meta`).Scan(&needs); err != nil {
		return err
	}
	return checkReader(needs)
}

// checkReader returns an error if a file asks for a newer program than this.
func checkReader(needs int) error {
	if needs <= readerVersion {
		return nil
	}
	return fmt.Errorf("it was written by a newer version of tandem (it asks for reader version %d, this one is %d): use that version or newer", needs, readerVersion)
}

// integrityFaults asks SQLite for what is wrong with the file, the first 20
// faults. It reads all of it.
func integrityFaults(ctx context.Context, db querier) (faults []string, err error) {
	rows, err := db.QueryContext(ctx, `PRAGMA integrity_check(20)`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		if text != "ok" {
			faults = append(faults, strings.Join(strings.Fields(text), " "))
		}
	}
	return faults, rows.Err()
}

// querier is a database, or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// examiner is one Examine under way.
type examiner struct {
	ctx    context.Context
	tx     *sql.Tx // all of it sees the same rows
	repair bool
	found  *Examination
}

func (x *examiner) examine(db *sql.DB) error {
	if x.repair { // outside of the transaction: it rewrites what the transaction reads
		faults, err := integrityFaults(x.ctx, db)
		if err != nil {
			return err
		}
		if len(faults) > 0 {
			// An index is made anew from its table; nothing else can be.
			if _, err := db.ExecContext(x.ctx, `REINDEX`); err == nil {
				left, err := integrityFaults(x.ctx, db)
				if err != nil {
					return err
				}
				if len(left) == 0 {
					x.add("the file was damaged: "+strings.Join(faults, "; ")+" (its indexes were made anew)", "", true)
				}
			}
		}
	}
	var err error
	if x.tx, err = db.BeginTx(x.ctx, nil); err != nil {
		return err
	}
	defer x.tx.Rollback() // does nothing after the commit
	for _, step := range []func() error{x.size, x.integrity, x.schema, x.rows, x.counters} {
		if err := step(); err != nil {
			if errors.Is(err, errEnough) {
				return nil
			}
			return err
		}
	}
	if !x.repair {
		return nil
	}
	if err := x.tx.Commit(); err != nil {
		return fmt.Errorf("commit the repairs: %w", err)
	}
	return nil
}

// errEnough ends an examination that could only go wrong from here on.
var errEnough = errors.New("what is left cannot be examined")

func (x *examiner) add(problem, remedy string, repaired bool) {
	if repaired {
		remedy = ""
	}
	x.found.Findings = append(x.found.Findings, Finding{problem, remedy, repaired})
}

func (x *examiner) size() error {
	var pages, free, bytes int64
	err := x.tx.QueryRowContext(x.ctx, `
		SELECT page_count, freelist_count, page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size`).
		Scan(&pages, &free, &bytes)
	if err == nil {
		x.found.Bytes, x.found.FreePages = pages*bytes, float64(free)/float64(max(1, pages))
	}
	return err
}

func (x *examiner) integrity() error {
	faults, err := integrityFaults(x.ctx, x.tx)
	if err != nil {
		return err
	}
	for _, fault := range faults {
		x.add("the file is damaged: "+fault, remedyRestore+", or, if only an index is named, "+remedyRepair, false)
	}
	if len(faults) > 0 {
		return errEnough
	}
	return nil
}

// schema ends the examination of a file whose schema is not this program's.
func (x *examiner) schema() error {
	err := x.tx.QueryRowContext(x.ctx, `
		SELECT count(*), coalesce(sum(status IN ('pending', 'processing') OR callback_state = 'pending'), 0) FROM requests`).
		Scan(&x.found.Requests, &x.found.Unsettled)
	if err != nil {
		return err
	}
	for _, table := range []string{"requests", "attempts", "request_counters", "error_counters", "settings", "idempotency_keys", "pruned_counters"} {
		var there bool
		err := x.tx.QueryRowContext(x.ctx, `SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'table' AND name = ?`, table).Scan(&there)
		if err != nil {
			return err
		}
		if !there {
			x.add("the schema is not this version's: it has no table "+table, "start this version of tandem on it, or run tandem doctor --repair, to bring it up to date", false)
			return errEnough
		}
	}
	return nil
}

// What the counters should say, by the rows.
const (
	countedRequests = `
		SELECT owner, mode, status, callback_state, count(*) AS requests,
			coalesce(sum(CASE WHEN status NOT IN ('pending', 'processing') THEN max(0, worked_at - started_at) END), 0) AS processing_us
		FROM requests GROUP BY owner, mode, status, callback_state`
	countedErrors = `
		SELECT owner, 'work' AS source, failure_code AS category, count(*) AS errors
		FROM requests WHERE failure_code IS NOT NULL GROUP BY owner, failure_code
		UNION ALL
		SELECT owner, 'callback', class, count(*)
		FROM attempts JOIN requests ON id = request_id WHERE class <> '' GROUP BY owner, class`
)

// counters compares the counters with the rows. Those of requests are of all
// that is kept; those of errors are since the database was made, and must not
// be less than what is still there.
func (x *examiner) counters() error {
	requests, err := x.list(`
		WITH counted AS (` + countedRequests + `), said AS (
			SELECT * FROM request_counters WHERE requests <> 0 OR processing_us <> 0
		)
		SELECT printf('%s %s, callback %s%s: %d requests are counted, %d are there; %d us of work are counted, %d were',
			coalesce(c.mode, s.mode), coalesce(c.status, s.status), coalesce(c.callback_state, s.callback_state),
			iif(coalesce(c.owner, s.owner) = '', '', ', of ' || coalesce(c.owner, s.owner)),
			coalesce(s.requests, 0), coalesce(c.requests, 0), coalesce(s.processing_us, 0), coalesce(c.processing_us, 0))
		FROM counted c FULL JOIN said s USING (owner, mode, status, callback_state)
		WHERE c.requests IS NOT s.requests OR c.processing_us IS NOT s.processing_us`)
	if err != nil {
		return err
	}
	if len(requests) > 0 {
		err := x.mend("the counters of requests differ from the rows: "+some(requests),
			`DELETE FROM request_counters`,
			`INSERT INTO request_counters (owner, mode, status, callback_state, requests, processing_us) `+countedRequests)
		if err != nil {
			return err
		}
	}
	errs, err := x.list(`
		WITH counted AS (` + countedErrors + `)
		SELECT printf('%s %s: %d are counted, %d are there', source, category, coalesce(s.errors, 0), c.errors)
		FROM counted c LEFT JOIN error_counters s USING (owner, source, category)
		WHERE c.errors > coalesce(s.errors, 0)`)
	if err != nil || len(errs) == 0 {
		return err
	}
	return x.mend("the counters of errors are less than the rows: "+some(errs), `
		INSERT INTO error_counters (owner, source, category, errors) SELECT * FROM (`+countedErrors+`) WHERE true
		ON CONFLICT DO UPDATE SET errors = max(errors, excluded.errors)`)
}

// ailment is a way in which a row can be stuck, and how to free it.
type ailment struct {
	problem string
	where   string // of requests
	cure    string // empty: there is none
}

// ailments lists them. No program of ours leaves a row so.
func ailments() []ailment {
	lanesKnown := "'" + strings.Join(lanes, "', '") + "'"
	return []ailment{
		{"requests have a status or mode that there is not", `status NOT IN (` + names(tandem.Statuses) + `) OR mode NOT IN (` + names(tandem.Modes) + `)`, ""},
		{"requests have a callback state that there is not", `callback_state NOT IN ('none', 'pending', 'sent', 'failed')`, ""},
		{"requests owe a callback and have no address to send it to", `callback_state = 'pending' AND (callback_url IS NULL OR callback_host IS NULL)`, ""},
		{"requests wait in a lane that there is not", `status = 'pending' AND lane NOT IN (` + lanesKnown + `)`, `lane = '` + lanes[0] + `'`},
		{"requests owe a callback and have no time for it", `status NOT IN ('pending', 'processing') AND callback_state = 'pending' AND next_attempt_at IS NULL`, `next_attempt_at = coalesce(worked_at, created_at)`},
		{"requests have a time for a callback that they do not owe", `next_attempt_at IS NOT NULL AND (status IN ('pending', 'processing') OR callback_state <> 'pending')`, `next_attempt_at = NULL`},
		{"requests are worked and do not say when", `status NOT IN ('pending', 'processing') AND worked_at IS NULL`, `worked_at = coalesce(started_at, created_at)`},
	}
}

func names[T ~string](values []T) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = "'" + string(v) + "'"
	}
	return strings.Join(quoted, ", ")
}

// rows looks for requests that would never move again, and for what belongs to
// no request.
func (x *examiner) rows() error {
	for _, a := range ailments() {
		ids, err := x.list(`SELECT id FROM requests WHERE ` + a.where + ` ORDER BY seq`)
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			continue
		}
		problem := fmt.Sprintf("%d %s: %s", len(ids), a.problem, some(ids))
		if a.cure == "" {
			x.add(problem, remedyRestore+", or find out who wrote them", false)
			continue
		}
		if err := x.mend(problem, `UPDATE requests SET `+a.cure+` WHERE `+a.where); err != nil {
			return err
		}
	}
	for _, o := range []struct{ what, table string }{
		{"attempts", "attempts"},
		{"idempotency keys", "idempotency_keys"},
	} {
		const orphaned = ` WHERE NOT EXISTS (SELECT 1 FROM requests WHERE id = request_id)`
		ids, err := x.list(`SELECT request_id FROM ` + o.table + orphaned)
		if err != nil {
			return err
		}
		if len(ids) == 0 {
			continue
		}
		err = x.mend(fmt.Sprintf("%d %s belong to no request: %s", len(ids), o.what, some(ids)), `DELETE FROM `+o.table+orphaned)
		if err != nil {
			return err
		}
	}
	return nil
}

// mend notes a finding, and repairs it if that was asked for.
func (x *examiner) mend(problem string, statements ...string) error {
	if x.repair {
		for _, text := range statements {
			if _, err := x.tx.ExecContext(x.ctx, text); err != nil {
				return fmt.Errorf("repair: %w", err)
			}
		}
	}
	x.add(problem, remedyRepair, x.repair)
	return nil
}

// list returns the one column of a query.
func (x *examiner) list(query string) (all []string, err error) {
	rows, err := x.tx.QueryContext(x.ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, rows.Err()
}

// some shows the first few of many.
func some(all []string) string {
	const few = 3
	if len(all) <= few {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:few], ", "), len(all)-few)
}
