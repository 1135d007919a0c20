-- The processes that work on the boxes of this database.
CREATE TABLE eventbox_member (
    worker          uuid PRIMARY KEY,
    address         text NOT NULL,
    shard_limit     int4 NOT NULL,
    exiting         bool NOT NULL,
    heartbeat_at_us int8 NOT NULL
) WITH (fillfactor = 50);

-- Who works on a shard, until when. It saves work; what is right never rests on it. A row for every shard, for ever, so that taking one is an update.
CREATE TABLE eventbox_lease (
    shard         int2 PRIMARY KEY,
    holder        uuid,
    generation    int8 NOT NULL DEFAULT 0,
    expires_at_us int8 NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO eventbox_lease (shard) SELECT generate_series(0, 255);
