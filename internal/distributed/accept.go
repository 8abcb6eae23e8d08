package distributed

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"tandem"
	"tandem/internal/engine"
	"tandem/internal/store"
)

// askInsert makes new requests, started if there is a slot for them here. Those
// that come with an Idempotency-Key that another request holds are not made.
func (t *transaction) askInsert(ctx context.Context, writes []*write) error {
	var free int64 // of room for requests that wait
	for _, wr := range writes {
		if r := t.b.here.Load(); wr.by == nil && r.mayStart(&wr.req) {
			wr.by, wr.hold = r, t.b.lease()
			wr.req.Status, wr.req.StartedAt, wr.req.Starts, wr.req.Epoch = tandem.Processing, t.b.now(), 1, 1
		}
		if wr.req.Status == tandem.Pending {
			free++
		}
	}
	if free > 0 {
		var err error
		if free, err = t.b.writer.room.take(ctx, t.tx, free); err != nil {
			return err
		}
	}
	if err := t.claimKeys(ctx, writes, &free); err != nil {
		return err
	}
	var admitted []*write
	for _, wr := range writes {
		switch {
		case wr.answer != nil || wr.holder != "":
		case wr.key == nil && wr.req.Status == tandem.Pending && free <= 0:
			wr.answer = engine.ErrFull
		default:
			if wr.key == nil && wr.req.Status == tandem.Pending {
				free--
			}
			admitted = append(admitted, wr)
		}
	}
	if len(admitted) > 0 {
		t.askRows(&t.first, admitted)
	}
	return nil
}

// insert makes the jobs to process those that wait.
func (t *transaction) insert(_ context.Context, writes []*write) error {
	for _, wr := range writes {
		if !wr.made {
			continue // not admitted, or a note whose request has its outcome
		}
		t.Count(&wr.req, wr.req.Status, wr.req.Callback.State, +1)
		switch {
		case wr.hold > 0:
			t.add(processJob(&wr.req), wr)
		case wr.req.Mode == tandem.Async && wr.req.Status == tandem.Pending:
			t.add(processJob(&wr.req), nil)
		}
	}
	return nil
}

// claimKeys takes the keys of those writes that have one. They go in order, so that
// no two processes wait for each other's keys. One that there is no room for
// takes no key, but is told who holds it.
func (t *transaction) claimKeys(ctx context.Context, writes []*write, free *int64) error {
	var keyed, refused []*write
	for _, wr := range writes {
		switch {
		case wr.key == nil:
		case wr.req.Status == tandem.Pending && *free == 0:
			refused = append(refused, wr)
		default:
			if wr.req.Status == tandem.Pending {
				*free--
			}
			keyed = append(keyed, wr)
		}
	}
	if len(keyed) == 0 {
		return t.findHolders(ctx, refused)
	}
	slices.SortFunc(keyed, func(a, b *write) int {
		return cmp.Or(strings.Compare(a.req.Owner, b.req.Owner), strings.Compare(a.key.Key, b.key.Key))
	})
	rows, err := t.tx.Query(ctx, `
		INSERT INTO idempotency_keys AS k (owner, key, fingerprint, request_id, created_at)
		SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::bigint[])
		ON CONFLICT (owner, key) DO UPDATE SET fingerprint = excluded.fingerprint,
			request_id = excluded.request_id, created_at = excluded.created_at
		WHERE k.created_at < $6
		RETURNING request_id`,
		column(keyed, func(wr *write) string { return wr.req.Owner }),
		column(keyed, func(wr *write) string { return wr.key.Key }),
		column(keyed, func(wr *write) []byte { return wr.key.Fingerprint[:] }), ids(keyed),
		column(keyed, func(wr *write) int64 { return wr.req.CreatedAt.UnixMicro() }),
		t.b.now().Add(-engine.IdempotencyKept).UnixMicro())
	if err != nil {
		return fmt.Errorf("claim idempotency keys: %w", err)
	}
	taken, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("claim idempotency keys: %w", err)
	}
	got := make(map[string]bool, len(taken))
	for _, id := range taken {
		got[id] = true
	}
	for _, wr := range keyed {
		if got[wr.req.ID] {
			continue
		}
		refused = append(refused, wr)
		if wr.req.Status == tandem.Pending {
			*free++
		}
	}
	return t.findHolders(ctx, refused)
}

