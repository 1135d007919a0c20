-- Events for later: moved into eventbox_event, with their ids, when they are due. A name is in eventbox_tombstone from the emit on.
CREATE TABLE eventbox_timer (
    shard       int2 NOT NULL,
    due_at_us   int8 NOT NULL,
    id          uuid NOT NULL,
    recipient   text COLLATE "C" NOT NULL,
    name        text COLLATE "C",
    traceparent text,
    value       bytea NOT NULL,
    PRIMARY KEY (shard, due_at_us, id)
);
-- By id (whoever has an id has its recipient too), and by recipient.
CREATE UNIQUE INDEX eventbox_timer_id ON eventbox_timer (shard, recipient, id);
