package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"tandem"
	"tandem/server"
)

type keysCmd struct {
	Database string `default:"requests.db" help:"The service's SQLite file or Postgres. The service may be running."`

	Create keysCreateCmd `cmd:"" help:"Make a key, and print it once."`
	List   keysListCmd   `cmd:"" help:"List the keys."`
	Rotate keysRotateCmd `cmd:"" help:"Give a key another callback secret, and print it."`
	Revoke keysRevokeCmd `cmd:"" help:"End a key."`
}

// existing opens the keys in a database that must be there.
func (c *keysCmd) existing(ctx context.Context, f func(*server.Keys) error) error {
	if _, err := os.Stat(c.Database); err != nil && !server.IsPostgres(c.Database) {
		return fmt.Errorf("--database: there is no such file: %w", err)
	}
	return c.with(ctx, f)
}

// with opens the keys for one command, and makes the file if there is none.
func (c *keysCmd) with(ctx context.Context, f func(*server.Keys) error) error {
	keys, err := server.OpenKeys(ctx, c.Database)
	if err != nil {
		return fmt.Errorf("--database: %w", err)
	}
	return errors.Join(f(keys), keys.Close())
}

// keyFault names the flag that is to blame: the one that Keys says, the name for
// what of it is in conflict, and the database for everything else.
func keyFault(err error) error {
	e, ok := errors.AsType[*tandem.Error](err)
	switch {
	case ok && e.Code == tandem.CodeInvalid:
		return fmt.Errorf("--%s: %s", e.Field, e.Message)
	case ok && e.Code == tandem.CodeConflict:
		return fmt.Errorf("--name: %s", e.Message)
	default:
		return fmt.Errorf("--database: %w", err)
	}
}

type keysCreateCmd struct {
	Name  string `required:"" help:"Whose it is: 1 to 64 of a-z, 0-9, dot, dash and underscore."`
	Rate  string `placeholder:"N/WINDOW" help:"POST requests it may make, such as 50/60s. Default: the service's --rate-limit."`
	Admin bool   `help:"It sees and acts on the requests of all, and may read /metrics."`
}

func (c *keysCreateCmd) Run(ctx context.Context, all *cli) error {
	var rate server.Rate
	if c.Rate != "" {
		var err error
		if rate, err = server.ParseRate(c.Rate); err != nil {
			return fmt.Errorf("--rate: %w", err)
		}
	}
	return all.Keys.with(ctx, func(keys *server.Keys) error {
		made, err := keys.Create(ctx, c.Name, c.Admin, rate)
		if err != nil {
			return keyFault(err)
		}
		fmt.Printf("api key          %s\ncallback secret  %s\n", made.Token, made.CallbackSecret.Reveal())
		fmt.Fprintln(os.Stderr, "The key is not shown again: only its hash is kept.")
		return nil
	})
}

type keysListCmd struct{}

func (keysListCmd) Run(ctx context.Context, all *cli) error {
	return all.Keys.existing(ctx, func(keys *server.Keys) error {
		list, err := keys.List(ctx)
		if err != nil {
			return keyFault(err)
		}
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NAME\tADMIN\tRATE\tCALLBACK SECRETS\tCREATED\tREVOKED")
		for _, k := range list {
			admin, rate, revoked := "no", "default", "-"
			if k.Admin {
				admin = "yes"
			}
			if k.Rate != (server.Rate{}) {
				rate = k.Rate.String()
			}
			if !k.RevokedAt.IsZero() {
				revoked = k.RevokedAt.UTC().Format(time.RFC3339)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", k.Name, admin, rate, k.CallbackSecrets, k.CreatedAt.UTC().Format(time.RFC3339), revoked)
		}
		return w.Flush()
	})
}

type keysRotateCmd struct {
	Name    string        `required:"" help:"The key's name."`
	Overlap time.Duration `default:"24h" help:"How long callbacks are signed with the old secrets as well."`
}

func (c *keysRotateCmd) Run(ctx context.Context, all *cli) error {
	return all.Keys.existing(ctx, func(keys *server.Keys) error {
		secret, err := keys.Rotate(ctx, c.Name, c.Overlap)
		if err != nil {
			return keyFault(err)
		}
		fmt.Printf("callback secret  %s\n", secret.Reveal())
		return nil
	})
}

type keysRevokeCmd struct {
	Name string `required:"" help:"The key's name."`
}

func (c *keysRevokeCmd) Run(ctx context.Context, all *cli) error {
	return all.Keys.existing(ctx, func(keys *server.Keys) error {
		if err := keys.Revoke(ctx, c.Name); err != nil {
			return keyFault(err)
		}
		fmt.Printf("revoked  %s\n", c.Name)
		return nil
	})
}
