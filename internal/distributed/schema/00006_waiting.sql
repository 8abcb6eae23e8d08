-- +goose NO TRANSACTION
-- +goose Up

-- What may begin at once, oldest first.
DROP INDEX CONCURRENTLY IF EXISTS requests_waiting;
CREATE INDEX CONCURRENTLY requests_waiting ON requests (seq) WHERE status = 'pending' AND not_before IS NULL;

-- From when on each of the others waits. With what the expression is made of, for
-- Postgres to count them without the rows.
DROP INDEX CONCURRENTLY IF EXISTS requests_due;
CREATE INDEX CONCURRENTLY requests_due ON requests (greatest(created_at, not_before)) INCLUDE (created_at, not_before)
    WHERE status = 'pending' AND not_before IS NOT NULL;
