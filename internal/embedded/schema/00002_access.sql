-- +goose Up

-- Who may enter. Tokens are hashed; a revoked key stays, as its requests do.
CREATE TABLE api_keys (
    name       TEXT    PRIMARY KEY,
    token_id   TEXT    NOT NULL UNIQUE,
    token_hash BLOB    NOT NULL,
    admin      INTEGER NOT NULL,
    rate       TEXT    NOT NULL,        -- such as 50/1m0s; empty: the service's own
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) WITHOUT ROWID;

-- What the callbacks of each key's requests are signed with.
CREATE TABLE callback_secrets (
    owner      TEXT    NOT NULL,
    secret     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (owner, secret)
) WITHOUT ROWID;

-- The history of each key's requests. Those of callers who are not told apart
-- are not in it.
CREATE INDEX requests_by_owner ON requests (owner, seq) WHERE owner <> '';

-- Which request a caller's Idempotency-Key stands for.
CREATE TABLE idempotency_keys (
    owner       TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL,       -- of the request that it came with
    request_id  TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (owner, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

-- A caller waits for the outcome: until that ends, nothing is promised.
ALTER TABLE requests ADD COLUMN waited INTEGER NOT NULL DEFAULT 0;
-- When a callback was last asked for again.
ALTER TABLE requests ADD COLUMN redelivered_at INTEGER;

-- What may not begin yet, the next to begin first, and what will expire.
CREATE INDEX requests_delayed ON requests (lane, not_before, seq)
    WHERE status = 'pending' AND not_before IS NOT NULL;
CREATE INDEX requests_expiring ON requests (expires_at)
    WHERE status = 'pending' AND expires_at IS NOT NULL;

-- The callbacks that were given up.
CREATE INDEX requests_given_up ON requests (seq) WHERE callback_state = 'failed';
