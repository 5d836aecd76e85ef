-- A version has portions, each with code, policy and rights of its own. What was pushed before has one, and may call what it likes, as it could.
CREATE TABLE portions (
    task       TEXT   NOT NULL,
    version    TEXT   NOT NULL,
    portion    TEXT   NOT NULL,
    runtime    TEXT   NOT NULL,
    entry      TEXT   NOT NULL,
    code       TEXT   NOT NULL,
    code_bytes BIGINT NOT NULL,
    -- JSON: what the manifest says, and where.
    declared   TEXT   NOT NULL,
    rights     TEXT   NOT NULL,
    PRIMARY KEY (task, version, portion),
    FOREIGN KEY (task, version) REFERENCES versions (task, version) ON DELETE CASCADE
);

INSERT INTO portions (task, version, portion, runtime, entry, code, code_bytes, declared, rights)
SELECT task, version, 'main', runtime, entry, version, code_bytes,
    json_object(
        'memory_mib', json_object('value', memory_mib, 'line', 0),
        'timeout_ms', json_object('value', timeout_ms, 'line', 0),
        'deadline_ms', CASE WHEN deadline_ms IS NULL THEN NULL ELSE json_object('value', deadline_ms, 'line', 0) END,
        'park', json_object('value', park, 'line', 0),
        'retries', json_object('value', retries, 'line', 0),
        'log_cap', json_object('value', log_cap, 'line', 0)
    ),
    '{"calls":{"value":["*"],"line":0}}'
FROM versions;

ALTER TABLE versions DROP COLUMN runtime;
ALTER TABLE versions DROP COLUMN entry;
ALTER TABLE versions DROP COLUMN memory_mib;
ALTER TABLE versions DROP COLUMN timeout_ms;
ALTER TABLE versions DROP COLUMN retries;
ALTER TABLE versions DROP COLUMN log_cap;
ALTER TABLE versions DROP COLUMN code_bytes;
ALTER TABLE versions DROP COLUMN park;
ALTER TABLE versions DROP COLUMN deadline_ms;

ALTER TABLE executions ADD COLUMN portion TEXT NOT NULL DEFAULT 'main';
-- When it must have ended.
ALTER TABLE executions ADD COLUMN due BIGINT;
UPDATE executions SET due = created_at + 1000 * (
    SELECT json_extract(declared, '$.deadline_ms.value') FROM portions
    WHERE portions.task = executions.task AND portions.version = executions.version AND portions.portion = 'main'
) WHERE finished_at IS NULL;
