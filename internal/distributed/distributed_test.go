package distributed_test

import (
	"os"
	"sync"
	"testing"

	"tandem/internal/distributed"
	"tandem/internal/engine"
	"tandem/internal/postgrestest"
	"tandem/internal/store"
	"tandem/internal/storetest"
)

func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m.Run)) }

// migrated is a database with nothing but the schema in it.
var migrated = &distributed.Migrated

// databases gives each place of a test a database of its own.
type databases struct {
	mu      sync.Mutex
	byPlace map[string]string
}

func (d *databases) of(t *testing.T, place string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byPlace == nil {
		d.byPlace = make(map[string]string)
	}
	if d.byPlace[place] == "" {
		d.byPlace[place] = migrated.Database(t)
	}
	return d.byPlace[place]
}

func TestBackendKeepsTheContract(t *testing.T) {
	for _, row := range []struct {
		name     string
		pollOnly bool
	}{
		{"with sessions", false},
		{"without sessions, as behind PgBouncer", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			var all databases
			storetest.Exercise(t, func(t *testing.T, place string, opts storetest.Options) engine.Backend {
				b, err := distributed.Open(t.Context(), all.of(t, place), distributed.Options{MaxPending: opts.MaxPending, PollOnly: row.pollOnly})
				if err != nil {
					t.Fatal(err)
				}
				return b
			})
		})
	}
}

func TestKeysKeepTheContract(t *testing.T) {
	storetest.ExerciseKeys(t, func(t *testing.T) *store.KeyStore {
		keys, err := distributed.OpenKeys(t.Context(), migrated.Database(t))
		if err != nil {
			t.Fatal(err)
		}
		return keys
	})
}
