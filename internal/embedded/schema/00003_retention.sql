-- +goose Up

-- A request that is deleted takes the key that it was submitted under with it.
CREATE INDEX idempotency_keys_by_request ON idempotency_keys (request_id);

-- How many requests of each owner were deleted because they were old.
-- request_counters count what is kept.
CREATE TABLE pruned_counters (
    owner    TEXT    PRIMARY KEY,
    requests INTEGER NOT NULL
) WITHOUT ROWID;
