-- When its result is needed: it may be put off, and is to be done by then.
ALTER TABLE executions ADD COLUMN need_by BIGINT;
-- Names the calls that its parent had made up to it, and their inputs: a further attempt of the parent that makes the same calls gets its result.
ALTER TABLE executions ADD COLUMN call_key TEXT;
CREATE INDEX executions_by_parent ON executions (parent) WHERE call_key IS NOT NULL;

-- How long portions of versions take: pairs of bucket and count as JSON, for each kind of time.
CREATE TABLE durations (
    account    TEXT   NOT NULL,
    task       TEXT   NOT NULL,
    version    TEXT   NOT NULL,
    portion    TEXT   NOT NULL,
    kind       TEXT   NOT NULL,
    sketch     TEXT   NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (account, task, version, portion, kind)
);
