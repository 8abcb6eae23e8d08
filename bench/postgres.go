package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem/internal/postgrestest"
	"tandem/webhook"
)

const (
	acceptConns = 256
	wholeConns  = 64
	wholeCount  = 6_000 // requests of one measurement of the whole path
	turns       = 4     // of one measurement, that alternate with the bare handler
)

// measurePostgres compares one, two and three processes on one Postgres that
// waits for the disk with a bare handler, and with one another: durable accepts,
// and the whole async path. A round has all of them one after the other. All
// share the processors of one machine.
func measurePostgres(ctx context.Context, b *bench) (err error) {
	s, err := newPostgresScene(ctx, b)
	if errors.Is(err, postgrestest.ErrNoPrograms) {
		b.unmeasured("postgres", "%v; install the Postgres programs (apt-get install postgresql), or put initdb and postgres on the PATH", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	for _, what := range []struct {
		name    string
		want    float64
		measure func(ctx context.Context, processes int) (measured, error)
	}{
		{"durable accepts", 0.35, s.accepts},
		{"whole async path", 0.1, s.whole},
	} {
		all := make([][]measured, b.processes)
		for round := range b.rounds {
			for i := range all {
				m, err := what.measure(ctx, i+1)
				if err != nil {
					return fmt.Errorf("%s of %d processes: %w", what.name, i+1, err)
				}
				all[i] = append(all[i], m)
				fmt.Printf("       %s, round %d, %d processes: bare %6.0f/s   tandem %6.0f/s   %.3fx\n", what.name, round+1, i+1, m.bare, m.rate, m.rate/m.bare)
			}
		}
		for i, rounds := range all {
			fmt.Printf("       a request of %s costs, with %d processes: %s\n", what.name, i+1, medianCost(rounds))
		}
		for i, rounds := range all {
			var toBare, toOne []float64
			for round, m := range rounds {
				toBare, toOne = append(toBare, m.rate/m.bare), append(toOne, m.rate/all[0][round].rate)
			}
			b.atLeast(fmt.Sprintf("%s, %d processes / bare", what.name, i+1), median(toBare), what.want)
			if i > 0 {
				b.atLeast(fmt.Sprintf("%s, %d processes / one", what.name, i+1), median(toOne), 0.85)
			}
		}
	}
	fmt.Println("       the load, the processes and Postgres share the processors of this machine: where the cost says that all of")
	fmt.Println("       them are busy, they are the limit, and not Postgres")
	verified, err := s.receiver.verify(s.secret)
	if err != nil {
		return err
	}
	b.verdict(verified == s.sent, "callbacks verified: %d of %d accepted", verified, s.sent)
	return nil
}

// postgresScene is what all measurements of the scenario share.
type postgresScene struct {
	b        *bench
	cluster  *postgrestest.Cluster
	counts   bool // the cluster counts statements
	bare     *process
	receiver *receiver
	secret   webhook.Secret
	rounds   int // of compute
	runs     int // databases made so far
	sent     int // requests with a callback
	closers  []func() error
}

func newPostgresScene(ctx context.Context, b *bench) (_ *postgresScene, err error) {
	s := &postgresScene{b: b, secret: webhook.NewSecret()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	settings := []string{"synchronous_commit=on"}
	s.cluster, err = postgrestest.Start(postgrestest.Options{Settings: append(settings, "shared_preload_libraries=pg_stat_statements", "compute_query_id=on")})
	if s.counts = err == nil; !s.counts && !errors.Is(err, postgrestest.ErrNoPrograms) { // without the extension
		s.cluster, err = postgrestest.Start(postgrestest.Options{Settings: settings})
	}
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, s.cluster.Stop)
	if s.counts {
		if err := s.exec(ctx, `CREATE EXTENSION pg_stat_statements`); err != nil {
			return nil, err
		}
	}
	if s.bare, err = b.bare(ctx); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { s.bare.stop(); return nil })
	if s.receiver, err = newReceiver(); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { s.receiver.close(); return nil })
	s.rounds, err = roundsFor(ctx, 100*time.Microsecond)
	return s, err
}

