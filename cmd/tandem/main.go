// Command tandem puts the same unit of work behind a synchronous and an
// asynchronous HTTP API, and measures which of the two a caller should use.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"

	"github.com/alecthomas/kong"

	"tandem/work"
)

// cli is the command line: one field a subcommand, each in a file of its own.
// Every flag is also an environment variable, TANDEM_ and its name.
type cli struct {
	Serve    serveCmd    `cmd:"" help:"Run the service."`
	Demo     demoCmd     `cmd:"" help:"Start a service, drive both patterns, and print the comparison."`
	Load     loadCmd     `cmd:"" help:"Load a service with both patterns, and report."`
	Compare  compareCmd  `cmd:"" help:"Compare the patterns in randomised blocks, with confidence intervals."`
	Search   searchCmd   `cmd:"" help:"Search the rate that each pattern sustains under an objective."`
	Report   reportCmd   `cmd:"" help:"Render result files anew."`
	Check    checkCmd    `cmd:"" help:"Probe the defences of a running instance."`
	Keys     keysCmd     `cmd:"" help:"The API keys of a service: create, list, rotate, revoke."`
	Backup   backupCmd   `cmd:"" help:"Copy the database of a service, which may be running."`
	Restore  restoreCmd  `cmd:"" help:"Put a backup in the place of the database of a service that is stopped."`
	Doctor   doctorCmd   `cmd:"" help:"Check the database of a service, and repair its counters."`
	Migrate  migrateCmd  `cmd:"" help:"Bring the schema of a Postgres up to date."`
	Transfer transferCmd `cmd:"" help:"Move a service from its file to a Postgres, what it still owes included."`
	Secret   secretCmd   `cmd:"" help:"The secret that callbacks are signed with."`
	Version  versionCmd  `cmd:"" help:"Print the version."`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tandem:", err)
		code := 1
		if e, ok := errors.AsType[exitCode](err); ok {
			code = int(e.code)
		}
		os.Exit(code)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the program at once

	var c cli
	parser, err := kong.New(&c,
		kong.Name("tandem"),
		kong.Description("The same unit of work behind a synchronous and an asynchronous HTTP API, and a fair comparison of the two."),
		kong.DefaultEnvars("TANDEM"),
		kong.Vars{"rounds": strconv.Itoa(work.DefaultRounds)},
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(&c),
	)
	if err != nil {
		return err
	}
	command, err := parser.Parse(args)
	if err != nil {
		return fmt.Errorf("%w; see tandem --help", err)
	}
	return command.Run()
}

type versionCmd struct{}

func (versionCmd) Run() error {
	fmt.Printf("tandem %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}

// release is the version of a release, set when it is linked.
var release string

// version is the release, else the commit that was built, else "devel".
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel-" + s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}
