package embedded

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"tandem"
)

// Each of very many hosts is owed one callback, in an hour. What is kept of each
// is small; a million of them are within what a small machine has.
func TestAHostThatIsOwedACallbackTakesLittleMemory(t *testing.T) {
	const hosts = 100_000
	d := newDeliveries(func(context.Context, string, int) ([]debt, error) { return nil, nil }, Options{Now: time.Now, MaxAttempts: 256})
	before := heapInUse()
	for i := range hosts {
		req := &tandem.Request{ID: tandem.NewID(time.Now())}
		req.Callback.URL = fmt.Sprintf("http://host-%d.example/hook", i)
		req.Callback.NextAt = time.Now().Add(time.Hour)
		d.push(req)
	}
	each := float64(heapInUse()-before) / hosts
	t.Logf("%.0f bytes a host", each)
	if each > 500 {
		t.Errorf("a host takes %.0f bytes, want at most 500", each)
	}
	runtime.KeepAlive(d)
}

func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
