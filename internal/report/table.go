package report

import (
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// table is figures in rows and columns, for the terminal and for the page.
type table struct {
	Title   string
	Void    bool // none of it counts; else the heads of columns say which do not
	Columns []column
	Groups  []group
	Notes   []string
}

// column is the head of one.
type column struct {
	Label string
	Class string // sync or async, or empty
	Void  bool
	File  int // columns of a file stay together
}

// group is some rows under a title, which may be empty.
type group struct {
	Title string
	Rows  []row
}

type row struct {
	Name  string
	Cells []string
	Class string // what the page makes of it: passed, failed or void
}

// Head is what stands above a column.
func (c column) Head() string {
	if c.Void {
		return c.Label + " VOID"
	}
	return c.Label
}

// Mark is what stands before the titles of figures of which none count.
func (t table) Mark() string { return mark(t.Void, t.Columns) }

func mark(void bool, columns []column) string {
	if void || len(columns) > 0 && !slices.ContainsFunc(columns, func(c column) bool { return !c.Void }) {
		return "VOID "
	}
	return ""
}

const (
	lineWidth  = 96 // the most of a table
	nameWidth  = 36
	cellWidth  = 13
	indent     = "  "
	columnSkip = "  "
)

// text writes the table. What is too wide for a line continues below with the
// same rows.
func (t table) text(w io.StringWriter) {
	names, widths := t.widths()
	for from := 0; from < len(t.Columns); {
		to, width := from, len(indent)+names
		for to < len(t.Columns) {
			end, more := to, 0
			for ; end < len(t.Columns) && t.Columns[end].File == t.Columns[to].File; end++ {
				more += len(columnSkip) + widths[end]
			}
			if to > from && width+more > lineWidth {
				break
			}
			to, width = end, width+more
		}
		t.part(w, names, widths, from, to)
		from = to
	}
	for _, note := range t.Notes {
		_, _ = w.WriteString(wrap(indent, note) + "\n") // to memory
	}
}

func (t table) widths() (names int, columns []int) {
	names = nameWidth
	if len(t.Columns) > 3 {
		names = utf8.RuneCountInString(t.Title)
	}
	columns = make([]int, len(t.Columns))
	for i, c := range t.Columns {
		columns[i] = utf8.RuneCountInString(c.Head())
		if len(t.Columns) <= 4 {
			columns[i] = max(columns[i], cellWidth)
		}
	}
	for _, g := range t.Groups {
		for _, r := range g.Rows {
			names = max(names, min(utf8.RuneCountInString(r.Name), nameWidth))
			for i, cell := range r.Cells {
				columns[i] = max(columns[i], utf8.RuneCountInString(cell))
			}
		}
	}
	return names, columns
}

func (t table) part(w io.StringWriter, names int, widths []int, from, to int) {
	line := func(before, name string, cells func(i int) string) {
		var b strings.Builder
		b.WriteString(pad(before+shorten(clean(name), names), len(indent)+names, false))
		for i := from; i < to; i++ {
			b.WriteString(columnSkip + pad(clean(cells(i)), widths[i], true))
		}
		_, _ = w.WriteString(strings.TrimRight(b.String(), " ") + "\n") // to memory
	}
	mark := mark(t.Void, t.Columns[from:to])
	_, _ = w.WriteString("\n")
	line("", mark+t.Title, func(i int) string { return t.Columns[i].Head() })
	for _, g := range t.Groups {
		if g.Title != "" {
			_, _ = w.WriteString(mark + shorten(clean(g.Title), lineWidth-5) + "\n")
		}
		for _, r := range g.Rows {
			line(indent, r.Name, func(i int) string { return r.Cells[i] })
		}
	}
}

// pad fills a text with spaces on one side.
func pad(s string, width int, before bool) string {
	space := strings.Repeat(" ", max(width-utf8.RuneCountInString(s), 0))
	if before {
		return space + s
	}
	return s + space
}
