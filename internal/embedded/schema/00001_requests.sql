-- +goose Up

-- One row a request. seq is the order of commit: pages of the history and the
-- backlog go by it. Times are microseconds since 1970, UTC.
CREATE TABLE requests (
    seq              INTEGER PRIMARY KEY,
    id               TEXT    NOT NULL UNIQUE,
    owner            TEXT    NOT NULL,
    mode             TEXT    NOT NULL,
    status           TEXT    NOT NULL,
    lane             TEXT    NOT NULL,
    workload         TEXT    NOT NULL,
    complexity       INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    started_at       INTEGER,
    worked_at        INTEGER,
    not_before       INTEGER,
    expires_at       INTEGER,
    starts           INTEGER NOT NULL DEFAULT 0,
    epoch            INTEGER NOT NULL DEFAULT 0,
    callback_url     TEXT,
    callback_host    TEXT,
    callback_state   TEXT    NOT NULL,
    callback_options TEXT,            -- JSON
    attempts         INTEGER NOT NULL DEFAULT 0,
    max_attempts     INTEGER NOT NULL DEFAULT 0,
    next_attempt_at  INTEGER,         -- set only while an attempt is owed
    last_status      INTEGER NOT NULL DEFAULT 0,
    last_error       TEXT    NOT NULL DEFAULT '',
    failure_code     TEXT,
    failure_message  TEXT,
    failure_upstream INTEGER,
    traceparent      TEXT,
    data             TEXT    NOT NULL,
    result           TEXT
);

-- Pages of the history by mode and status, newest first.
CREATE INDEX requests_by_standing ON requests (mode, status, seq);

-- The backlog of each lane, oldest first.
CREATE INDEX requests_backlog ON requests (lane, seq)
    WHERE status = 'pending';

-- The callbacks owed to each host, the most urgent first.
CREATE INDEX requests_owed ON requests (callback_host, next_attempt_at)
    WHERE next_attempt_at IS NOT NULL;

CREATE TABLE attempts (
    request_id  TEXT    NOT NULL,
    number      INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    status      INTEGER NOT NULL,
    class       TEXT    NOT NULL,
    error       TEXT    NOT NULL,
    answer      BLOB,
    PRIMARY KEY (request_id, number)
) WITHOUT ROWID;

-- How many requests stand alike. Changed in the transaction that moves them.
CREATE TABLE request_counters (
    owner          TEXT    NOT NULL,
    mode           TEXT    NOT NULL,
    status         TEXT    NOT NULL,
    callback_state TEXT    NOT NULL,
    requests       INTEGER NOT NULL,
    processing_us  INTEGER NOT NULL,
    PRIMARY KEY (owner, mode, status, callback_state)
) WITHOUT ROWID;

-- Errors by category since the database was made.
CREATE TABLE error_counters (
    owner    TEXT    NOT NULL,
    source   TEXT    NOT NULL,        -- work or callback
    category TEXT    NOT NULL,
    errors   INTEGER NOT NULL,
    PRIMARY KEY (owner, source, category)
) WITHOUT ROWID;

-- What the service keeps about itself, the callback secret among it.
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- The oldest program that may use this file, so that a program refuses only a
-- schema that says it is too new for it.
CREATE TABLE schema_meta (
    min_reader_version INTEGER NOT NULL
);
INSERT INTO schema_meta VALUES (1);
