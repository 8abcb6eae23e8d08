-- +goose Up

-- The callbacks that told of a failure.
CREATE INDEX requests_told_of_failure ON requests (seq) WHERE status = 'failed' AND callback_state = 'sent';

-- Pages of the history of each key's requests, by mode and status as those of all.
DROP INDEX requests_by_owner;
CREATE INDEX requests_by_owner ON requests (owner, mode, status, seq) WHERE owner <> '';
