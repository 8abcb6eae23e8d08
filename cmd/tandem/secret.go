package main

import (
	"context"
	"fmt"

	"tandem/server"
	"tandem/webhook"
)

type secretCmd struct {
	New  secretNewCmd  `cmd:"" help:"Make a secret and print it, to be given to the service and to those who verify its callbacks."`
	Show secretShowCmd `cmd:"" help:"Print the secret that receivers verify callbacks with."`
}

type secretNewCmd struct{}

func (secretNewCmd) Run() error {
	fmt.Println(webhook.NewSecret().Reveal())
	return nil
}

type secretShowCmd struct {
	Database       string   `default:"requests.db" help:"The service's SQLite file or Postgres."`
	CallbackSecret []string `placeholder:"whsec_..." help:"The secret given to serve, if one was: it goes before the database's."`
}

func (c *secretShowCmd) Run(ctx context.Context) error {
	secrets := c.CallbackSecret
	if len(secrets) == 0 {
		if c.Database == server.Memory {
			return fmt.Errorf("--database: a service in memory keeps its secret to itself; start it with --callback-secret to know it")
		}
		kept, err := server.ReadSecret(ctx, c.Database)
		if err != nil {
			return fmt.Errorf("--database: %w", err)
		}
		secrets = []string{kept.Reveal()}
	}
	for _, text := range secrets {
		secret, err := webhook.ParseSecret(text)
		if err != nil {
			return fmt.Errorf("--callback-secret: %w", err)
		}
		fmt.Println(secret.Reveal())
	}
	return nil
}
