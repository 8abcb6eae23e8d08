package distributed

import (
	"context"
	"log/slog"

	"tandem/internal/postgrestest"
)

// Migrated is a database with nothing but the schema in it, for all tests of the
// package.
var Migrated = postgrestest.Template{Prepare: func(url string) error {
	return Migrate(context.Background(), url, slog.New(slog.DiscardHandler))
}}
