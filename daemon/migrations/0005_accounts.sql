-- Whom everything belongs to. What was there before belongs to the account `default`.
CREATE TABLE accounts (
    name       TEXT   NOT NULL PRIMARY KEY,
    -- Its share of a busy host, against those of others.
    weight     BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
INSERT INTO accounts (name, weight, created_at) VALUES ('default', 1, 0);

-- Who calls: by the user id of a process of this host, or by a token, of which only the hash is there.
CREATE TABLE account_uids (
    uid        BIGINT NOT NULL PRIMARY KEY,
    account    TEXT   NOT NULL REFERENCES accounts (name) ON DELETE CASCADE,
    role       TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE account_tokens (
    id         TEXT   NOT NULL PRIMARY KEY,
    account    TEXT   NOT NULL REFERENCES accounts (name) ON DELETE CASCADE,
    role       TEXT   NOT NULL,
    hash       BLOB   NOT NULL,
    note       TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT
);

-- A name is one of its account: the keys get longer, which takes new tables. The old ones go the children first, so that nothing cascades.
ALTER TABLE tasks RENAME TO old_tasks;
ALTER TABLE versions RENAME TO old_versions;
ALTER TABLE portions RENAME TO old_portions;
ALTER TABLE secrets RENAME TO old_secrets;

CREATE TABLE tasks (
    account    TEXT   NOT NULL REFERENCES accounts (name),
    name       TEXT   NOT NULL,
    latest     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (account, name)
);
CREATE TABLE versions (
    account    TEXT   NOT NULL,
    task       TEXT   NOT NULL,
    version    TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (account, task, version),
    FOREIGN KEY (account, task) REFERENCES tasks (account, name) ON DELETE CASCADE
);
CREATE TABLE portions (
    account    TEXT   NOT NULL,
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
    PRIMARY KEY (account, task, version, portion),
    FOREIGN KEY (account, task, version) REFERENCES versions (account, task, version) ON DELETE CASCADE
);
CREATE TABLE secrets (
    account    TEXT   NOT NULL REFERENCES accounts (name),
    name       TEXT   NOT NULL,
    master     TEXT   NOT NULL,
    nonce      BLOB   NOT NULL,
    sealed     BLOB   NOT NULL,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (account, name)
);

INSERT INTO tasks (account, name, latest, created_at) SELECT 'default', name, latest, created_at FROM old_tasks;
INSERT INTO versions (account, task, version, created_at) SELECT 'default', task, version, created_at FROM old_versions;
INSERT INTO portions (account, task, version, portion, runtime, entry, code, code_bytes, declared, rights)
SELECT 'default', task, version, portion, runtime, entry, code, code_bytes, declared, rights FROM old_portions;
INSERT INTO secrets (account, name, master, nonce, sealed, created_at, changed_at)
SELECT account, name, master, nonce, sealed, created_at, changed_at FROM old_secrets;

DROP TABLE old_portions;
DROP TABLE old_versions;
DROP TABLE old_tasks;
DROP TABLE old_secrets;

-- Of an execution's account are its input, timeline, events, log and machine too. Those of tasks that are gone stay known.
ALTER TABLE executions ADD COLUMN account TEXT NOT NULL DEFAULT 'default';
DROP INDEX executions_by_task;
CREATE INDEX executions_by_task ON executions (account, task, id);
CREATE INDEX executions_by_account ON executions (account, id);
