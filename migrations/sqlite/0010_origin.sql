-- Where an event came from outside, as JSON: the streams of peers, and the numbers of the first and the last event on
-- each. Everything that the event causes keeps it. NULL for what did not come from outside.
DROP TRIGGER eventbox_named_emit_insert;
DROP VIEW eventbox_named_emit;
ALTER TABLE eventbox_event ADD COLUMN origin TEXT;
ALTER TABLE eventbox_timer ADD COLUMN origin TEXT;
ALTER TABLE eventbox_dead_letter ADD COLUMN origin TEXT;
ALTER TABLE eventbox_outbox ADD COLUMN origin TEXT;
ALTER TABLE eventbox_journal ADD COLUMN origin TEXT;

-- Where emits go, again, with the new column.
CREATE VIEW eventbox_named_emit AS
SELECT shard, recipient, id, name, traceparent, value, NULL AS due_at_us, origin FROM eventbox_event;
CREATE TRIGGER eventbox_named_emit_insert INSTEAD OF INSERT ON eventbox_named_emit BEGIN
    SELECT RAISE(IGNORE) WHERE EXISTS (
        SELECT 1 FROM eventbox_tombstone t
        WHERE t.shard = new.shard AND t.recipient = new.recipient AND t.name = new.name
    );
    INSERT INTO eventbox_tombstone (shard, recipient, name, id)
    SELECT new.shard, new.recipient, new.name, new.id WHERE new.name IS NOT NULL;
    INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, value, origin)
    SELECT new.shard, new.recipient, new.id, new.name, new.traceparent, new.value, new.origin
    WHERE new.due_at_us IS NULL;
    INSERT INTO eventbox_timer (shard, due_at_us, id, recipient, name, traceparent, value, origin)
    SELECT new.shard, new.due_at_us, new.id, new.recipient, new.name, new.traceparent, new.value, new.origin
    WHERE new.due_at_us IS NOT NULL;
END;
