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
