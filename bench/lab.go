package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"time"

	"tandem/internal/loadtest"
)

// heyVersion is of github.com/rakyll/hey, the load generator that the lab is
// compared with.
const heyVersion = "v0.1.5"

// bareTarget describes the bare handler that does no work.
const bareTarget = `name: bare handler
sync: {path: /sync, accept: [200], id: /request_id, result: /result, body: '{"data":{"order":1},"workload":"none"}'}
async: {path: /async, accept: [202], body: '{"callback_url":"{{.CallbackURL}}"}'}
callback: {verify: none}
`

// measureLab compares the load generator with hey, both as processes of their
// own against the same bare handler, and looks how well it keeps to a schedule.
func measureLab(ctx context.Context, b *bench) error {
	bare, err := b.bare(ctx)
	if err != nil {
		return err
	}
	defer bare.stop()
	hey, err := installHey(ctx, b.dir)
	if err != nil {
		return err
	}

	const conns, requests = 64, 200_000
	var ratios []float64
	for round := range b.rounds {
		theirs, err := runHey(ctx, hey, bare.url+"/sync", conns, requests)
		if err != nil {
			return err
		}
		result, err := b.load(ctx, bare.url, "-n", strconv.Itoa(requests), "-c", strconv.Itoa(conns))
		if err != nil {
			return err
		}
		if l := result.Sync.Ledger; l.Completed != requests || result.Sync.Response.N() != requests {
			return fmt.Errorf("of %d requests %+v", requests, l)
		}
		ours, _ := result.Sync.Throughput()
		fmt.Printf("       round %d: hey %6.0f/s   tandem load %6.0f/s   %.2fx\n", round+1, theirs, ours, ours/theirs)
		ratios = append(ratios, ours/theirs)
	}
	b.atLeast("tandem load / hey, 64 connections", median(ratios), 1.0)

	for _, arrivals := range []string{"constant", "poisson"} {
		for _, rate := range []float64{100, 1000, 5000} {
			length := max(b.length, time.Duration(800/rate*float64(time.Second))) // p99 needs 662
			var off []float64
			var lags []time.Duration
			for range b.rounds {
				result, err := b.load(ctx, bare.url, "--rate", fmt.Sprint(rate), "--duration", length.String(), "--arrivals", arrivals)
				if err != nil {
					return err
				}
				l := result.Sync.Ledger
				off = append(off, math.Abs(float64(l.Sent)/float64(l.Planned)-1))
				lag, ok := result.Generator.Lag.Percentile(0.99)
				if !ok {
					return fmt.Errorf("too few samples of the lag: %d", result.Generator.Lag.N())
				}
				lags = append(lags, lag)
			}
			what := fmt.Sprintf("%.0f/s %s", rate, arrivals)
			missing := median(off)
			b.verdict(missing <= 0.005, "%-44s %.2f %% (at most 0.50 %%)", what+": sent, off the plan", 100*missing)
			b.atMost(what+": generator lag p99", median(lags), time.Millisecond)
		}
	}
	return nil
}

