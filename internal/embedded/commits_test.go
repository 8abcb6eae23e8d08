package embedded

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tandem"
	"tandem/internal/store"
)

// commits returns how many there have been.
func commits(t *testing.T, registry *prometheus.Registry) uint64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "tandem_commit_seconds" {
			return family.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	t.Fatal("commits are not counted")
	return 0
}

// What is put right about many requests shares commits: a fsync for each would
// keep a service that starts from its port for seconds.
func TestWhatIsDoneAboutManyRequestsSharesCommits(t *testing.T) {
	const n, most = 600, 150
	path := filepath.Join(t.TempDir(), "requests.db")
	b := openAt(t, path, Options{})
	var running, waited []*tandem.Request
	for range n {
		running, waited = append(running, kept(b.now())), append(waited, kept(b.now()))
	}
	accept := func(req *tandem.Request) error { return b.Accept(t.Context(), req) }
	for _, req := range waited {
		req.Waited = true
	}
	for _, err := range []error{
		store.Each(running, accept),
		store.Each(waited, accept),
		store.Each(running, func(req *tandem.Request) error { req.StartedAt = b.now(); return b.Start(t.Context(), req) }),
		b.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}

	registry := prometheus.NewRegistry()
	b = openAt(t, path, Options{Metrics: registry})
	if got := commits(t, registry); got > most {
		t.Errorf("%d requests were put right at the start with %d commits, want at most %d", 2*n, got, most)
	}
	onDisk(t, b, running[n-1], tandem.Pending, 1)
	onDisk(t, b, waited[n-1], tandem.Failed, 0)

	// And what expires.
	var expiring []*tandem.Request
	for range n {
		req := kept(b.now())
		req.NotBefore, req.ExpiresAt = b.now().Add(time.Hour), b.now()
		expiring = append(expiring, req)
	}
	if err := store.Each(expiring, accept); err != nil {
		t.Fatal(err)
	}
	before := commits(t, registry)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx, idle{}) }()
	for _, req := range expiring {
		worked, free := b.Watch(req.ID)
		if got, err := b.Request(t.Context(), req.ID); err != nil {
			t.Fatal(err)
		} else if got.Status == tandem.Pending {
			<-worked
		}
		free()
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := commits(t, registry) - before; got > most {
		t.Errorf("%d requests have expired with %d commits, want at most %d", n, got, most)
	}
	onDisk(t, b, expiring[n-1], tandem.Failed, 0)
	soundCounters(t, b)
}
