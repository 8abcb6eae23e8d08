-- +goose NO TRANSACTION
-- +goose Up

-- The callbacks that are owed. Few at a time, of a history of any length.
DROP INDEX CONCURRENTLY IF EXISTS requests_owing; -- which a process that ended left half made
CREATE INDEX CONCURRENTLY requests_owing ON requests (seq) WHERE next_attempt_at IS NOT NULL;
