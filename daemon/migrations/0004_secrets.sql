-- Secrets of an account, each encrypted with the key that `master` names. Nothing here is readable without that key.
CREATE TABLE secrets (
    account    TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    master     TEXT   NOT NULL,
    nonce      BLOB   NOT NULL,
    sealed     BLOB   NOT NULL,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (account, name)
);
