-- +goose Up
SET LOCAL lock_timeout = '2s';

-- How many accepted requests wait to be started: of each shard what all owners'
-- request_counters say together, so that nobody sums up a row of each owner to
-- know whether there is room for one more. A trigger keeps it, because a process of
-- the version before does not know of it; that one goes by
-- request_counters_pending, which a later version may drop.
CREATE TABLE pending_counters (
    shard    INTEGER PRIMARY KEY,
    requests BIGINT  NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- +goose StatementBegin
CREATE FUNCTION count_pending() RETURNS TRIGGER AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO pending_counters AS p (shard, requests)
            SELECT shard, sum(requests) FROM after
            WHERE mode = 'async' AND status = 'pending' GROUP BY shard HAVING sum(requests) <> 0
            ON CONFLICT (shard) DO UPDATE SET requests = p.requests + excluded.requests;
    ELSE
        INSERT INTO pending_counters AS p (shard, requests)
            SELECT shard, sum(requests) FROM (SELECT mode, status, shard, requests FROM after
                UNION ALL SELECT mode, status, shard, -requests FROM before) AS changed
            WHERE mode = 'async' AND status = 'pending' GROUP BY shard HAVING sum(requests) <> 0
            ON CONFLICT (shard) DO UPDATE SET requests = p.requests + excluded.requests;
    END IF;
    RETURN NULL;
END $$ LANGUAGE plpgsql;
-- +goose StatementEnd

-- From here on no counter changes until this is committed.
CREATE TRIGGER count_pending_inserted AFTER INSERT ON request_counters
    REFERENCING NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION count_pending();
CREATE TRIGGER count_pending_updated AFTER UPDATE ON request_counters
    REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT EXECUTE FUNCTION count_pending();
INSERT INTO pending_counters
    SELECT shard, sum(requests) FROM request_counters WHERE mode = 'async' AND status = 'pending' GROUP BY shard;
