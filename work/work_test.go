package work

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func nothing(context.Context, Input) (json.RawMessage, error) { return json.RawMessage(`{}`), nil }

func TestRegisterRefusesWhatCannotBeAskedFor(t *testing.T) {
	for _, c := range []struct {
		what string
		kind Kind
		want string // part of the error; "" registers
	}{
		{"one letter is a name", Kind{Name: "a", Func: nothing}, ""},
		{"letters, digits, - and _", Kind{Name: "resize-2_x", Func: nothing}, ""},
		{"64 characters", Kind{Name: strings.Repeat("a", 64), Func: nothing}, ""},
		{"65 characters", Kind{Name: strings.Repeat("a", 65), Func: nothing}, "a name is"},
		{"no name", Kind{Func: nothing}, "a name is"},
		{"an upper-case letter", Kind{Name: "Resize", Func: nothing}, "a name is"},
		{"a digit in front", Kind{Name: "2x", Func: nothing}, "a name is"},
		{"a dash in front", Kind{Name: "-x", Func: nothing}, "a name is"},
		{"a line break behind", Kind{Name: "resize\n", Func: nothing}, "a name is"},
		{"a taken name", Kind{Name: "taken", Func: nothing}, "registered already"},
		{"no Func", Kind{Name: "idle"}, "no Func"},
		{"a class there is not", Kind{Name: "gpu", Func: nothing, Class: Waits + 1}, "the class must be"},
	} {
		var r Registry
		if err := r.Register(Kind{Name: "taken", Summary: "the first", Func: nothing}); err != nil {
			t.Fatal(err)
		}
		err := r.Register(c.kind)
		if got := errorText(err); c.want == "" && err != nil || !strings.Contains(got, c.want) {
			t.Errorf("%s: got error %q, want %q", c.what, got, c.want)
		}
		if _, ok := r.Lookup(c.kind.Name); c.want == "" && !ok {
			t.Errorf("%s: registered, and not found", c.what)
		}
		if first, _ := r.Lookup("taken"); first.Summary != "the first" {
			t.Errorf("%s: it replaced another kind", c.what)
		}
	}
}

func TestRegistryListsKindsByName(t *testing.T) {
	var r Registry
	if got := r.Names(); len(got) != 0 {
		t.Errorf("the zero Registry has %v", got)
	}
	for _, name := range []string{"b", "c", "a"} {
		if err := r.Register(Kind{Name: name, Func: nothing}); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"a", "b", "c"}
	if got := r.Names(); !slices.Equal(got, want) {
		t.Errorf("got names %v, want %v", got, want)
	}
	var got []string
	for _, k := range r.Kinds() {
		got = append(got, k.Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got kinds %v, want %v", got, want)
	}
}

func TestBuiltinHasWhatItsOptionsAllow(t *testing.T) {
	cars := Upstream{Name: "cars", URL: "http://127.0.0.1:1/"}
	for _, c := range []struct {
		what string
		opts Options
		want string // the names, or part of the error
	}{
		{"no options", Options{}, "compute mixed wait"},
		{"an upstream", Options{Upstreams: []Upstream{cars}}, "compute http mixed wait"},
		{"negative rounds", Options{Rounds: -1}, "rounds must not be negative"},
		{"one upstream twice", Options{Upstreams: []Upstream{cars, cars}}, "configured twice"},
	} {
		r, err := Builtin(c.opts)
		got := errorText(err)
		if err == nil {
			got = strings.Join(r.Names(), " ")
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.what, got, c.want)
		}
	}
}

func TestBuiltinClasses(t *testing.T) {
	r, err := Builtin(Options{Upstreams: []Upstream{{Name: "cars", URL: "http://127.0.0.1:1/"}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"compute": "cpu", "wait": "io", "mixed": "io", "http": "io"} {
		k, _ := r.Lookup(name)
		if got := k.Class.String(); got != want {
			t.Errorf("%s: got class %s, want %s", name, got, want)
		}
		if k.Summary == "" {
			t.Errorf("%s has no summary", name)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
