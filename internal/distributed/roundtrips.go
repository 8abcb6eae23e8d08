package distributed

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// roundTrips counts how often this process has waited for an answer of Postgres,
// River included: what a network between the two costs it.
type roundTrips struct{ prometheus.Counter }

func newRoundTrips() roundTrips {
	return roundTrips{prometheus.NewCounter(prometheus.CounterOpts{
		Name: "tandem_postgres_round_trips_total", Help: "Times that an answer of Postgres was waited for.",
	})}
}

// TraceQueryStart implements pgx.QueryTracer.
func (r roundTrips) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	r.Inc()
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (roundTrips) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TracePrepareStart implements pgx.PrepareTracer.
func (r roundTrips) TracePrepareStart(ctx context.Context, _ *pgx.Conn, data pgx.TracePrepareStartData) context.Context {
	r.Inc()
	return ctx
}

// TracePrepareEnd implements pgx.PrepareTracer.
func (roundTrips) TracePrepareEnd(context.Context, *pgx.Conn, pgx.TracePrepareEndData) {}

// TraceBatchStart implements pgx.BatchTracer.
func (r roundTrips) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	r.Inc()
	return ctx
}

// TraceBatchQuery implements pgx.BatchTracer.
func (roundTrips) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements pgx.BatchTracer.
func (roundTrips) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}
