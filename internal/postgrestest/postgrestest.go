package postgrestest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// URLVariable names the server that tests use instead of starting one. Its
	// user must be allowed to create databases.
	URLVariable = "TEST_DATABASE_URL"
	// RequireVariable, set to 1, turns the skip of a test that has no Postgres
	// into a failure.
	RequireVariable = "TANDEM_REQUIRE_POSTGRES"
)

var shared struct {
	once    sync.Once
	running bool // Main runs
	url     string
	err     error
	cluster *Cluster // nil: the server is not ours
}

// Main runs the tests of a package and ends the cluster that they started. It
// is for TestMain; run is testing.M's Run.
func Main(run func() int) int {
	shared.running = true
	code := run()
	if shared.cluster != nil {
		if err := shared.cluster.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "end the throwaway cluster:", err)
			code = max(code, 1)
		}
	}
	return code
}

// Database returns the URL of an empty database that belongs to the test. It is
// dropped with the test. Without a Postgres the test is skipped.
func Database(t testing.TB) string {
	t.Helper()
	server := server(t)
	name := "tandem_test_" + strings.ToLower(rand.Text())
	do(t, server, `CREATE DATABASE `+name)
	t.Cleanup(func() { do(t, server, `DROP DATABASE IF EXISTS `+name+` WITH (FORCE)`) })
	u, err := url.Parse(server)
	if err != nil {
		t.Fatalf("%s: not a URL", URLVariable) // the parser's error shows the password
	}
	u.Path = "/" + name
	return u.String()
}

// server returns the URL of the server that the process's tests share.
func server(t testing.TB) string {
	t.Helper()
	if !shared.running {
		t.Fatal("TestMain must call postgrestest.Main, so that what is started is ended")
	}
	shared.once.Do(func() {
		if shared.url = os.Getenv(URLVariable); shared.url != "" {
			return
		}
		shared.cluster, shared.err = Start(Options{})
		if shared.err == nil {
			shared.url = shared.cluster.URL("postgres")
		}
	})
	if shared.err != nil {
		Skip(t, shared.err)
	}
	return shared.url
}

// Skip ends a test that has no Postgres for want of what err says.
func Skip(t testing.TB, err error) {
	t.Helper()
	const how = "%v; set " + URLVariable + " to a server on which databases may be created, or install the Postgres programs (apt-get install postgresql)"
	if os.Getenv(RequireVariable) == "1" {
		t.Fatalf(how, err)
	}
	t.Skipf(how, err)
}

// do runs one statement on a server.
func do(t testing.TB, server, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		t.Fatalf("connect to Postgres: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}
