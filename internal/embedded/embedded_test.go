package embedded_test

import (
	"path/filepath"
	"testing"

	"tandem/internal/embedded"
	"tandem/internal/engine"
	"tandem/internal/storetest"
)

func TestBackendKeepsTheContract(t *testing.T) {
	storetest.Exercise(t, func(t *testing.T, place string, opts storetest.Options) engine.Backend {
		b, err := embedded.Open(t.Context(), filepath.Join(place, "requests.db"), embedded.Options{MaxPending: opts.MaxPending})
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}
