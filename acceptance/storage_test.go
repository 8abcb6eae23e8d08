package acceptance

import (
	"fmt"
	"os/exec"
	"testing"

	"tandem/internal/postgrestest"
)

// onEach runs a test on each kind of database: a SQLite file that does not exist
// yet, and a Postgres with nothing but the schema in it.
func onEach(t *testing.T, test func(t *testing.T, database string)) {
	t.Helper()
	onEachInPlace(t, test, parallel, parallel)
}

// onEachAlone is onEach for a test that needs the machine.
func onEachAlone(t *testing.T, test func(t *testing.T, database string)) {
	t.Helper()
	onEachInPlace(t, test, alone, alone)
}

// onEachAfterAKill is onEach for a test in which a process dies that has begun
// something. On Postgres it takes a while until another does it.
func onEachAfterAKill(t *testing.T, test func(t *testing.T, database string)) {
	t.Helper()
	onEachInPlace(t, test, parallel, patient)
}

// onEachPatiently is onEach for a test that waits most of the time.
func onEachPatiently(t *testing.T, test func(t *testing.T, database string)) {
	t.Helper()
	onEachInPlace(t, test, patient, patient)
}

func onEachInPlace(t *testing.T, test func(t *testing.T, database string), onFile, onPostgres func(*testing.T)) {
	t.Helper()
	t.Parallel()
	t.Run("file", func(t *testing.T) {
		onFile(t)
		test(t, newFile(t))
	})
	t.Run("postgres", func(t *testing.T) {
		onPostgres(t)
		test(t, migrated.Database(t))
	})
}

// migrated is a Postgres that tandem migrate has seen.
var migrated = postgrestest.Template{Prepare: func(url string) error {
	migrate := exec.Command(program, "migrate")
	migrate.Env = append(plainEnvironment(), "TANDEM_DATABASE="+url)
	if text, err := migrate.CombinedOutput(); err != nil {
		return fmt.Errorf("tandem migrate: %w\n%s", err, text)
	}
	return nil
}}
