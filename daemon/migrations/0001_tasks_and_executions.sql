-- Times are microseconds since 1970. BLOB is the only word here that PostgreSQL spells differently.
CREATE TABLE tasks (
    name       TEXT   NOT NULL PRIMARY KEY,
    latest     TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE versions (
    task       TEXT   NOT NULL REFERENCES tasks (name) ON DELETE CASCADE,
    version    TEXT   NOT NULL,
    runtime    TEXT   NOT NULL,
    entry      TEXT   NOT NULL,
    memory_mib BIGINT NOT NULL,
    timeout_ms BIGINT NOT NULL,
    retries    BIGINT NOT NULL,
    log_cap    BIGINT NOT NULL,
    code_bytes BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (task, version)
);

-- History outlives its task, so there is no reference to it.
CREATE TABLE executions (
    id          TEXT   NOT NULL PRIMARY KEY,
    task        TEXT   NOT NULL,
    version     TEXT   NOT NULL,
    state       TEXT   NOT NULL,
    attempts    BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    started_at  BIGINT,
    finished_at BIGINT,
    error       TEXT,
    result      BLOB
);
CREATE INDEX executions_by_task ON executions (task, id);
CREATE INDEX executions_unfinished ON executions (id) WHERE finished_at IS NULL;

-- Removed soon after the execution has ended. A table of its own, so that a large one is not written again with each change of the execution.
CREATE TABLE inputs (
    execution TEXT NOT NULL PRIMARY KEY REFERENCES executions (id),
    body      BLOB NOT NULL
);

CREATE TABLE timeline (
    execution TEXT   NOT NULL REFERENCES executions (id),
    seq       BIGINT NOT NULL,
    at        BIGINT NOT NULL,
    event     TEXT   NOT NULL,
    PRIMARY KEY (execution, seq)
);
