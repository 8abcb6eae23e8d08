package embedded

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/storetest"
)

// kept is a request of the tests, accepted at a time, without a callback.
func kept(at time.Time) *tandem.Request {
	req := storetest.Pending("")
	req.ID, req.CreatedAt = tandem.NewID(at), at
	return req
}

func openAt(t *testing.T, path string, opts Options) *Backend {
	t.Helper()
	b, err := Open(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// finishWork takes an accepted request to its outcome.
func finishWork(t *testing.T, b *Backend, req *tandem.Request, at time.Time) {
	t.Helper()
	req.StartedAt = at
	if err := b.Start(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	req.Status, req.Result, req.WorkedAt = tandem.Completed, []byte(`{"sum":1}`), at.Add(time.Millisecond)
	if req.Callback.State == tandem.CallbackPending {
		req.Callback.NextAt = req.WorkedAt
	}
	if err := b.Complete(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

// attempt records a delivery that went well, or one after which another is due.
func attempt(t *testing.T, b *Backend, req *tandem.Request, at time.Time, delivered bool) {
	t.Helper()
	a := tandem.Attempt{Number: 1, At: at, Status: 200}
	req.Callback.Attempts = 1
	if delivered {
		req.Status, req.Callback.State, req.Callback.NextAt = tandem.CallbackSent, tandem.CallbackDelivered, time.Time{}
	} else {
		a.Status, a.Class = 503, tandem.ClassServer
		req.Callback.NextAt = at.Add(time.Hour)
	}
	if err := b.RecordAttempt(t.Context(), req, a); err != nil {
		t.Fatal(err)
	}
}

func TestPruneDeletesWhatIsSettledAndOldAndNothingElse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "requests.db")
	b := openAt(t, path, Options{})
	ctx := t.Context()
	cut := time.Now().UTC().Truncate(time.Microsecond)
	old, young := cut.Add(-time.Hour), cut.Add(time.Minute)
	accept := func(at time.Time, url string) *tandem.Request {
		req := kept(at)
		if url != "" {
			req.Callback = tandem.Callback{URL: url, State: tandem.CallbackPending, MaxAttempts: 3}
		}
		if err := b.Accept(ctx, req); err != nil {
			t.Fatal(err)
		}
		return req
	}
	const hook = "http://example.com/hook"
	all := make(map[string]*tandem.Request)

	all["pending and old"] = accept(old, "")
	processing := accept(old, "")
	processing.StartedAt = old
	if err := b.Start(ctx, processing); err != nil {
		t.Fatal(err)
	}
	all["processing and old"] = processing
	all["completed and old: gone"] = accept(old, "")
	finishWork(t, b, all["completed and old: gone"], old)
	all["accepted long ago, worked of late"] = accept(old, "")
	finishWork(t, b, all["accepted long ago, worked of late"], young)
	all["owed a callback, never attempted"] = accept(old, hook)
	finishWork(t, b, all["owed a callback, never attempted"], old)
	all["owed a callback, attempted"] = accept(old, hook)
	finishWork(t, b, all["owed a callback, attempted"], old)
	attempt(t, b, all["owed a callback, attempted"], old, false)
	all["delivered long ago: gone"] = accept(old, hook)
	finishWork(t, b, all["delivered long ago: gone"], old)
	attempt(t, b, all["delivered long ago: gone"], old, true)
	all["worked long ago, delivered of late"] = accept(old, hook)
	finishWork(t, b, all["worked long ago, delivered of late"], old)
	attempt(t, b, all["worked long ago, delivered of late"], young, true)
	all["delivered long ago, asked for again"] = accept(old, hook)
	finishWork(t, b, all["delivered long ago, asked for again"], old)
	attempt(t, b, all["delivered long ago, asked for again"], old, true)
	again := all["delivered long ago, asked for again"]
	again.Callback.NextAt, again.Callback.Since = young, young
	if err := b.Redeliver(ctx, again); err != nil {
		t.Fatal(err)
	}
	failed := kept(old)
	failed.Mode, failed.Status, failed.StartedAt, failed.WorkedAt, failed.Starts, failed.Epoch = tandem.Sync, tandem.Failed, old, old, 1, 1
	failed.Failure = &tandem.Failure{Code: tandem.FailureWork, Message: "no"}
	if err := b.Complete(ctx, failed); err != nil {
		t.Fatal(err)
	}
	all["a sync one that failed: gone"] = failed
	keyed := kept(old)
	key := engine.IdempotencyKey{Key: "order-17"}
	if _, err := b.Claim(ctx, keyed, key); err != nil {
		t.Fatal(err)
	}
	finishWork(t, b, keyed, old)
	all["submitted under a key: gone"] = keyed
	all["young"] = accept(young, "")
	finishWork(t, b, all["young"], young)

	n, err := b.prune(ctx, cut)
	if err != nil || n != 4 {
		t.Errorf("prune deleted %d, %v; want 4", n, err)
	}
	for what, req := range all {
		_, err := b.Request(ctx, req.ID)
		if gone := tandem.CodeOf(err) == tandem.CodeNotFound; gone != strings.HasSuffix(what, ": gone") {
			t.Errorf("%s: reading it gives %v", what, err)
		}
	}
	if holder, err := b.Holder(ctx, "", key); holder != "" || err != nil {
		t.Errorf("the key of a deleted request stands for %q, %v", holder, err)
	}
	counts, err := b.Counts(ctx, tandem.Anyone)
	if err != nil || counts.Pruned != 4 {
		t.Errorf("%d are counted as deleted, %v; want 4", counts.Pruned, err)
	}
	if n, err := b.prune(ctx, cut); n != 0 || err != nil {
		t.Errorf("a second prune deletes %d, %v", n, err)
	}
	soundCounters(t, b)
}

func TestWhatIsOwedAgainBetweenTheLookAndTheDeleteStays(t *testing.T) {
	t.Parallel()
	b := openAt(t, filepath.Join(t.TempDir(), "requests.db"), Options{})
	old := b.now().Add(-time.Hour)
	req := kept(old)
	req.Callback = tandem.Callback{URL: "http://example.com/hook", State: tandem.CallbackPending, MaxAttempts: 3}
	if err := b.Accept(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	finishWork(t, b, req, old)
	attempt(t, b, req, old, true)
	due, _, _, err := b.settledBefore(t.Context(), tandem.Async, tandem.CallbackSent, b.now(), 0)
	if err != nil || len(due) != 1 {
		t.Fatalf("the look finds %v, %v", due, err)
	}
	req.Callback.NextAt, req.Callback.Since = b.now(), b.now()
	if err := b.Redeliver(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if n, err := b.deleteSettled(t.Context(), due); n != 0 || err != nil {
		t.Errorf("%d deleted, %v", n, err)
	}
	if _, err := b.Request(t.Context(), req.ID); err != nil {
		t.Error(err)
	}
	soundCounters(t, b)
}

func TestPruneGoesThroughAsManyPagesAsThereAre(t *testing.T) {
	t.Parallel()
	b := openAt(t, filepath.Join(t.TempDir(), "requests.db"), Options{})
	cut := time.Now().UTC().Truncate(time.Microsecond)
	const old, young = 2*prunePage + 7, 5
	for i := range old + young {
		at := cut.Add(-time.Hour)
		if i >= old {
			at = cut
		}
		req := kept(at)
		req.Mode, req.Status, req.StartedAt, req.WorkedAt, req.Starts, req.Epoch = tandem.Sync, tandem.Completed, at, at, 1, 1
		req.Result = fmt.Appendf(nil, `{"text":%q}`, strings.Repeat("x", 4000))
		if err := b.Complete(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	sizeOf := func() int64 {
		t.Helper()
		if _, err := b.read.Exec(`PRAGMA query_only(0)`); err != nil {
			t.Fatal(err)
		}
		var busy, frames, moved int
		if err := b.read.QueryRow(`PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &frames, &moved); err != nil || busy != 0 {
			t.Fatalf("checkpoint: busy %d, %v", busy, err)
		}
		info, err := os.Stat(b.path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	full := sizeOf()
	if n, err := b.prune(t.Context(), cut); n != old || err != nil {
		t.Fatalf("prune deleted %d, %v; want %d", n, err, old)
	}
	if err := b.shrink(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := sizeOf(); left > full/5 {
		t.Errorf("the file has %d bytes of %d left", left, full)
	}
	soundCounters(t, b)
}

// soundCounters wants the counters to equal the rows.
func soundCounters(t *testing.T, b *Backend) {
	t.Helper()
	var apart int
	err := b.read.QueryRow(`
		WITH counted AS (
			SELECT owner, mode, status, callback_state, count(*), sum(CASE WHEN status NOT IN ('pending', 'processing') THEN coalesce(max(0, worked_at - started_at), 0) ELSE 0 END)
			FROM requests GROUP BY 1, 2, 3, 4
		), kept AS (
			SELECT owner, mode, status, callback_state, requests, processing_us FROM request_counters WHERE requests <> 0 OR processing_us <> 0
		)
		SELECT (SELECT count(*) FROM (SELECT * FROM counted EXCEPT SELECT * FROM kept))
			+ (SELECT count(*) FROM (SELECT * FROM kept EXCEPT SELECT * FROM counted))`).Scan(&apart)
	if err != nil || apart != 0 {
		t.Errorf("%d counters do not equal the rows, %v", apart, err)
	}
}
