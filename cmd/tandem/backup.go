package main

import (
	"context"
	"fmt"
	"time"

	"tandem/server"
)

type backupCmd struct {
	Path     string `arg:"" help:"Where the copy goes; there must be no such file. It holds the keys and secrets of the service."`
	Database string `default:"requests.db" help:"Path of the service's SQLite file. The service may be running."`
}

func (c *backupCmd) Run(ctx context.Context) error {
	began := time.Now()
	bytes, err := server.Backup(ctx, c.Database, c.Path)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	fmt.Printf("%s  %.1f MB, checked, in %v\n", c.Path, float64(bytes)/1e6, time.Since(began).Round(time.Millisecond))
	return nil
}

type restoreCmd struct {
	Path     string `arg:"" help:"A copy that tandem backup made."`
	Database string `default:"requests.db" help:"Path of the service's SQLite file. The service must be stopped."`
	Replace  bool   `help:"If there is a database, keep it under another name."`
}

func (c *restoreCmd) Run(ctx context.Context) error {
	kept, err := server.Restore(ctx, c.Path, c.Database, c.Replace)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	fmt.Printf("%s  restored from %s\n", c.Database, c.Path)
	if kept != "" {
		fmt.Printf("%s  is the database that was replaced\n", kept)
	}
	return nil
}
