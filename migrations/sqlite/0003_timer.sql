-- Events for later: moved into eventbox_event, with their ids, when they are due. A name is in eventbox_tombstone from the emit on.
CREATE TABLE eventbox_timer (
    shard       INTEGER NOT NULL,
    due_at_us   INTEGER NOT NULL,
    id          BLOB NOT NULL,
    recipient   TEXT NOT NULL,
    name        TEXT,
    traceparent TEXT,
    value       BLOB NOT NULL,
    PRIMARY KEY (shard, due_at_us, id)
) STRICT, WITHOUT ROWID;
-- By id (whoever has an id has its recipient too), and by recipient.
CREATE UNIQUE INDEX eventbox_timer_id ON eventbox_timer (shard, recipient, id);

-- Where emits go, again: a row with a due time becomes a timer, the others go into the box.
DROP TRIGGER eventbox_named_emit_insert;
DROP VIEW eventbox_named_emit;
CREATE VIEW eventbox_named_emit AS
SELECT shard, recipient, id, name, traceparent, value, NULL AS due_at_us FROM eventbox_event;
CREATE TRIGGER eventbox_named_emit_insert INSTEAD OF INSERT ON eventbox_named_emit BEGIN
    SELECT RAISE(IGNORE) WHERE EXISTS (
        SELECT 1 FROM eventbox_tombstone t
        WHERE t.shard = new.shard AND t.recipient = new.recipient AND t.name = new.name
    );
    INSERT INTO eventbox_tombstone (shard, recipient, name, id)
    SELECT new.shard, new.recipient, new.name, new.id WHERE new.name IS NOT NULL;
    INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, value)
    SELECT new.shard, new.recipient, new.id, new.name, new.traceparent, new.value WHERE new.due_at_us IS NULL;
    INSERT INTO eventbox_timer (shard, due_at_us, id, recipient, name, traceparent, value)
    SELECT new.shard, new.due_at_us, new.id, new.recipient, new.name, new.traceparent, new.value
    WHERE new.due_at_us IS NOT NULL;
END;
