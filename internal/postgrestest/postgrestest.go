package postgrestest

import (
	"context"
	"crypto/rand"
	"errors"
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
	// RequireVariable, set to 1, turns the skip of a test that has no Postgres,
	// or no PgBouncer, into a failure.
	RequireVariable = "TANDEM_REQUIRE_POSTGRES"
)

var shared struct {
	once    sync.Once
	running bool // Main runs
	url     string
	err     error
	cluster *Cluster // nil: the server is not ours

	mu        sync.Mutex
	templates []string // databases that Main drops
}

// Main runs the tests of a package, and ends or deletes what they share. It is
// for TestMain; run is testing.M's Run.
func Main(run func() int) int {
	shared.running = true
	code := run()
	var err error
	if shared.cluster != nil {
		err = shared.cluster.Stop()
	} else {
		for _, name := range shared.templates {
			err = errors.Join(err, execute(shared.url, `DROP DATABASE IF EXISTS `+name+` WITH (FORCE)`))
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "end the Postgres of the tests:", err)
		code = max(code, 1)
	}
	return code
}

// Database returns the URL of an empty database that belongs to the test. It is
// dropped with the test. Without a Postgres the test is skipped.
func Database(t testing.TB) string {
	t.Helper()
	server, name := server(t), newName()
	do(t, server, `CREATE DATABASE `+name)
	return dropped(t, server, name)
}

// Template is a database that Prepare makes of an empty one, once in a test
// process, for tests that want one like it: a copy costs a third of a schema's
// migrations.
type Template struct {
	Prepare func(url string) error

	once sync.Once
	name string
	err  error
}

// Database is the function Database, of a copy.
func (p *Template) Database(t testing.TB) string {
	t.Helper()
	server := server(t)
	p.once.Do(func() {
		p.name = newName()
		shared.mu.Lock()
		shared.templates = append(shared.templates, p.name)
		shared.mu.Unlock()
		if p.err = execute(server, `CREATE DATABASE `+p.name); p.err == nil {
			p.err = p.Prepare(databaseURL(t, server, p.name))
		}
	})
	if p.err != nil {
		t.Fatalf("prepare a database: %v", p.err)
	}
	name := newName()
	do(t, server, `CREATE DATABASE `+name+` TEMPLATE `+p.name)
	return dropped(t, server, name)
}

func newName() string { return "tandem_test_" + strings.ToLower(rand.Text()) }

// dropped returns the URL of a database, and drops it with the test.
func dropped(t testing.TB, server, name string) string {
	t.Helper()
	t.Cleanup(func() { do(t, server, `DROP DATABASE IF EXISTS `+name+` WITH (FORCE)`) })
	return databaseURL(t, server, name)
}

func databaseURL(t testing.TB, server, name string) string {
	t.Helper()
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
	skip(t, fmt.Errorf("%w; set "+URLVariable+" to a server on which databases may be created, or install the Postgres programs (apt-get install postgresql)", err))
}

func skip(t testing.TB, why error) {
	t.Helper()
	if os.Getenv(RequireVariable) == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// do runs one statement on a server.
func do(t testing.TB, server, statement string) {
	t.Helper()
	if err := execute(server, statement); err != nil {
		t.Fatal(err)
	}
}

func execute(server, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", statement, err)
	}
	return nil
}
