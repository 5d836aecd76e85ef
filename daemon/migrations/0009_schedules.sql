-- The first of each server that are due, and the oldest, without a look at the others.
DROP INDEX deliveries_pending;
CREATE INDEX deliveries_by_server ON deliveries (account, authority, next_at) WHERE state = 'pending';
CREATE INDEX deliveries_by_end ON deliveries (ended_at) WHERE state = 'pending';

-- When the result of an execution is needed, in seconds after its time, and what to do where that is certain to be missed.
ALTER TABLE schedules ADD COLUMN need_by_s BIGINT;
ALTER TABLE schedules ADD COLUMN on_late TEXT;
