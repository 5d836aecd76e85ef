-- Submissions that may come twice. What was asked is there as a hash; the execution is kept as long as its key.
CREATE TABLE idempotency (
    account    TEXT   NOT NULL,
    key        TEXT   NOT NULL,
    request    TEXT   NOT NULL,
    execution  TEXT   NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (account, key)
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);

-- When an execution that failed is run again.
ALTER TABLE executions ADD COLUMN not_before BIGINT;

-- What makes executions at the times of a cron expression. `fired_to` only moves on with an execution, in its transaction, or when it is decided that there is none.
CREATE TABLE schedules (
    account    TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    id         TEXT   NOT NULL UNIQUE,
    task       TEXT   NOT NULL,
    cron       TEXT   NOT NULL,
    timezone   TEXT   NOT NULL,
    missed     TEXT   NOT NULL,
    overlap    TEXT   NOT NULL,
    input      BLOB   NOT NULL,
    paused     BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    fired_to   BIGINT NOT NULL,
    last       TEXT,
    skipped    TEXT,
    skipped_at BIGINT,
    PRIMARY KEY (account, name)
);

ALTER TABLE executions ADD COLUMN schedule TEXT;
ALTER TABLE executions ADD COLUMN fire_at BIGINT;
CREATE UNIQUE INDEX executions_by_schedule ON executions (schedule, fire_at) WHERE schedule IS NOT NULL;

-- Where the end of an execution is told. JSON of the same for the executions of a schedule.
CREATE TABLE deliveries (
    execution  TEXT   NOT NULL PRIMARY KEY REFERENCES executions (id),
    account    TEXT   NOT NULL,
    id         TEXT   NOT NULL,
    url        TEXT   NOT NULL,
    authority  TEXT   NOT NULL,
    secret     TEXT,
    state      TEXT   NOT NULL,
    attempts   BIGINT NOT NULL,
    next_at    BIGINT,
    ended_at   BIGINT,
    last       TEXT,
    settled_at BIGINT
);
CREATE INDEX deliveries_pending ON deliveries (next_at) WHERE state = 'pending';
CREATE INDEX deliveries_waiting ON deliveries (execution) WHERE state = 'waiting';
ALTER TABLE schedules ADD COLUMN notify TEXT;
