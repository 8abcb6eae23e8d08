package tandem

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// documented returns the rows of the table in docs/states.md that has the given
// head: the first cell, unquoted, to the last.
func documented(t *testing.T, head string) map[string]string {
	t.Helper()
	text, err := os.ReadFile("docs/states.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "\n"+head+"\n")
	if !found {
		t.Fatalf("docs/states.md has no table %s", head)
	}
	rows := make(map[string]string)
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(line, "|\n"), "|")
		if len(cells) < 2 {
			break
		}
		if strings.HasPrefix(cells[0], "---") {
			continue
		}
		for first := range strings.SplitSeq(cells[0], ",") {
			first = strings.Trim(first, " `")
			if _, twice := rows[first]; twice {
				t.Errorf("docs/states.md has %s twice", first)
			}
			rows[first] = strings.ReplaceAll(strings.TrimSpace(cells[len(cells)-1]), "`", "")
		}
	}
	return rows
}

// sameKeys checks that the documentation and the code know the same words.
func sameKeys[T ~string](t *testing.T, what string, rows map[string]string, words []T) {
	t.Helper()
	for _, word := range words {
		if _, ok := rows[string(word)]; !ok {
			t.Errorf("the code has the %s %q, docs/states.md has not", what, word)
		}
	}
	for word := range rows {
		if !slices.Contains(words, T(word)) {
			t.Errorf("docs/states.md has the %s %q, the code has not", what, word)
		}
	}
}

// docs/states.md tells people what the table tells the code.
func TestMovesAreAsDocumented(t *testing.T) {
	rows := documented(t, "| from | to |")
	sameKeys(t, "status", rows, Statuses)
	for _, status := range Statuses {
		var to []string
		for _, next := range status.Moves() {
			to = append(to, string(next))
		}
		want := strings.Join(to, ", ")
		if want == "" {
			want = "-"
		}
		if got := rows[string(status)]; got != want {
			t.Errorf("docs/states.md moves %s to %q, the code to %q", status, got, want)
		}
	}
}

func TestEveryWordIsDocumented(t *testing.T) {
	sameKeys(t, "status", documented(t, "| status | means |"), Statuses)
	sameKeys(t, "callback state", documented(t, "| state | means | moves to |"), CallbackStates)
	sameKeys(t, "error code", documented(t, "| error_code | when |"), constants(t, "error.go", "FailureCode"))
}

// constants returns the values of all constants of a type, from the source.
func constants(t *testing.T, file, name string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if of, ok := spec.Type.(*ast.Ident); ok && of.Name == name {
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, value)
		}
		return true
	})
	if len(values) == 0 {
		t.Fatalf("%s has no %s", file, name)
	}
	return values
}

func TestEveryStatusCanBeReachedAndHasMoves(t *testing.T) {
	reached := map[Status]bool{Pending: true, Processing: true} // where requests begin
	for from, to := range moves {
		if !slices.Contains(Statuses, from) {
			t.Errorf("%s moves and is no status", from)
		}
		for _, status := range to {
			reached[status] = true
		}
	}
	for _, status := range Statuses {
		if !reached[status] {
			t.Errorf("nothing moves to %s", status)
		}
		if _, ok := moves[status]; !ok {
			t.Errorf("%s is not in the table", status)
		}
	}
}

func TestWorkedSucceededSettled(t *testing.T) {
	for _, row := range []struct {
		status                   Status
		callback                 CallbackState
		worked, success, settled bool
	}{
		{Pending, CallbackNone, false, false, false},
		{Processing, CallbackPending, false, false, false},
		{Completed, CallbackNone, true, true, true},
		{Completed, CallbackPending, true, true, false},
		{Failed, CallbackNone, true, false, true},
		{Failed, CallbackPending, true, false, false},
		{Failed, CallbackDelivered, true, false, true},
		{CallbackSent, CallbackDelivered, true, true, true},
		{CallbackFailed, CallbackGivenUp, true, true, true},
	} {
		req := Request{Status: row.status, Callback: Callback{State: row.callback}}
		if got := [3]bool{row.status.Worked(), row.status.Succeeded(), req.Settled()}; got != [3]bool{row.worked, row.success, row.settled} {
			t.Errorf("%s with callback %s: worked, succeeded, settled are %v", row.status, row.callback, got)
		}
	}
}
