// Package work is the units of work behind both patterns: a Func for each
// kind, and the Registry they are looked up in. It knows no HTTP server, no
// database and no mode, so both patterns run the very same function.
package work

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// Input is what a Func works on. A Func must not change Data.
type Input struct {
	Data       json.RawMessage // a JSON object, digit for digit as the caller sent it
	Complexity int             // how much work to do, from 1
}

// Func does one unit of work and returns its result as JSON of at most 1 MiB.
// It must stop soon after ctx ends, which it does at the work's deadline, when
// the caller left, or when the request was cancelled. It may be called at once
// from many goroutines, and more than once for the same request: a crash
// between the work and the record of its outcome repeats it. An error or a
// panic fails that request and nothing else; the error's text is shown to the
// caller.
type Func func(ctx context.Context, in Input) (json.RawMessage, error)

// Class says what a kind of work spends its time on, and with that how many
// run at once.
type Class int

const (
	CPU   Class = iota // burns CPU: as many at once as there are workers
	Waits              // waits for something else: hundreds at once
)

// String returns "cpu" or "io".
func (c Class) String() string {
	if c == Waits {
		return "io"
	}
	return "cpu"
}

// Kind is one kind of work.
type Kind struct {
	Name    string // lower-case letters, digits, - and _
	Summary string // one line for people
	Class   Class
	Func    Func

	// Check, if not nil, refuses an input at submission, with a 422 and before
	// anything is stored. Its error is shown to the caller. It must be quick.
	// A nil Check lets any object through.
	Check func(Input) error
}

// Registry is the kinds of work that can be asked for, by name. The zero
// Registry is empty and ready to use. Looking up is safe for concurrent use;
// registering is not, and comes before it.
type Registry struct {
	kinds map[string]Kind
}

var kindName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,63}$`)

// Register adds a kind. It returns an error, and adds nothing, if the name is
// malformed or taken, the class unknown, or there is no Func.
func (r *Registry) Register(k Kind) error {
	switch {
	case !kindName.MatchString(k.Name):
		return fmt.Errorf("workload %q: a name is lower-case letters, digits, - and _, beginning with a letter", k.Name)
	case k.Class != CPU && k.Class != Waits:
		return fmt.Errorf("workload %q: the class must be CPU or Waits, is %d", k.Name, int(k.Class))
	case k.Func == nil:
		return fmt.Errorf("workload %q has no Func", k.Name)
	}
	if _, taken := r.kinds[k.Name]; taken {
		return fmt.Errorf("workload %q is registered already", k.Name)
	}
	if r.kinds == nil {
		r.kinds = make(map[string]Kind)
	}
	r.kinds[k.Name] = k
	return nil
}

// Lookup returns the kind of that name.
func (r *Registry) Lookup(name string) (Kind, bool) {
	k, ok := r.kinds[name]
	return k, ok
}

// Names returns the names of all kinds, sorted.
func (r *Registry) Names() []string { return slices.Sorted(maps.Keys(r.kinds)) }

// Kinds returns all kinds, sorted by name.
func (r *Registry) Kinds() []Kind {
	var all []Kind
	for _, name := range r.Names() {
		all = append(all, r.kinds[name])
	}
	return all
}

// Options of the built-in kinds. The zero value of each means its default.
type Options struct {
	Rounds    int        // of compute and mixed, per unit of complexity; DefaultRounds
	Upstreams []Upstream // for http; without any there is no http
}

// Builtin returns a registry of compute, wait and mixed, and of http if there
// are upstreams for it to call. More kinds can be registered with it.
func Builtin(o Options) (*Registry, error) {
	if o.Rounds < 0 {
		return nil, fmt.Errorf("rounds must not be negative, are %d", o.Rounds)
	}
	if o.Rounds == 0 {
		o.Rounds = DefaultRounds
	}
	r := &Registry{}
	faults := []error{
		r.Register(Compute(o.Rounds)),
		r.Register(Wait()),
		r.Register(Mixed(o.Rounds)),
	}
	if len(o.Upstreams) > 0 {
		kind, err := HTTP(o.Upstreams...)
		if err == nil {
			err = r.Register(kind)
		}
		faults = append(faults, err)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return r, nil
}
