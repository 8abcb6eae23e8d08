package embedded

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"tandem"
	"tandem/internal/engine"
)

// idle runs nothing.
type idle struct{ engine.Steps }

func (idle) Reserve(ctx context.Context, _ string) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func (idle) TooOld() (owed, due time.Time) { return time.Time{}, time.Time{} }

func TestAFullDiskRefusesWritesAndLosesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "requests.db")
	b := openAt(t, path, Options{})
	ctx := t.Context()
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- b.Run(running, idle{}) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	// On the writer's own connection: the limit is the connection's.
	limit := func(pages string) {
		t.Helper()
		err := b.do(ctx, func(t *transaction) error {
			_, err := b.writer.conn.ExecContext(ctx, `PRAGMA max_page_count = `+pages)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	sync := kept(b.now())
	sync.Mode, sync.Status, sync.StartedAt, sync.Starts, sync.Epoch = tandem.Sync, tandem.Processing, sync.CreatedAt, 1, 1
	b.Begin(sync)
	var accepted []string
	accept := func() error {
		req := kept(b.now())
		err := b.Accept(ctx, req)
		if err == nil {
			accepted = append(accepted, req.ID)
		}
		return err
	}
	if err := accept(); err != nil {
		t.Fatal(err)
	}

	limit("1") // less than there is: no page more
	var refused error
	for range 100_000 {
		if refused = accept(); refused != nil {
			break
		}
	}
	fault, ok := refused.(*tandem.Error)
	if !ok || fault.Code != tandem.CodeUnavailable || fault.RetryAfter < time.Second {
		t.Fatalf("an accept on a full disk gives %#v", refused)
	}
	late := *sync
	late.Status, late.WorkedAt, late.Result = tandem.Completed, b.now(), make([]byte, 100<<10)
	for i := range late.Result {
		late.Result[i] = '1'
	}
	if err := b.Complete(ctx, &late); tandem.CodeOf(err) != tandem.CodeUnavailable {
		t.Errorf("a large outcome on a full disk gives %v", err)
	}
	for _, id := range accepted { // reads go on
		if _, err := b.Request(ctx, id); err != nil {
			t.Errorf("accepted, and on a full disk reading it gives %v", err)
		}
	}
	if n, _, err := b.Backlog(ctx); n != len(accepted) || err != nil {
		t.Errorf("the backlog is %d, %v, want %d", n, err, len(accepted))
	}

	limit("1000000")
	if err := accept(); err != nil {
		t.Errorf("an accept once there is room gives %v", err)
	}
	if err := b.Complete(ctx, &late); err != nil { // as the engine insists
		t.Errorf("the large outcome once there is room gives %v", err)
	}
	row, err := b.Request(ctx, sync.ID)
	if err != nil || row.Status != tandem.Completed || len(row.Result) != len(late.Result) {
		t.Errorf("the sync request whose outcome found no room at first reads %s, %v", row.Status, err)
	}
	soundCounters(t, b)
}
