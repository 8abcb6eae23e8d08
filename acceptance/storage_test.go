package acceptance

import (
	"testing"

	"tandem/internal/postgrestest"
)

// onEach runs a test on each kind of database: a SQLite file that does not exist
// yet, and an empty Postgres.
func onEach(t *testing.T, test func(t *testing.T, database string)) {
	t.Parallel()
	t.Run("file", func(t *testing.T) {
		t.Parallel()
		test(t, newFile(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, postgrestest.Database(t))
	})
}