// findHolders answers those writes whose key could not be taken.
func (t *transaction) findHolders(ctx context.Context, writes []*write) error {
	for _, wr := range writes {
		id, fingerprint, err := holderOf(ctx, t.tx, wr.req.Owner, wr.key.Key, t.b.now())
		switch {
		case err != nil:
			return err
		case id == "":
			wr.answer = engine.ErrFull
		case !bytes.Equal(fingerprint, wr.key.Fingerprint[:]):
			wr.answer = engine.ErrKeyReused
		default:
			wr.holder = id
		}
	}
	return nil
}

func (t *transaction) insertRows(ctx context.Context, writes []*write) error {
	var one pgx.Batch
	t.askRows(&one, writes)
	return t.send(ctx, &one)
}

func (t *transaction) askRows(in *pgx.Batch, writes []*write) {
	in.Queue(insertQuery, inserted.values(writes, t.b.name)...).Query(func(rows pgx.Rows) error {
		byID := make(map[string]*write, len(writes))
		for _, wr := range writes {
			byID[wr.req.ID] = wr
		}
		var id string
		var seq int64
		_, err := pgx.ForEachRow(rows, []any{&id, &seq}, func() error {
			byID[id].made, byID[id].seq = true, seq
			return nil
		})
		if err != nil {
			return fmt.Errorf("insert requests: %w", err)
		}
		return nil
	})
}

var inserted = columns{
	text("id", func(r *tandem.Request) string { return r.ID }),
	text("owner", func(r *tandem.Request) string { return r.Owner }),
	text("mode", func(r *tandem.Request) string { return string(r.Mode) }),
	text("status", func(r *tandem.Request) string { return string(r.Status) }),
	text("lane", func(r *tandem.Request) string { return r.Lane }),
	text("workload", func(r *tandem.Request) string { return r.Workload }),
	number("complexity", func(r *tandem.Request) int { return r.Complexity }),
	each("data", "bytea", func(wr *write) []byte { return wr.req.Data }),
	optional("callback_url", func(r *tandem.Request) string { return r.Callback.URL }),
	optional("callback_host", func(r *tandem.Request) string {
		if r.Callback.URL == "" {
			return ""
		}
		return engine.HostOf(r.Callback.URL)
	}),
	text("callback_state", func(r *tandem.Request) string { return string(r.Callback.State) }),
	number("max_attempts", func(r *tandem.Request) int { return r.Callback.MaxAttempts }),
	optional("callback_options", func(r *tandem.Request) string { return store.CallbackOptions(&r.Callback) }),
	at("created_at", func(r *tandem.Request) time.Time { return r.CreatedAt }),
	at("started_at", func(r *tandem.Request) time.Time { return r.StartedAt }),
	at("worked_at", func(r *tandem.Request) time.Time { return r.WorkedAt }),
	at("not_before", func(r *tandem.Request) time.Time { return r.NotBefore }),
	at("expires_at", func(r *tandem.Request) time.Time { return r.ExpiresAt }),
	number("starts", func(r *tandem.Request) int { return r.Starts }),
	number("epoch", func(r *tandem.Request) int { return r.Epoch }),
	each("waited", "boolean", func(wr *write) bool { return wr.req.Waited }),
	each("result", "bytea", func(wr *write) []byte { return wr.req.Result }),
	each("failure_code", "text", failureCode),
	each("failure_message", "text", failureMessage),
	each("failure_upstream", "int", failureUpstream),
}

var insertQuery = `
	INSERT INTO requests (` + inserted.names() + `, started_by)
	SELECT u.*, ` + inserted.next() + ` FROM ` + inserted.rows() + ` AS u
	ON CONFLICT (id) DO NOTHING
	RETURNING id, seq`
