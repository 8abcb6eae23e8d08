package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"tandem/server"
)

type transferCmd struct {
	From string `default:"requests.db" help:"Path of the service's SQLite file. The service must be stopped."`
	To   string `required:"" placeholder:"postgres://..." help:"An empty Postgres, or one that this file was being moved to when that was cut off. Prefer TANDEM_TRANSFER_TO for a URL with a password." env:"TANDEM_TRANSFER_TO"`
}

func (c *transferCmd) Run(ctx context.Context) error {
	if server.IsPostgres(c.From) {
		return errors.New("--from: must be the path of a file; a Postgres is copied with pg_dump")
	}
	if !server.IsPostgres(c.To) {
		return errors.New("--to: must be the URL of a Postgres, such as postgres://user:password@host/database")
	}
	var shown time.Time
	moved, err := server.Transfer(ctx, c.From, c.To, logger("warn"), func(p server.TransferProgress) {
		if p.Rows == p.Of || time.Since(shown) > time.Second {
			shown = time.Now()
			fmt.Fprintf(os.Stderr, "%s  %d of %d\n", p.Table, p.Rows, p.Of)
		}
	})
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("cut off; run it again to go on: %w", err)
		}
		return fmt.Errorf("transfer: %w", err)
	}
	if moved.Already {
		fmt.Printf("%s  was moved to %s already\n", c.From, server.HideDatabase(c.To))
		return nil
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TABLE\tROWS\tCHECKSUM ON BOTH SIDES")
	for _, t := range moved.Tables {
		fmt.Fprintf(w, "%s\t%d\t%s\n", t.Name, t.Rows, t.Checksum)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Printf("owed  %d requests to be worked, %d callbacks to be delivered\n", moved.Process, moved.Deliver)
	how := "in one go"
	if moved.Resumed {
		how = "going on from where it was cut off"
	}
	fmt.Printf("%s  moved to %s, %d rows in %v, %s\n", c.From, server.HideDatabase(c.To), moved.Moved, moved.Duration.Round(time.Millisecond), how)
	fmt.Fprintln(os.Stderr, "Start no service on the file any more: what it owes is owed by the Postgres now.")
	return nil
}
