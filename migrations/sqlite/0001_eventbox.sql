-- The inbox: rows are inserted and deleted, never updated. Key order is emit order, because ids are UUIDv7.
CREATE TABLE eventbox_event (
    shard       INTEGER NOT NULL,
    recipient   TEXT NOT NULL,
    id          BLOB NOT NULL,
    name        TEXT,
    traceparent TEXT,
    value       BLOB NOT NULL,
    PRIMARY KEY (shard, recipient, id)
) STRICT, WITHOUT ROWID;

-- One row per named event, written at its emit: the unique key decides every race between senders.
CREATE TABLE eventbox_tombstone (
    shard      INTEGER NOT NULL,
    recipient  TEXT NOT NULL,
    name       TEXT NOT NULL,
    id         BLOB NOT NULL,
    gone_at_us INTEGER,
    PRIMARY KEY (shard, recipient, name)
) STRICT, WITHOUT ROWID;

-- Where emits go when some events have names: one statement must write two tables, and CTEs of SQLite cannot write.
-- RAISE(IGNORE) leaves a row out, together with its RETURNING row.
CREATE VIEW eventbox_named_emit AS SELECT shard, recipient, id, name, traceparent, value FROM eventbox_event;
CREATE TRIGGER eventbox_named_emit_insert INSTEAD OF INSERT ON eventbox_named_emit BEGIN
    SELECT RAISE(IGNORE) WHERE EXISTS (
        SELECT 1 FROM eventbox_tombstone t
        WHERE t.shard = new.shard AND t.recipient = new.recipient AND t.name = new.name
    );
    INSERT INTO eventbox_tombstone (shard, recipient, name, id)
    SELECT new.shard, new.recipient, new.name, new.id WHERE new.name IS NOT NULL;
    INSERT INTO eventbox_event (shard, recipient, id, name, traceparent, value)
    VALUES (new.shard, new.recipient, new.id, new.name, new.traceparent, new.value);
END;

-- The turn of a recipient and the token of the attempt that made it; the state, when the library keeps it. Never deleted by a turn.
CREATE TABLE eventbox_state (
    shard         INTEGER NOT NULL,
    recipient     TEXT NOT NULL,
    turn          INTEGER NOT NULL,
    token         BLOB NOT NULL,
    updated_at_us INTEGER NOT NULL,
    state         BLOB,
    PRIMARY KEY (shard, recipient)
) STRICT, WITHOUT ROWID;

-- Messages on their way out. An attempt is a claim, and the insert is the first one. A delivered row stays only when it is to be retained; then it is
-- never due again.
CREATE TABLE eventbox_outbox (
    shard              INTEGER NOT NULL,
    id                 BLOB NOT NULL,
    source             TEXT NOT NULL,
    type               TEXT NOT NULL,
    attempts           INTEGER NOT NULL DEFAULT 1,
    created_at_us      INTEGER NOT NULL,
    next_attempt_at_us INTEGER NOT NULL,
    delivered_at_us    INTEGER,
    last_code          TEXT,
    last_error         TEXT,
    payload            BLOB NOT NULL,
    PRIMARY KEY (shard, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX eventbox_outbox_due ON eventbox_outbox (shard, next_attempt_at_us);
CREATE INDEX eventbox_outbox_delivered ON eventbox_outbox (delivered_at_us) WHERE delivered_at_us IS NOT NULL;

-- What could not be processed or delivered: an event (with its recipient) or a message from the outbox.
CREATE TABLE eventbox_dead_letter (
    shard       INTEGER NOT NULL,
    id          BLOB NOT NULL,
    recipient   TEXT,
    name        TEXT,
    traceparent TEXT,
    source      TEXT,
    type        TEXT,
    code        TEXT NOT NULL,
    reason      TEXT NOT NULL,
    attempts    INTEGER NOT NULL,
    dead_at_us  INTEGER NOT NULL,
    payload     BLOB NOT NULL,
    PRIMARY KEY (shard, id)
) STRICT, WITHOUT ROWID;

-- Only recipients that fail or are paused: nobody else pays for this table.
CREATE TABLE eventbox_failure (
    shard              INTEGER NOT NULL,
    recipient          TEXT NOT NULL,
    attempts           INTEGER NOT NULL DEFAULT 0,
    next_attempt_at_us INTEGER NOT NULL DEFAULT 0,
    error              TEXT,
    paused             INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (shard, recipient)
) STRICT, WITHOUT ROWID;
