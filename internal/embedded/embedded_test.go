package embedded_test

import (
	"path/filepath"
	"testing"

	"tandem/internal/embedded"
	"tandem/internal/engine"
	"tandem/internal/store"
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

func TestKeysKeepTheContract(t *testing.T) {
	storetest.ExerciseKeys(t, func(t *testing.T) *store.KeyStore {
		keys, err := embedded.OpenKeys(t.Context(), filepath.Join(t.TempDir(), "requests.db"))
		if err != nil {
			t.Fatal(err)
		}
		return keys
	})
}
