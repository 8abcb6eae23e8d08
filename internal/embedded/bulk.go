package embedded

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"tandem/internal/engine"
)

// bulk is a guarded statement that every request goes through. Rows of one batch
// are gathered and written bulkRows at a time, for two thirds of what they cost
// in statements of their own.
type bulk struct {
	one, many *sql.Stmt // for one row, for bulkRows
	width     int       // parameters of a row

	args []any    // of the rows that were gathered, one behind the other
	seqs []*int64 // where the seq of each is wanted, if it is an insert and it is
}

const bulkRows = 8

// gather adds a row. seq may be nil.
func (b *bulk) gather(seq *int64, args []any) {
	b.args = append(b.args, args...)
	b.seqs = append(b.seqs, seq)
}

func (b *bulk) forget() {
	clear(b.args)
	b.args, b.seqs = b.args[:0], b.seqs[:0]
}

// flush writes what was gathered, in that order. It returns ErrMovedOn if a row
// did not stand as the guard asks; those around it may have been written.
func (b *bulk) flush() error {
	defer b.forget()
	for args, seqs := b.args, b.seqs; len(seqs) > 0; {
		stmt, n := b.many, bulkRows
		if len(seqs) < bulkRows {
			stmt, n = b.one, 1
		}
		result, err := stmt.Exec(args[:n*b.width]...)
		if err != nil {
			return err
		}
		if changed, err := result.RowsAffected(); err != nil || changed != int64(n) {
			return errors.Join(err, engine.ErrMovedOn)
		}
		last, err := result.LastInsertId()
		if err != nil {
			return err
		}
		for i, seq := range seqs[:n] {
			if seq != nil {
				*seq = last - int64(n-1-i) // SQLite gives each new row the number behind the highest
			}
		}
		args, seqs = args[n*b.width:], seqs[n:]
	}
	return nil
}

// inBulk makes of a statement for one row the one for n rows: of VALUES (?, ...)
// it makes so many, and of an UPDATE ... WHERE one from a table of values.
func inBulk(text string, n int) string {
	params := strings.Count(text, "?")
	row := "(?" + strings.Repeat(", ?", params-1) + ")"
	rows := "VALUES " + row + strings.Repeat(", "+row, n-1)
	if insert, rest, ok := strings.Cut(text, "VALUES "+row); ok {
		return insert + rows + rest
	}
	for i := range params {
		text = strings.Replace(text, "?", fmt.Sprintf("row.column%d", i+1), 1)
	}
	update, where, _ := strings.Cut(text, "WHERE ")
	return update + "FROM (" + rows + ") AS row WHERE " + where
}
