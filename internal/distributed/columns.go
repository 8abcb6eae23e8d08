package distributed

import (
	"fmt"
	"strings"
	"time"

	"tandem"
)

// columns are what a statement takes of each of its writes. They go to Postgres
// as an array each, from which it makes the rows again: so a statement's text is
// the same for any number of writes, and its names, types and values cannot come
// apart.
type columns []field

// field is one of them: its name, its type in Postgres, and its values.
type field struct {
	name, kind string
	of         func([]*write) any
}

// each is a field of what a function returns for each write.
func each[T any](name, kind string, of func(*write) T) field {
	return field{name, kind, func(writes []*write) any { return column(writes, of) }}
}

func text(name string, of func(*tandem.Request) string) field {
	return each(name, "text", func(wr *write) string { return of(&wr.req) })
}

// optional is a text that is NULL if it is empty.
func optional(name string, of func(*tandem.Request) string) field {
	return each(name, "text", func(wr *write) *string {
		if s := of(&wr.req); s != "" {
			return &s
		}
		return nil
	})
}

func number(name string, of func(*tandem.Request) int) field {
	return each(name, "int", func(wr *write) int { return of(&wr.req) })
}

// at is a time that is NULL if it is zero.
func at(name string, of func(*tandem.Request) time.Time) field {
	return each(name, "bigint", func(wr *write) *int64 { return micros(of(&wr.req)) })
}

// names are those of the columns, as an INSERT lists them.
func (c columns) names() string {
	names := make([]string, len(c))
	for i, f := range c {
		names[i] = f.name
	}
	return strings.Join(names, ", ")
}

// rows makes rows of the first parameters of a statement.
func (c columns) rows() string {
	arrays := make([]string, len(c))
	for i, f := range c {
		arrays[i] = fmt.Sprintf("$%d::%s[]", i+1, f.kind)
	}
	return "unnest(" + strings.Join(arrays, ", ") + ")"
}

// numbered makes rows with the columns' names, and n, which counts them from 1.
func (c columns) numbered() string {
	return c.rows() + " WITH ORDINALITY AS u(" + c.names() + ", n)"
}

// next is the first parameter that is none of the columns.
func (c columns) next() string { return fmt.Sprintf("$%d", len(c)+1) }

// values are the statement's arguments: the columns, and what comes after them.
func (c columns) values(writes []*write, next ...any) []any {
	values := make([]any, len(c), len(c)+len(next))
	for i, f := range c {
		values[i] = f.of(writes)
	}
	return append(values, next...)
}
