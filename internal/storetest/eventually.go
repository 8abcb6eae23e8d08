package storetest

import (
	"testing"
	"time"
)

// Eventually waits until a condition holds, and ends the test if it does not in half
// a minute. It is for what nobody tells of; an event is waited for.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain waited until %s", what)
		}
	}
}
