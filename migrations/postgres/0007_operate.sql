-- What operators did, in the order of their ids, which are UUIDv7. A runtime deletes rows that are older than 90 days.
CREATE TABLE eventbox_operation (
    id      uuid PRIMARY KEY,
    at_us   int8 NOT NULL,
    who     text NOT NULL,
    why     text,
    action  text NOT NULL,
    target  text NOT NULL,
    touched int8 NOT NULL
);
-- What a process tells of itself at each heartbeat, as JSON: its kinds, what it throttles and holds, the turns that take
-- long, the recipients that fail.
ALTER TABLE eventbox_member ADD COLUMN report text NOT NULL DEFAULT '{}';
-- The member that an operator gave the shard to. It holds the shard while it lives.
ALTER TABLE eventbox_lease ADD COLUMN pinned uuid;
-- Events in quarantine by recipient. Messages that were given up have none.
CREATE INDEX eventbox_dead_letter_recipient ON eventbox_dead_letter (shard, recipient, id) WHERE recipient IS NOT NULL;
