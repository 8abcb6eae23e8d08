package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"tandem/server"
)

func TestEveryOptionOfAServerHasItsFlag(t *testing.T) {
	parser, err := kong.New(&serveCmd{}, kong.Vars{"rounds": "1"})
	if err != nil {
		t.Fatal(err)
	}
	var flags []string
	for _, flag := range parser.Model.Flags {
		flags = append(flags, "--"+flag.Name)
	}
	options := reflect.TypeFor[server.Options]()
	for i := range options.NumField() {
		name := options.Field(i).Name
		switch flag, ok := flagOf[name]; {
		case slices.Contains([]string{"Workloads", "Version", "Logger"}, name): // only of programs that embed a server
		case !ok:
			t.Errorf("a fault of %s could not name its flag", name)
		case !slices.Contains(flags, flag):
			t.Errorf("%s is said to be set by %s, and there is no such flag among %s", name, flag, strings.Join(flags, " "))
		}
	}
	for name := range flagOf {
		if _, ok := options.FieldByName(name); !ok {
			t.Errorf("there is no option %s", name)
		}
	}
}

func TestFaultsNameFlags(t *testing.T) {
	c := serveCmd{
		Mode: "demo", Roles: []string{"api"}, RequireKeys: true, Workers: -1, TLSCert: "cert.pem", DatabasePollOnly: true,
		IOConcurrency: 1, MaxPending: 1, Rounds: 1, CallbackPerHost: 1, MaxConnections: 1,
		SyncQueueTimeout: 1, WorkTimeout: 1, DrainTimeout: 1, CallbackTimeout: 1,
	}
	_, err := c.options()
	want := []string{
		"--callback-max-age: must not be 0; leave it out for the default",
		"--database: a service in memory can have no API keys; give it a file, or leave out --require-keys",
		"--database-poll-only: is for a Postgres; give --database its URL",
		"--tls-key: must be given with --tls-cert",
		"--roles: the one process that a file can have takes all roles; give --database a postgres:// URL to have more processes",
		"--workers: must be from 1 to 1024, is -1",
	}
	if err == nil || err.Error() != strings.Join(want, "\n") {
		t.Errorf("got\n%v\nwant\n%s", err, strings.Join(want, "\n"))
	}
}
