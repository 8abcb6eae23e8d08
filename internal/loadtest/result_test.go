package loadtest

import (
	"strings"
	"testing"
)

func TestLedgerBalance(t *testing.T) {
	balanced := Ledger{Planned: 10, Sent: 9, Unsent: 1, Accepted: 6, Rejected: 1, Errored: 1, TimedOut: 1, Completed: 3, Failed: 2, Missing: 1}
	if err := balanced.Balance(); err != nil {
		t.Errorf("balanced: %v", err)
	}
	for name, spoil := range map[string]func(*Ledger){
		"planned =":  func(l *Ledger) { l.Unsent++ },
		"sent =":     func(l *Ledger) { l.Rejected++ },
		"accepted =": func(l *Ledger) { l.Missing-- },
	} {
		l := balanced
		spoil(&l)
		if err := l.Balance(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("with %s spoilt: %v", name, err)
		}
	}
}
