package postgrestest_test

import (
	"context"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"tandem/internal/postgrestest"
)

func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m.Run)) }

// query runs a query that returns one number.
func query(t *testing.T, url, text string) (n int, err error) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	err = conn.QueryRow(t.Context(), text).Scan(&n)
	return n, err
}

func TestEveryTestHasADatabaseOfItsOwn(t *testing.T) {
	one, two := postgrestest.Database(t), postgrestest.Database(t)
	conn, err := pgx.Connect(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), `CREATE TABLE t AS SELECT 7 AS n`); err != nil {
		t.Fatal(err)
	}
	if n, err := query(t, one, `SELECT n FROM t`); err != nil || n != 7 {
		t.Errorf("the test's own table: got %d, %v", n, err)
	}
	if _, err := query(t, two, `SELECT n FROM t`); err == nil {
		t.Error("the table is in the other database, too")
	}
}

func TestADatabaseIsDroppedWithItsTest(t *testing.T) {
	var url string
	t.Run("a test", func(t *testing.T) {
		url = postgrestest.Database(t)
		if _, err := query(t, url, `SELECT 1`); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := query(t, url, `SELECT 1`); err == nil {
		t.Error("the database is there after the test")
	}
}

func TestWhatIsCommittedOutlivesACrash(t *testing.T) {
	c, err := postgrestest.Start(postgrestest.Options{})
	if err != nil {
		postgrestest.Skip(t, err)
	}
	defer func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	}()
	conn, err := pgx.Connect(t.Context(), c.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `CREATE TABLE t AS SELECT 7 AS n`); err != nil {
		t.Fatal(err)
	}
	if err := c.Halt(); err != nil {
		t.Fatal(err)
	}
	if _, err := query(t, c.URL("postgres"), `SELECT n FROM t`); err == nil {
		t.Error("the cluster answers after its end")
	}
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	if n, err := query(t, c.URL("postgres"), `SELECT n FROM t`); err != nil || n != 7 {
		t.Errorf("after the crash: got %d, %v", n, err)
	}
}
