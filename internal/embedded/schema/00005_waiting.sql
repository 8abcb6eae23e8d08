-- +goose Up

-- The backlog of each lane, oldest first. What may not begin yet is not passed
-- over in it.
DROP INDEX requests_backlog;
CREATE INDEX requests_backlog ON requests (lane, seq)
    WHERE status = 'pending' AND not_before IS NULL;

-- From when on each of the others waits.
CREATE INDEX requests_due ON requests (max(created_at, not_before))
    WHERE status = 'pending' AND not_before IS NOT NULL;
