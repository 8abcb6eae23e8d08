package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"tandem/internal/loadtest"
	"tandem/webhook"
)

// measureOverload offers ten times the capacity, of work that computes, by the
// lab, one pattern after the other, and compares goodput with its peak.
func measureOverload(ctx context.Context, b *bench) error {
	const complexity, slots = "10", 2 // about 50 ms each
	for _, mode := range []string{"sync", "async"} {
		var ratios, p95s []float64
		for round := range b.rounds {
			secret := webhook.NewSecret()
			service, err := b.tandem(ctx, "--workers", fmt.Sprint(slots), "--max-pending", "200", "--callback-per-host", "64", "--callback-secret", secret.Reveal())
			if err != nil {
				return err
			}
			load := func(args ...string) (map[string]*float64, error) {
				ratio := map[string]string{"sync": "1", "async": "0"}[mode]
				return b.figures(ctx, service.url, secret, append([]string{"--sync-ratio", ratio, "--complexity", complexity}, args...)...)
			}
			peak, err := load("-n", "200", "-c", "8")
			var over map[string]*float64
			capacity := 0.0
			if err == nil {
				if capacity, err = figure(peak, mode+".completed_per_s"); err == nil {
					over, err = load("--rate", fmt.Sprintf("%.0f", 10*capacity), "--duration", (10 * time.Second).String())
				}
			}
			var memory float64
			if err == nil {
				memory, err = service.residentMB()
			}
			service.stop()
			if err != nil {
				return err
			}
			goodput, err := figure(over, mode+".completed_per_s")
			if err != nil {
				return err
			}
			p95, err := figure(over, mode+".response.p95")
			if err != nil { // too few for that: the longest, which is no less
				p95, err = figure(over, mode+".response.max")
			}
			if err != nil {
				return err
			}
			fmt.Printf("       round %d: %s peak %5.1f/s   at ten times that %5.1f/s   p95 %4.0f ms   %.0f MB\n", round+1, mode, capacity, goodput, 1000*p95, memory)
			b.verdict(memory < 300, "%-44s %.0f MB (under 300 MB)", mode+": memory", memory)
			ratios, p95s = append(ratios, goodput/capacity), append(p95s, p95)
		}
		b.atLeast(mode+" goodput at ten times the capacity / peak", median(ratios), 0.90)
		b.atMost(mode+" response p95", time.Duration(median(p95s)*float64(time.Second)), 2*time.Second)
	}
	return nil
}

// figures runs tandem load and returns the figures of its report.
func (b *bench) figures(ctx context.Context, url string, secret webhook.Secret, args ...string) (map[string]*float64, error) {
	output := filepath.Join(b.dir, "overload.json")
	load := exec.CommandContext(ctx, b.program, append([]string{"load", "--url", url, "--callback-port", "0", "--output", output}, args...)...)
	load.Env = append(os.Environ(), "TANDEM_CALLBACK_SECRET="+secret.Reveal())
	if out, err := load.CombinedOutput(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != int(loadtest.ExitVoid) {
			return nil, fmt.Errorf("tandem load: %w\n%s", err, out)
		}
	}
	text, err := exec.CommandContext(ctx, b.program, "report", "--json", output).Output()
	if err != nil {
		return nil, fmt.Errorf("tandem report: %w", err)
	}
	var report struct {
		Figures map[string]*float64 `json:"figures"`
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return nil, fmt.Errorf("tandem report: %w", err)
	}
	return report.Figures, nil
}

func figure(figures map[string]*float64, name string) (float64, error) {
	if v := figures[name]; v != nil {
		return *v, nil
	}
	return 0, fmt.Errorf("the report has no %s", name)
}
