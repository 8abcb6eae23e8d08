// Command bench measures the service against bare handlers, side by side in
// one run, and prints ratios. Rounds alternate between the two, so that what
// the machine does meanwhile hits both, and the median of the rounds' ratios
// is the figure. It ends with 1 if a figure misses its target.
//
//	go run ./bench            all scenarios
//	go run ./bench accept     one of them
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"
)

// scenario is one comparison.
type scenario struct {
	name    string
	about   string
	measure func(ctx context.Context, b *bench) error
}

var scenarios = []scenario{
	{"accept", "durable accepts against a bare handler, 256 connections", measureAccept},
	{"async", "the whole async path against a bare handler, 64 connections", measureAsync},
	{"postgres", "one, two and three processes on one Postgres against a bare handler", measurePostgres},
	{"saturated", "acceptance while all workers are busy, against an idle service", measureSaturated},
	{"sync", "the sync path against a bare handler that runs the same work", measureSync},
	{"overload", "ten times the capacity, both patterns, against the peak", measureOverload},
	{"history", "a million requests on file, and the same on Postgres", measureHistory},
	{"backlog", "a file of a million requests that wait", measureBacklog},
	{"retention", "acceptance while old requests are deleted, against keeping them", measureRetention},
	{"lab", "the load generator against hey, and how it keeps to a schedule", measureLab},
	{"memory", "the load generator at full speed for a minute", measureMemory},
}

// bench is one run under way.
type bench struct {
	program   string        // path of the tandem binary
	dir       string        // for databases and logs
	rounds    int           // of each comparison
	length    time.Duration // of one side of a round
	rows      int           // of the history
	processes int           // at most, on one Postgres
	missed    []string
	skipped   []string // scenarios that could not be measured here
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "bare" { // the other side, as a process of its own
		serveBare(os.Args[2:])
		return
	}
	b := &bench{}
	flag.IntVar(&b.rounds, "rounds", 5, "rounds of each comparison")
	flag.DurationVar(&b.length, "length", 3*time.Second, "length of each side of a round")
	flag.IntVar(&b.rows, "rows", 1_000_000, "rows of the history scenario")
	flag.IntVar(&b.processes, "processes", 3, "most processes of the postgres scenario")
	flag.StringVar(&b.program, "program", "", "path of a built tandem; without it one is built")
	flag.Parse()
	if err := b.run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(names []string) error {
	for _, name := range names {
		if !slices.ContainsFunc(scenarios, func(s scenario) bool { return s.name == name }) {
			return fmt.Errorf("unknown scenario %q", name)
		}
	}
	if err := b.check(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if b.dir, err = os.MkdirTemp("", "tandem-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.program == "" {
		if b.program, err = build(ctx, b.dir); err != nil {
			return err
		}
	}
	fmt.Printf("%s, %s/%s, %d cores, %s\n", time.Now().UTC().Format(time.DateOnly), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	for _, s := range scenarios {
		if len(names) > 0 && !slices.Contains(names, s.name) {
			continue
		}
		fmt.Printf("\n%s: %s\n", s.name, s.about)
		if err := s.measure(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if len(b.missed) > 0 {
		return fmt.Errorf("missed: %s", strings.Join(b.missed, "; "))
	}
	if len(b.skipped) > 0 {
		fmt.Printf("\nall targets that were measured are reached; not measured: %s\n", strings.Join(b.skipped, ", "))
		return nil
	}
	fmt.Println("\nall targets reached")
	return nil
}

// check returns what is wrong with the flags.
func (b *bench) check() error {
	var faults []error
	for _, flag := range []struct {
		name  string
		value int64
	}{{"rounds", int64(b.rounds)}, {"length", int64(b.length)}, {"rows", int64(b.rows)}, {"processes", int64(b.processes)}} {
		if flag.value <= 0 {
			faults = append(faults, fmt.Errorf("-%s must be more than 0", flag.name))
		}
	}
	return errors.Join(faults...)
}

// unmeasured says why a scenario cannot be measured on this machine, and how it
// could be.
func (b *bench) unmeasured(name, format string, args ...any) {
	fmt.Printf("  NOT MEASURED: "+format+"\n", args...)
	b.skipped = append(b.skipped, name)
}

// atLeast prints a ratio and holds it against its target.
func (b *bench) atLeast(what string, got, want float64) {
	b.verdict(got >= want, "%-44s %.2fx (at least %.2fx)", what, got, want)
}

// atMost prints a duration and holds it against its target.
func (b *bench) atMost(what string, got, want time.Duration) {
	b.verdict(got <= want, "%-44s %v (at most %v)", what, got.Round(10*time.Microsecond), want.Round(10*time.Microsecond))
}

func (b *bench) verdict(ok bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if ok {
		fmt.Println("  ok  ", text)
		return
	}
	fmt.Println("  MISS", text)
	b.missed = append(b.missed, strings.Join(strings.Fields(text), " "))
}

func median[T int64 | float64 | time.Duration](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func quantile(values []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