// measureMemory has the load generator send at full speed for a minute.
func measureMemory(ctx context.Context, b *bench) error {
	bare, err := b.bare(ctx)
	if err != nil {
		return err
	}
	defer bare.stop()
	short, err := b.load(ctx, bare.url, "-n", "100000", "-c", "64")
	if err != nil {
		return err
	}
	perSecond, _ := short.Sync.Throughput()
	cmd, output, err := b.loadCommand(ctx, bare.url, "-n", strconv.Itoa(int(60*perSecond)), "-c", "64")
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	p := &process{cmd: cmd}
	var seconds, megabytes []float64
	began := time.Now()
	for ticker := time.NewTicker(time.Second); ; {
		select {
		case <-ticker.C:
			mb, err := p.residentMB()
			if err != nil {
				continue // it is about to end
			}
			seconds, megabytes = append(seconds, time.Since(began).Seconds()), append(megabytes, mb)
			continue
		case err = <-ended:
		}
		ticker.Stop()
		break
	}
	if err != nil {
		return fmt.Errorf("tandem load: %w", err)
	}
	result, err := readResult(output)
	if err != nil {
		return err
	}
	largest := 0.0
	for _, mb := range megabytes {
		largest = max(largest, mb)
	}
	warm := len(seconds) / 6 // until then pools and histograms fill
	perMinute := 60 * slope(seconds[warm:], megabytes[warm:])
	fmt.Printf("       %d requests in %v, resident %.0f MB at most\n", result.Sync.Ledger.Sent, result.Duration.Round(time.Second), largest)
	b.verdict(largest < 200, "%-44s %.0f MB (under 200 MB)", "memory after a minute at full speed", largest)
	b.verdict(perMinute < 5, "%-44s %.1f MB per minute (flat: under 5)", "its slope after the first sixth", perMinute)
	return nil
}

// slope is that of the line of least squares.
func slope(xs, ys []float64) float64 {
	var x, y, xx, xy float64
	n := float64(len(xs))
	for i := range xs {
		x, y = x+xs[i]/n, y+ys[i]/n
	}
	for i := range xs {
		xx, xy = xx+(xs[i]-x)*(xs[i]-x), xy+(xs[i]-x)*(ys[i]-y)
	}
	return xy / xx
}

// loadCommand is tandem load against the bare handler, sync requests only, and
// the file that its result will be in.
func (b *bench) loadCommand(ctx context.Context, url string, args ...string) (cmd *exec.Cmd, output string, err error) {
	described := filepath.Join(b.dir, "bare.yaml")
	if err := os.WriteFile(described, []byte(bareTarget), 0o600); err != nil {
		return nil, "", err
	}
	output = filepath.Join(b.dir, "load.json")
	all := append([]string{"load", "--url", url, "--target", described, "--sync-ratio", "1", "--output", output}, args...)
	cmd = exec.CommandContext(ctx, b.program, all...)
	var said bytes.Buffer
	cmd.Stderr = &said
	return cmd, output, nil
}

func (b *bench) load(ctx context.Context, url string, args ...string) (*loadtest.Result, error) {
	cmd, output, err := b.loadCommand(ctx, url, args...)
	if err != nil {
		return nil, err
	}
	if err := cmd.Run(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != int(loadtest.ExitVoid) {
			return nil, fmt.Errorf("tandem load: %w\n%s", err, cmd.Stderr)
		}
	}
	return readResult(output)
}

func readResult(path string) (*loadtest.Result, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	read, err := loadtest.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return read.Load, nil
}

// installHey builds hey from the module proxy.
func installHey(ctx context.Context, dir string) (path string, err error) {
	install := exec.CommandContext(ctx, "go", "install", "github.com/rakyll/hey@"+heyVersion)
	install.Env = append(os.Environ(), "GOBIN="+dir)
	install.Dir = dir // outside of this module
	if out, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("install hey: %w\n%s", err, out)
	}
	path = filepath.Join(dir, "hey")
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	return path, nil
}

var heyRate = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
var heyGood = regexp.MustCompile(`\[200\]\s+([0-9]+) responses`)

func runHey(ctx context.Context, hey, url string, conns, requests int) (perSecond float64, err error) {
	out, err := exec.CommandContext(ctx, hey, "-n", strconv.Itoa(requests), "-c", strconv.Itoa(conns), "-m", "POST",
		"-T", "application/json", "-d", `{"data":{"order":1},"workload":"none"}`, url).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("hey: %w\n%s", err, out)
	}
	rate, good := heyRate.FindSubmatch(out), heyGood.FindSubmatch(out)
	if rate == nil || good == nil || string(good[1]) != strconv.Itoa(requests) {
		return 0, fmt.Errorf("hey did not get %d answers:\n%s", requests, out)
	}
	return strconv.ParseFloat(string(rate[1]), 64)
}