func (s *postgresScene) close() (err error) {
	for len(s.closers) > 0 {
		last := len(s.closers) - 1
		err = errors.Join(err, s.closers[last]())
		s.closers = s.closers[:last]
	}
	return err
}

func (s *postgresScene) exec(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, s.cluster.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}

// processes starts so many processes on a database of their own. It is dropped
// with them.
func (s *postgresScene) processes(ctx context.Context, n int, args ...string) (all []*process, stop func() error, err error) {
	s.runs++
	database := "run_" + strconv.Itoa(s.runs)
	if err := s.exec(ctx, `CREATE DATABASE `+database); err != nil {
		return nil, nil, err
	}
	stop = func() error {
		for _, p := range all {
			p.stop()
		}
		return s.exec(ctx, `DROP DATABASE `+database+` WITH (FORCE)`)
	}
	for range n {
		p, err := s.b.serve(ctx, s.cluster.URL(database), append([]string{"--max-pending", "100000000", "--rounds", fmt.Sprint(s.rounds),
			"--callback-per-host", "64", "--callback-secret", s.secret.Reveal()}, args...)...)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		all = append(all, p)
	}
	return all, stop, nil
}

// measured is one side by side: how fast, and at what cost.
type measured struct {
	bare, rate float64 // requests a second
	cost       cost    // of one request
}

// accepts measures processes that accept and work nothing.
func (s *postgresScene) accepts(ctx context.Context, n int) (measured, error) {
	return s.compare(ctx, n, []string{"--paused"}, acceptConns, func(processes []*process) (requests int, took time.Duration, err error) {
		began := time.Now()
		answers := make([]int, n)
		err = inParallel(n, func(i int) (err error) {
			answers[i], _, err = flood(ctx, processes[i].url+"/async", smallBody, acceptConns/n, s.b.length/turns, http.StatusAccepted)
			return err
		})
		took = time.Since(began)
		for _, n := range answers {
			requests += n
		}
		return requests, took, err
	})
}

// whole measures the whole path: accepted, worked, called back, recorded.
func (s *postgresScene) whole(ctx context.Context, n int) (measured, error) {
	var delivered int64 // on the database of this measurement
	each := wholeCount / n / turns
	return s.compare(ctx, n, nil, wholeConns, func(processes []*process) (requests int, took time.Duration, err error) {
		before := s.sent
		s.sent += n * each
		began := time.Now()
		err = inParallel(n, func(i int) error {
			return sendAll(ctx, processes[i].url+"/async", func(nr int) string {
				return fmt.Sprintf(`{"data":{"a":1.5,"b":2,"c":[3,4]},"callback_url":"%s/%d/%d/%d"}`, s.receiver.url, before, i, nr)
			}, wholeConns/n, each, http.StatusAccepted)
		})
		if err == nil {
			err = s.receiver.until(ctx, s.sent)
		}
		if err == nil {
			delivered += int64(n * each)
			err = untilDelivered(ctx, processes[0].url, delivered)
		}
		return n * each, time.Since(began), err
	})
}

// compare floods the bare handler and loads so many processes, a slice of time
// each in turns, and sees what the load costs.
func (s *postgresScene) compare(ctx context.Context, n int, args []string, conns int, load func([]*process) (requests int, took time.Duration, err error)) (m measured, err error) {
	processes, stop, err := s.processes(ctx, n, args...)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	var spent cost
	var requests int
	var took time.Duration
	for range turns {
		_, bare, err := flood(ctx, s.bare.url+"/async", smallBody, conns, s.b.length/turns, http.StatusAccepted)
		if err != nil {
			return m, err
		}
		m.bare += bare / turns
		before, err := s.costSoFar(ctx, processes)
		if err != nil {
			return m, err
		}
		more, longer, err := load(processes)
		if err != nil {
			return m, err
		}
		after, err := s.costSoFar(ctx, processes)
		if err != nil {
			return m, err
		}
		requests, took, spent = requests+more, took+longer, spent.plus(after.plus(before.times(-1)))
	}
	m.rate = float64(requests) / took.Seconds()
	m.cost = spent.times(1 / float64(requests))
	m.cost.busy = (spent.service + spent.postgres + spent.load).Seconds() / took.Seconds() / float64(runtime.NumCPU())
	return m, nil
}
