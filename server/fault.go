package server

import (
	"errors"
	"fmt"
	"slices"
)

// Fault is what is wrong with one of the Options: the rule that it breaks, and
// the way out.
type Fault struct {
	Option string // the name of the field

	format string
	args   []any // of type option where other fields are named
}

// option is the name of a field, in the arguments of a Fault.
type option string

func fault(of, format string, args ...any) *Fault { return &Fault{of, format, args} }

// Error names the options as they are called here.
func (f *Fault) Error() string {
	return "option " + f.Option + ": " + f.Naming(func(option string) string { return option })
}

// Naming says what is wrong, without the option's own name, for a program that
// calls options otherwise, such as by flags: name is what it calls each.
func (f *Fault) Naming(name func(option string) string) string {
	args := slices.Clone(f.args)
	for i, arg := range args {
		if o, ok := arg.(option); ok {
			args[i] = name(string(o))
		}
	}
	return fmt.Sprintf(f.format, args...)
}

// Unwrap returns what brought the fault about, if that is an error.
func (f *Fault) Unwrap() error {
	var causes []error
	for _, arg := range f.args {
		if err, ok := arg.(error); ok {
			causes = append(causes, err)
		}
	}
	return errors.Join(causes...)
}
