package transfer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"time"

	"tandem"
	"tandem/internal/distributed"
	"tandem/internal/embedded"
)

const (
	// batchRows and batchBytes bound one transaction, and with it what is held in
	// memory and what is done again after a cut.
	batchRows  = 2000
	batchBytes = 8 << 20
)

// Progress is told after every batch.
type Progress struct {
	Table string
	Rows  int64 // of it that are in Postgres now
	Of    int64
}

// Table is what was moved of one.
type Table struct {
	Name     string
	Rows     int64
	Checksum string // of the rows as read back from Postgres, equal to that of the file's
}

// Result is what a transfer has come to.
type Result struct {
	Tables   []Table
	Process  int64 // requests that wait to be worked
	Deliver  int64 // callbacks that are owed
	Moved    int64 // rows that this run has written
	Resumed  bool  // an earlier run was cut off
	Already  bool  // an earlier run had done it all; nothing was written or read
	Duration time.Duration
}

// Run moves all of the file to the Postgres, which must be empty, or hold what
// an earlier Run that was cut off has moved of this file. It returns an error if
// a service has either open. It ends with reading both sides: the counts and
// checksums of every table are equal, or the error says which is not.
//
// Services start on the Postgres only once this is done.
func Run(ctx context.Context, file, database string, log *slog.Logger, progress func(Progress)) (_ *Result, err error) {
	began := time.Now()
	source, err := embedded.OpenSource(ctx, file, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	id, err := source.ID(ctx)
	if err != nil {
		return nil, err
	}
	target, err := distributed.OpenTarget(ctx, database, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	move, err := target.Begin(ctx, id)
	if err != nil {
		return nil, err
	}
	m := &mover{source: source, target: target, move: move, progress: progress}
	m.result.Already, m.result.Resumed = move.Done, !move.Done && move.Table != ""
	if !move.Done {
		if err := m.run(ctx); err != nil {
			return nil, err
		}
	}
	m.result.Duration = time.Since(began)
	return &m.result, nil
}

// mover is one Run under way.
type mover struct {
	source   *embedded.Source
	target   *distributed.Target
	move     distributed.Move
	progress func(Progress)
	result   Result
}

func (m *mover) run(ctx context.Context) error {
	reached := m.move.Table == ""
	for i := range tables {
		t := &tables[i]
		var after []any
		if !reached {
			if t.name != m.move.Table {
				continue // an earlier run has moved it
			}
			reached = true
			var err error
			if after, err = t.parseKey(m.move.After); err != nil {
				return err
			}
		}
		if err := m.copy(ctx, t, after); err != nil {
			return err
		}
	}
	if !reached {
		return fmt.Errorf("the transfer was begun by another version of tandem, which moves a table %s: go on with that version", m.move.Table)
	}
	for i := range tables {
		if err := m.verify(ctx, &tables[i]); err != nil {
			return err
		}
	}
	process, deliver, err := m.target.Jobs(ctx)
	if err != nil {
		return err
	}
	if process != m.result.Process || deliver != m.result.Deliver {
		return fmt.Errorf("%d requests are to be worked and %d callbacks are owed, but there are jobs for %d and %d; %s",
			m.result.Process, m.result.Deliver, process, deliver, again)
	}
	return m.target.Finish(ctx, m.move)
}

const again = "no service starts on this database; create an empty one and transfer to that"

// copy moves the rows of a table after the one with the given key.
func (m *mover) copy(ctx context.Context, t *table, after []any) error {
	total, err := m.source.Count(ctx, t.name)
	if err != nil {
		return err
	}
	names := t.targetNames()
	if t.sharded() {
		names = append(names, shard)
	}
	moved := int64(0)
	if after != nil {
		if moved, err = m.source.CountUpTo(ctx, t.name, t.key, after); err != nil {
			return err
		}
	}
	for {
		b, err := m.read(ctx, t, after)
		if err != nil {
			return err
		}
		if len(b.rows) == 0 {
			return nil
		}
		after = b.last
		m.move.Table, m.move.After = t.name, formatKey(after)
		if err := m.target.Write(ctx, m.move, names, b.rows, b.owed); err != nil {
			return err
		}
		moved += int64(len(b.rows))
		m.result.Moved += int64(len(b.rows))
		m.progress(Progress{t.name, moved, total})
	}
}

// batch is what one transaction brings.
type batch struct {
	rows [][]any
	last []any // the key of the last row
	owed []tandem.Request
}

// read reads the batch after the row with the given key.
func (m *mover) read(ctx context.Context, t *table, after []any) (b batch, err error) {
	bytes := 0
	full := errors.New("the batch is full")
	err = m.source.Read(ctx, t.name, t.names(), t.key, after, batchRows, func(row []any) error {
		if bytes > batchBytes {
			return full
		}
		b.last = b.last[:0]
		for _, name := range t.key { // as the file has it, and orders it
			b.last = append(b.last, t.value(row, name))
		}
		if err := t.uniform(row); err != nil {
			return err
		}
		for _, v := range row {
			switch v := v.(type) {
			case string:
				bytes += len(v)
			case []byte:
				bytes += len(v)
			}
		}
		if req, ok := t.owed(row); ok {
			b.owed = append(b.owed, req)
		}
		if t.sharded() {
			row = append(row, int64(0))
		}
		b.rows = append(b.rows, row)
		return nil
	})
	if errors.Is(err, full) {
		err = nil
	}
	return b, err
}

// owed returns what a job needs to know of a request, if it is to be worked or
// its callback to be delivered.
func (t *table) owed(row []any) (req tandem.Request, ok bool) {
	if t.name != requests {
		return req, false
	}
	at := func(name string) time.Time {
		if n, ok := t.value(row, name).(int64); ok {
			return time.UnixMicro(n).UTC()
		}
		return time.Time{}
	}
	words := func(name string) string {
		s, _ := t.value(row, name).(string) // "" of NULL
		return s
	}
	req = tandem.Request{ID: words("id"), Status: tandem.Status(words("status")), Lane: words("lane"), NotBefore: at("not_before")}
	req.Callback.NextAt = at("next_attempt_at")
	return req, req.Status == tandem.Pending || !req.Callback.NextAt.IsZero()
}

// verify reads a table on both sides.
func (m *mover) verify(ctx context.Context, t *table) error {
	var want, got checksum
	err := m.source.Read(ctx, t.name, t.names(), t.key, nil, math.MaxInt, func(row []any) error {
		if err := t.uniform(row); err != nil {
			return err
		}
		want.add(row)
		if req, ok := t.owed(row); ok {
			if req.Status == tandem.Pending {
				m.result.Process++
			} else {
				m.result.Deliver++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = m.target.Read(ctx, t.name, t.targetNames(), func(row []any) error {
		if err := t.uniform(row); err != nil {
			return err
		}
		got.add(row)
		return nil
	})
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%s has %d rows with checksum %v in Postgres, and %d with %v in the file, which a service may have changed since the transfer began; %s",
			t.name, got.rows, got, want.rows, want, again)
	}
	m.result.Tables = append(m.result.Tables, Table{t.name, got.rows, got.String()})
	return nil
}

// formatKey and parseKey are the form a key is kept in.
func formatKey(key []any) []string {
	all := make([]string, len(key))
	for i, v := range key {
		all[i] = fmt.Sprint(v)
	}
	return all
}

func (t *table) parseKey(key []string) ([]any, error) {
	if len(key) != len(t.key) {
		return nil, fmt.Errorf("the transfer is at %q, which is no key of %s", key, t.name)
	}
	all := make([]any, len(key))
	for i, name := range t.key {
		all[i] = key[i]
		for _, c := range t.columns {
			if c.name == name && c.kind == number {
				n, err := strconv.ParseInt(key[i], 10, 64)
				if err != nil {
					return nil, fmt.Errorf("the transfer is at %q, which is no key of %s", key, t.name)
				}
				all[i] = n
			}
		}
	}
	return all, nil
}
