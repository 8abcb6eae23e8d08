package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Bouncer is a PgBouncer in front of a database.
type Bouncer struct {
	URL   string // of the database, by way of it
	Admin string // of its own console
}

// PgBouncer starts a PgBouncer that ends with the test, with settings such as
// "pool_mode = transaction". Without the program the test is skipped.
func PgBouncer(t testing.TB, database string, settings ...string) Bouncer {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if errors.Is(err, exec.ErrNotFound) { // Debian has it where only root looks
		program, err = exec.LookPath("/usr/sbin/pgbouncer")
	}
	if err != nil {
		skip(t, errors.New("there is no pgbouncer on this machine; install it (apt-get install pgbouncer)"))
	}
	server, err := url.Parse(database)
	if err != nil {
		t.Fatal("the database has no URL") // the parser's error shows the password
	}
	dir, err := os.MkdirTemp("", "tandem-pgbouncer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for range 5 { // another program may take the port first
		var b *Bouncer
		if b, err = startPgBouncer(t, program, dir, server, settings); err == nil {
			return *b
		}
	}
	t.Fatal(err)
	return Bouncer{}
}

func startPgBouncer(t testing.TB, program, dir string, server *url.URL, settings []string) (*Bouncer, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	host, serverPort := server.Hostname(), server.Port()
	if serverPort == "" {
		serverPort = "5432"
	}
	user := server.User.Username()
	password, _ := server.User.Password()
	users, config := filepath.Join(dir, "users.txt"), filepath.Join(dir, "pgbouncer.ini")
	files := map[string]string{
		users: fmt.Sprintf("%q %q\n", user, password),
		config: fmt.Sprintf(`[databases]
* = host=%s port=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s
admin_users = %s
max_client_conn = 1000
%s
`, host, serverPort, port, users, user, strings.Join(settings, "\n")),
	}
	paths := []string{dir}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	if err := giveAway(paths...); err != nil {
		return nil, err
	}
	cmd := exec.Command(program, config)
	cmd.Dir = dir
	asUser(cmd)
	var log output
	cmd.Stdout, cmd.Stderr = &log, &log
	exited, err := launch(cmd)
	if err != nil {
		return nil, fmt.Errorf("start pgbouncer: %w", err)
	}
	end := func() {
		_ = cmd.Process.Kill() // fails only if it has ended
		<-exited
	}
	through := *server
	through.Host = net.JoinHostPort("127.0.0.1", fmt.Sprint(port))
	console := through
	console.Path = "/pgbouncer"
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := answers(through.String())
		if err == nil {
			t.Cleanup(end)
			return &Bouncer{URL: through.String(), Admin: console.String()}, nil
		}
		select {
		case <-exited:
			return nil, fmt.Errorf("pgbouncer has ended: %w\n%s", err, log.tail())
		default:
		}
		if time.Now().After(deadline) {
			end()
			return nil, fmt.Errorf("pgbouncer does not answer: %w\n%s", err, log.tail())
		}
	}
}

// answers returns nil if there is a Postgres at the URL.
func answers(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}
