-- +goose NO TRANSACTION
-- +goose Up

-- The callbacks that told of a failure.
DROP INDEX CONCURRENTLY IF EXISTS requests_told_of_failure;
CREATE INDEX CONCURRENTLY requests_told_of_failure ON requests (seq) WHERE status = 'failed' AND callback_state = 'sent';

-- Pages of the history of each key's requests, by mode and status as those of all.
-- A process of the version before finds its pages by this one, too, if more slowly.
DROP INDEX CONCURRENTLY IF EXISTS requests_by_owner_standing;
CREATE INDEX CONCURRENTLY requests_by_owner_standing ON requests (owner, mode, status, seq) WHERE owner <> '';
DROP INDEX CONCURRENTLY IF EXISTS requests_by_owner;
