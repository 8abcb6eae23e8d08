-- +goose Up
SET LOCAL lock_timeout = '2s';

-- An attempt that is owed is made by the process that has claimed it, and by no
-- other until the claim ends: in microseconds since 1970 by the clock of
-- Postgres, so that the clocks of processes have no part in it.
ALTER TABLE requests
    ADD COLUMN attempt_by   TEXT,
    ADD COLUMN attempt_till BIGINT;
