package main

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// cost is what was spent: so far, or on one request.
type cost struct {
	transactions float64
	statements   float64 // as Postgres counts them; not a number if it does not
	roundTrips   float64 // as the processes count them
	wal          float64 // bytes
	syncs        float64 // of the WAL

	service, postgres, load time.Duration // processor time; load is this process, its receiver included
	busy                    float64       // of all processors: the part that these three have had
}

// costSoFar reads what the cluster and the processes have spent since they
// were started.
func (s *postgresScene) costSoFar(ctx context.Context, processes []*process) (c cost, err error) {
	conn, err := pgx.Connect(ctx, s.cluster.URL("postgres"))
	if err != nil {
		return c, err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, `SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8,
		(SELECT sum(xact_commit)::float8 FROM pg_stat_database), (SELECT wal_sync::float8 FROM pg_stat_wal)`).Scan(&c.wal, &c.transactions, &c.syncs)
	if err != nil {
		return c, err
	}
	c.statements = math.NaN()
	if s.counts {
		if err := conn.QueryRow(ctx, `SELECT sum(calls)::float8 FROM pg_stat_statements`).Scan(&c.statements); err != nil {
			return c, err
		}
	}
	for _, p := range processes {
		n, err := metric(ctx, p.url, "tandem_postgres_round_trips_total")
		if err != nil {
			return c, err
		}
		c.roundTrips += n
		used, err := p.cpu()
		if err != nil {
			return c, err
		}
		c.service += used
	}
	if c.postgres, err = s.cluster.ProcessorTime(); err != nil {
		return c, err
	}
	c.load, err = (&process{}).cpu()
	return c, err
}

func (c cost) plus(d cost) cost {
	return cost{c.transactions + d.transactions, c.statements + d.statements, c.roundTrips + d.roundTrips, c.wal + d.wal, c.syncs + d.syncs,
		c.service + d.service, c.postgres + d.postgres, c.load + d.load, 0}
}

func (c cost) times(n float64) cost {
	of := func(d time.Duration) time.Duration { return time.Duration(float64(d) * n) }
	return cost{c.transactions * n, c.statements * n, c.roundTrips * n, c.wal * n, c.syncs * n, of(c.service), of(c.postgres), of(c.load), 0}
}

func (c cost) String() string {
	statements := "statements not counted"
	if !math.IsNaN(c.statements) {
		statements = fmt.Sprintf("%.2f statements", c.statements)
	}
	return fmt.Sprintf("%s in %.2f round trips and %.3f transactions, %.0f bytes of WAL, %.3f syncs; processor time: %d us service, %d us postgres, %d us load, together %.0f%% of the processors",
		statements, c.roundTrips, c.transactions, c.wal, c.syncs, c.service.Microseconds(), c.postgres.Microseconds(), c.load.Microseconds(), 100*c.busy)
}

// medianCost is the median of each part.
func medianCost(rounds []measured) cost {
	of := func(part func(cost) float64) float64 {
		values := make([]float64, len(rounds))
		for i, m := range rounds {
			values[i] = part(m.cost)
		}
		return median(values)
	}
	took := func(part func(cost) time.Duration) time.Duration {
		return time.Duration(of(func(c cost) float64 { return float64(part(c)) }))
	}
	return cost{
		transactions: of(func(c cost) float64 { return c.transactions }), statements: of(func(c cost) float64 { return c.statements }),
		roundTrips: of(func(c cost) float64 { return c.roundTrips }), wal: of(func(c cost) float64 { return c.wal }),
		syncs:   of(func(c cost) float64 { return c.syncs }),
		service: took(func(c cost) time.Duration { return c.service }), postgres: took(func(c cost) time.Duration { return c.postgres }),
		load: took(func(c cost) time.Duration { return c.load }), busy: of(func(c cost) float64 { return c.busy }),
	}
}

// metric reads one metric without labels of a service.
func metric(ctx context.Context, url, name string) (float64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if value, found := strings.CutPrefix(lines.Text(), name+" "); found {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("%s/metrics has no %s", url, name)
}

// pid is of the process, or of this one if it was not started by us.
func (p *process) pid() int {
	if p.cmd == nil {
		return os.Getpid()
	}
	return p.cmd.Process.Pid
}
