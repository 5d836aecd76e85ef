-- Executions that wait, and what they wait for.
ALTER TABLE executions ADD COLUMN parent TEXT;
ALTER TABLE executions ADD COLUMN depth BIGINT NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN parks BIGINT NOT NULL DEFAULT 0;
ALTER TABLE executions ADD COLUMN parked_ms BIGINT NOT NULL DEFAULT 0;
-- JSON while it is parked: where its machine is, and its asks.
ALTER TABLE executions ADD COLUMN parked TEXT;

ALTER TABLE versions ADD COLUMN park TEXT NOT NULL DEFAULT 'auto';
ALTER TABLE versions ADD COLUMN deadline_ms BIGINT;

CREATE TABLE events (
    token      TEXT   NOT NULL PRIMARY KEY,
    execution  TEXT   NOT NULL REFERENCES executions (id),
    created_at BIGINT NOT NULL
);
CREATE INDEX events_by_execution ON events (execution);

-- A table of its own: that an event is signalled once is a matter of its key.
CREATE TABLE signals (
    token TEXT   NOT NULL PRIMARY KEY REFERENCES events (token),
    data  BLOB   NOT NULL,
    at    BIGINT NOT NULL
);
