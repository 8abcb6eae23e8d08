package main

import (
	"context"
	"errors"
	"fmt"

	"tandem/server"
)

type migrateCmd struct {
	Database string `required:"" placeholder:"postgres://..." help:"The Postgres. Its user must be allowed to make tables. Prefer TANDEM_DATABASE for a URL with a password."`
}

func (c *migrateCmd) Run(ctx context.Context) error {
	if !server.IsPostgres(c.Database) {
		return errors.New("--database: must be the URL of a Postgres, such as postgres://user:password@host/database; a file is brought up to date by whatever opens it")
	}
	if err := server.Migrate(ctx, c.Database, logger("info")); err != nil {
		return fmt.Errorf("--database: %w", err)
	}
	fmt.Printf("up to date  %s\n", server.HideDatabase(c.Database))
	return nil
}
