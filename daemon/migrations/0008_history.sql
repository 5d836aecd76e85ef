-- What is kept of the executions of each account that have ended: for each 1 KiB, its result and its log.
ALTER TABLE executions ADD COLUMN log_bytes BIGINT NOT NULL DEFAULT 0;
CREATE TABLE history (
    account TEXT   NOT NULL PRIMARY KEY,
    bytes   BIGINT NOT NULL
);
INSERT INTO history (account, bytes)
SELECT account, SUM(1024 + coalesce(length(result), 0)) FROM executions WHERE finished_at IS NOT NULL GROUP BY account;

CREATE TRIGGER history_ends AFTER UPDATE OF finished_at ON executions WHEN OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL
BEGIN
    INSERT INTO history (account, bytes) VALUES (NEW.account, 1024 + coalesce(length(NEW.result), 0) + NEW.log_bytes)
    ON CONFLICT (account) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER history_comes AFTER INSERT ON executions WHEN NEW.finished_at IS NOT NULL
BEGIN
    INSERT INTO history (account, bytes) VALUES (NEW.account, 1024 + coalesce(length(NEW.result), 0) + NEW.log_bytes)
    ON CONFLICT (account) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER history_goes AFTER DELETE ON executions WHEN OLD.finished_at IS NOT NULL
BEGIN
    UPDATE history SET bytes = bytes - (1024 + coalesce(length(OLD.result), 0) + OLD.log_bytes) WHERE account = OLD.account;
    DELETE FROM history WHERE account = OLD.account AND bytes <= 0;
END;
