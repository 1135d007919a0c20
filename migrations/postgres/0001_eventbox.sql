-- The inbox: rows are inserted and deleted, never updated. Key order is emit order, because ids are UUIDv7.
CREATE TABLE eventbox_event (
    shard       int2 NOT NULL,
    recipient   text COLLATE "C" NOT NULL,
    id          uuid NOT NULL,
    name        text COLLATE "C",
    traceparent text,
    value       bytea NOT NULL,
    PRIMARY KEY (shard, recipient, id)
);

-- One row per named event, written at its emit: the unique key decides every race between senders.
CREATE TABLE eventbox_tombstone (
    shard      int2 NOT NULL,
    recipient  text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    id         uuid NOT NULL,
    gone_at_us int8,
    PRIMARY KEY (shard, recipient, name)
);

-- The turn of a recipient and the token of the attempt that made it; the state, when the library keeps it. Never deleted by a turn.
CREATE TABLE eventbox_state (
    shard         int2 NOT NULL,
    recipient     text COLLATE "C" NOT NULL,
    turn          int8 NOT NULL,
    token         uuid NOT NULL,
    updated_at_us int8 NOT NULL,
    state         bytea,
    PRIMARY KEY (shard, recipient)
) WITH (fillfactor = 70); -- room for updates in place

-- Messages on their way out. An attempt is a claim, and the insert is the first one. A delivered row stays only when it is to be retained; then it is
-- never due again.
CREATE TABLE eventbox_outbox (
    shard              int2 NOT NULL,
    id                 uuid NOT NULL,
    source             text NOT NULL,
    type               text NOT NULL,
    attempts           int4 NOT NULL DEFAULT 1,
    created_at_us      int8 NOT NULL,
    next_attempt_at_us int8 NOT NULL,
    delivered_at_us    int8,
    last_code          text,
    last_error         text,
    payload            bytea NOT NULL,
    PRIMARY KEY (shard, id)
);
CREATE INDEX eventbox_outbox_due ON eventbox_outbox (shard, next_attempt_at_us);
CREATE INDEX eventbox_outbox_delivered ON eventbox_outbox (delivered_at_us) WHERE delivered_at_us IS NOT NULL;

-- What could not be processed or delivered: an event (with its recipient) or a message from the outbox.
CREATE TABLE eventbox_dead_letter (
    shard       int2 NOT NULL,
    id          uuid NOT NULL,
    recipient   text COLLATE "C",
    name        text COLLATE "C",
    traceparent text,
    source      text,
    type        text,
    code        text NOT NULL,
    reason      text NOT NULL,
    attempts    int4 NOT NULL,
    dead_at_us  int8 NOT NULL,
    payload     bytea NOT NULL,
    PRIMARY KEY (shard, id)
);

-- Only recipients that fail or are paused: nobody else pays for this table.
CREATE TABLE eventbox_failure (
    shard              int2 NOT NULL,
    recipient          text COLLATE "C" NOT NULL,
    attempts           int4 NOT NULL DEFAULT 0,
    next_attempt_at_us int8 NOT NULL DEFAULT 0,
    error              text,
    paused             bool NOT NULL DEFAULT false,
    PRIMARY KEY (shard, recipient)
);
