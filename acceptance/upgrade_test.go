package acceptance

import (
	"path/filepath"
	"testing"

	"tandem/internal/postgrestest"
)

func TestProcessesThatStartAtOnceMakeOneSchema(t *testing.T) {
	parallel(t)
	database := postgrestest.Database(t)
	startAtOnce(t, 4, "--database", database)
	var versions, twice int
	err := openPostgres(t, database).QueryRow(`
		SELECT count(DISTINCT version_id), count(*) - count(DISTINCT version_id) FROM tandem_schema_version WHERE is_applied`).Scan(&versions, &twice)
	if err != nil || versions < 2 || twice != 0 {
		t.Errorf("%d versions are applied, %d of them more than once, %v", versions, twice, err)
	}
}

// startAtOnce starts processes on a database that is empty, and wants each to
// serve.
func startAtOnce(t *testing.T, n int, args ...string) {
	t.Helper()
	processes, files := make([]*process, n), make([]string, n)
	for i := range processes {
		files[i] = filepath.Join(t.TempDir(), "address")
		processes[i] = start(t, t.TempDir(), nil, append([]string{"serve", "--addr", "127.0.0.1:0", "--address-file", files[i]}, args...)...)
	}
	for i, p := range processes {
		s := connect(t, p, files[i])
		s.sync(quick)
		s.worked(s.async(quick))
	}
}
