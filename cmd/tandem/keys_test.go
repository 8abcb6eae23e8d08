package main

import (
	"errors"
	"testing"

	"tandem"
)

func TestTheFlagThatIsToBlameIsNamed(t *testing.T) {
	for _, row := range []struct {
		name string
		err  error
		want string
	}{
		{"what cannot be a name", tandem.Invalid("name", "must be short"), "--name: must be short"},
		{"a name that is taken", &tandem.Error{Code: tandem.CodeConflict, Message: "there is one"}, "--name: there is one"},
		{"a storage that is full", &tandem.Error{Code: tandem.CodeUnavailable, Message: "cannot be written"}, "--database: cannot be written"},
		{"anything else", errors.New("it broke"), "--database: it broke"},
	} {
		if got := keyFault(row.err).Error(); got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}
