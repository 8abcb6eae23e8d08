package embedded

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"tandem"
)

func TestInBulk(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"an insert has a row of values more", "INSERT INTO t (a, b) VALUES (?, ?) ON CONFLICT DO NOTHING",
			"INSERT INTO t (a, b) VALUES (?, ?), (?, ?) ON CONFLICT DO NOTHING"},
		{"an update takes its values from rows of them", "UPDATE t SET a = ?, n = n + 1 WHERE id = ? AND b = ?",
			"UPDATE t SET a = row.column1, n = n + 1 FROM (VALUES (?, ?, ?), (?, ?, ?)) AS row WHERE id = row.column2 AND b = row.column3"},
	} {
		if got := inBulk(c.text, 2); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// together runs writes so that they share one batch, in their order: they queue
// up behind one that takes its time.
func together(t *testing.T, b *Backend, writes ...func() error) []error {
	t.Helper()
	release := make(chan struct{})
	go func() {
		if err := b.do(t.Context(), func(*transaction) error { <-release; return nil }); err != nil {
			t.Error(err)
		}
	}()
	synctest.Wait()
	errs := make([]error, len(writes))
	for i, write := range writes {
		go func() { errs[i] = write() }()
		synctest.Wait()
	}
	close(release)
	synctest.Wait()
	return errs
}

func TestEachWriteOfABatchHasItsOwnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openAt(t, filepath.Join(t.TempDir(), "requests.db"), Options{})
		now := time.Now().UTC()
		const n = 2*bulkRows + 3
		var reqs []*tandem.Request
		var accept, start, complete, record []func() error
		for range n {
			req := kept(now)
			req.Callback = tandem.Callback{URL: "http://127.0.0.1:1/", State: tandem.CallbackPending, MaxAttempts: 1}
			reqs = append(reqs, req)
			accept = append(accept, func() error { return b.Accept(t.Context(), req) })
			again := *req
			for _, req := range []*tandem.Request{req, &again} {
				start = append(start, func() error { req.StartedAt = now; return b.Start(t.Context(), req) })
			}
			complete = append(complete, func() error {
				req.Status, req.Result, req.WorkedAt, req.Callback.NextAt = tandem.Completed, []byte(`{"of":"`+req.ID+`"}`), now, now
				return b.Complete(t.Context(), req)
			})
			record = append(record, func() error {
				req.Status, req.Callback.State, req.Callback.NextAt, req.Callback.Attempts = tandem.CallbackSent, tandem.CallbackDelivered, time.Time{}, 1
				return b.RecordAttempt(t.Context(), req, tandem.Attempt{Number: 1, At: now, Status: 200})
			})
		}
		cancelled := kept(now)
		if err := b.Accept(t.Context(), cancelled); err != nil {
			t.Fatal(err)
		}
		inVain := *cancelled
		cancelled.Failure, cancelled.WorkedAt = &tandem.Failure{Code: tandem.FailureCancelled}, now
		start = append(start, func() error { return b.Fail(t.Context(), cancelled) }, func() error { return b.Start(t.Context(), &inVain) })

		for i, err := range together(t, b, accept...) {
			var id string
			if err := b.read.QueryRow(`SELECT id FROM requests WHERE seq = ?`, reqs[i].Seq).Scan(&id); err != nil || id != reqs[i].ID {
				t.Errorf("accept %d: its seq is that of %s, want %s (%v)", i, id, reqs[i].ID, err)
			}
			if err != nil || i > 0 && reqs[i].Seq <= reqs[i-1].Seq {
				t.Errorf("accept %d: got seq %d and %v", i, reqs[i].Seq, err)
			}
		}
		soundCounters(t, b)
		for i, err := range together(t, b, start...) {
			if second := i%2 == 1; second != (tandem.CodeOf(err) == tandem.CodeConflict) {
				t.Errorf("start %d: got %v; the first of each request succeeds, the second conflicts", i, err)
			}
		}
		soundCounters(t, b)
		for _, writes := range [][]func() error{complete, record} {
			for i, err := range together(t, b, writes...) {
				if err != nil {
					t.Errorf("write %d: %v", i, err)
				}
			}
			soundCounters(t, b)
		}
		for _, req := range reqs {
			got, err := b.Request(t.Context(), req.ID)
			if err != nil || got.Status != tandem.CallbackSent || got.Starts != 1 || got.Epoch != 1 || string(got.Result) != string(req.Result) {
				t.Errorf("got %+v, %v, want %+v", got, err, req)
			}
			if attempts, err := b.Attempts(t.Context(), req.ID); err != nil || len(attempts) != 1 {
				t.Errorf("got attempts %+v, %v, want one", attempts, err)
			}
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestAWriteThatReadsComesAfterTheRowsBeforeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openAt(t, filepath.Join(t.TempDir(), "requests.db"), Options{})
		now := time.Now().UTC()
		waited := kept(now)
		waited.Waited, waited.Callback.URL = true, "http://127.0.0.1:1/"
		if err := b.Accept(t.Context(), waited); err != nil {
			t.Fatal(err)
		}
		left := *waited // as the caller's goroutine has it
		var writes []func() error
		for range bulkRows {
			writes = append(writes, func() error { return b.Accept(t.Context(), kept(now)) })
		}
		writes = append(writes,
			func() error { waited.StartedAt = now; return b.Start(t.Context(), waited) },
			func() error { return b.Release(t.Context(), &left) },
		)
		for i, err := range together(t, b, writes...) {
			if err != nil {
				t.Errorf("write %d: %v", i, err)
			}
		}
		soundCounters(t, b)
		got, err := b.Request(t.Context(), waited.ID)
		if err != nil || got.Status != tandem.Processing || got.Callback.State != tandem.CallbackPending {
			t.Errorf("got %s with callback %s, %v, want one in progress that owes a callback", got.Status, got.Callback.State, err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}
