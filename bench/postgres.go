package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem/internal/postgrestest"
	"tandem/webhook"
)

// measurePostgres compares one, two and three processes on one Postgres that
// waits for the disk with a bare handler: durable accepts, and the whole async
// path. All share the processors of one machine.
func measurePostgres(ctx context.Context, b *bench) error {
	for processes := 1; processes <= 3; processes++ {
		if err := measureProcesses(ctx, b, processes); err != nil {
			return err
		}
	}
	return nil
}

func measureProcesses(ctx context.Context, b *bench, processes int) (err error) {
	cluster, err := postgrestest.Start(postgrestest.Options{Settings: []string{"synchronous_commit=on"}})
	if err != nil {
		return err
	}
	defer func() {
		if stopErr := cluster.Stop(); err == nil {
			err = stopErr
		}
	}()
	bare, err := b.bare(ctx)
	if err != nil {
		return err
	}
	defer bare.stop()
	receiver, err := newReceiver()
	if err != nil {
		return err
	}
	defer receiver.close()
	rounds, err := roundsFor(ctx, 100*time.Microsecond)
	if err != nil {
		return err
	}
	secret := webhook.NewSecret()
	start := func(args ...string) (urls []string, stop func(), err error) {
		var all []*process
		stop = func() {
			for _, p := range all {
				p.stop()
			}
		}
		for range processes {
			p, err := start(ctx, b.dir, b.program, append([]string{"serve", "--mode", "demo", "--addr", "127.0.0.1:0", "--database", cluster.URL("postgres"),
				"--max-pending", "100000000", "--rounds", fmt.Sprint(rounds), "--callback-per-host", "64", "--callback-secret", secret.Reveal()}, args...)...)
			if err != nil {
				stop()
				return nil, nil, err
			}
			all, urls = append(all, p), append(urls, p.url)
		}
		return urls, stop, nil
	}
	// The whole path is first: accepts that nobody works would be worked by it.
	whole := func() error {
		urls, stop, err := start()
		if err != nil {
			return err
		}
		defer stop()
		const conns, count = 64, 5_000
		var ratios []float64
		for round := range b.rounds {
			plain, err := flood(ctx, bare.url+"/async", smallBody, conns, b.length, http.StatusAccepted)
			if err != nil {
				return err
			}
			began := time.Now()
			err = inParallel(processes, func(i int) error {
				return sendAll(ctx, urls[i]+"/async", func(n int) string {
					return fmt.Sprintf(`{"data":{"a":1.5,"b":2,"c":[3,4]},"callback_url":"%s/%d/%d/%d"}`, receiver.url, round, i, n)
				}, conns/processes, count, http.StatusAccepted)
			})
			if err != nil {
				return err
			}
			if err := untilDelivered(ctx, urls[0], int64((round+1)*processes*count)); err != nil {
				return err
			}
			ours := float64(processes*count) / time.Since(began).Seconds()
			fmt.Printf("       whole path, %d processes: bare %6.0f/s   tandem %6.0f/s   %.3fx\n", processes, plain, ours, ours/plain)
			ratios = append(ratios, ours/plain)
		}
		b.atLeast(fmt.Sprintf("whole async path, %d processes / bare", processes), median(ratios), 0.1)
		verified, err := receiver.verify(secret)
		if err != nil {
			return err
		}
		b.verdict(verified == b.rounds*processes*count, "callbacks verified: %d of %d accepted", verified, b.rounds*processes*count)
		return nil
	}
	if err := whole(); err != nil {
		return err
	}
	urls, stop, err := start("--paused")
	if err != nil {
		return err
	}
	defer stop()
	const conns = 256
	var ratios, bytes, transactions []float64
	for range b.rounds {
		plain, err := flood(ctx, bare.url+"/async", smallBody, conns, b.length, http.StatusAccepted)
		if err != nil {
			return err
		}
		before, err := costOf(ctx, cluster)
		if err != nil {
			return err
		}
		rates := make([]float64, processes)
		err = inParallel(processes, func(i int) (err error) {
			rates[i], err = flood(ctx, urls[i]+"/async", smallBody, conns/processes, b.length, http.StatusAccepted)
			return err
		})
		if err != nil {
			return err
		}
		after, err := costOf(ctx, cluster)
		if err != nil {
			return err
		}
		ours := 0.0
		for _, rate := range rates {
			ours += rate
		}
		fmt.Printf("       accepts, %d processes: bare %6.0f/s   tandem %6.0f/s   %.3fx\n", processes, plain, ours, ours/plain)
		n := ours * b.length.Seconds()
		ratios, bytes, transactions = append(ratios, ours/plain), append(bytes, (after.wal-before.wal)/n), append(transactions, (after.transactions-before.transactions)/n)
	}
	fmt.Printf("       an accept costs %.0f bytes of WAL and %.4f transactions, River's idle ones included\n", median(bytes), median(transactions))
	b.atLeast(fmt.Sprintf("durable accepts, %d processes / bare", processes), median(ratios), 0.35)
	return nil
}

// cost is what a Postgres has written and committed so far.
type cost struct{ wal, transactions float64 }

func costOf(ctx context.Context, cluster *postgrestest.Cluster) (c cost, err error) {
	conn, err := pgx.Connect(ctx, cluster.URL("postgres"))
	if err != nil {
		return c, err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, `SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8, xact_commit::float8
		FROM pg_stat_database WHERE datname = current_database()`).Scan(&c.wal, &c.transactions)
	return c, err
}
