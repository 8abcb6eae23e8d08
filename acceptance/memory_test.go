package acceptance

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// resident is the resident memory of the process in MB, and the most it ever
// was. It is measured on Linux; elsewhere ok is false.
func (p *process) resident(t *testing.T) (now, most float64, ok bool) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, 0, false
	}
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		into := map[string]*float64{"VmRSS:": &now, "VmHWM:": &most}[fields[0]]
		if into == nil {
			continue
		}
		kb, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		*into = kb / 1024
	}
	return now, most, true
}

// staysUnder wants the process never to have taken so much memory, where that
// can be told.
func (p *process) staysUnder(t *testing.T, megabytes float64) {
	t.Helper()
	_, most, ok := p.resident(t)
	if !ok || raced {
		return
	}
	t.Logf("resident memory: %.0f MB at most", most)
	if most > megabytes {
		t.Errorf("the service took %.0f MB, want under %.0f", most, megabytes)
	}
}
