package acceptance

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestDemoReceivesAndVerifiesEveryCallback(t *testing.T) {
	parallel(t)
	for _, workload := range []string{"compute", "wait", "mixed"} {
		t.Run(workload, func(t *testing.T) {
			dir := t.TempDir()
			p := start(t, dir, nil, "demo", "--requests", "40", "--concurrency", "4", "--complexity", "1", "--workload", workload)
			if code := p.wait(t); code != 0 {
				t.Fatalf("exit code is %d:\n%s", code, p.stderr.String())
			}
			if out := p.stdout.String(); !strings.Contains(out, "Callbacks: 20 received, 20 verified") {
				t.Errorf("the demo says:\n%s", out)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
				t.Errorf("the demo leaves %v behind, %v", left, err)
			}
		})
	}
}

func TestDemoCanBeInterrupted(t *testing.T) {
	parallel(t)
	needSignals(t)
	dir := t.TempDir()
	p := start(t, dir, nil, "demo", "--requests", "100000", "--concurrency", "4", "--complexity", "10")
	p.says(t, "running at http://")
	p.signal(t, syscall.SIGINT)
	if code := p.wait(t); code == 0 {
		t.Error("exit code is 0, but the demo was not finished")
	}
	if strings.Contains(p.stdout.String(), "50000 received, 50000 verified") {
		t.Errorf("the demo says:\n%s", p.stdout.String())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the demo leaves %v behind, %v", left, err)
	}
}

func TestDemoRefusesWhatItCannotDo(t *testing.T) {
	parallel(t)
	for _, args := range []string{"--requests 0", "--requests=-2", "--concurrency 0", "--complexity 11", "--complexity 0", "--workload dance", "--workload http"} {
		t.Run(args, func(t *testing.T) {
			_, stderr, code := run(t, nil, append([]string{"demo"}, strings.Fields(args)...)...)
			flag, _, _ := strings.Cut(strings.Fields(args)[0], "=")
			oneLine(t, stderr, code, flag)
		})
	}
}
