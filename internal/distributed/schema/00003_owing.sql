-- +goose Up

-- The callbacks that are owed. Few at a time, of a history of any length.
CREATE INDEX requests_owing ON requests (seq) WHERE next_attempt_at IS NOT NULL;
