-- The processes that work on the boxes of this database.
CREATE TABLE eventbox_member (
    worker          BLOB PRIMARY KEY,
    address         TEXT NOT NULL,
    shard_limit     INTEGER NOT NULL,
    exiting         INTEGER NOT NULL,
    heartbeat_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Who works on a shard, until when. It saves work; what is right never rests on it. A row for every shard, for ever, so that taking one is an update.
CREATE TABLE eventbox_lease (
    shard         INTEGER NOT NULL,
    holder        BLOB,
    generation    INTEGER NOT NULL DEFAULT 0,
    expires_at_us INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (shard)
) STRICT, WITHOUT ROWID;
INSERT INTO eventbox_lease (shard)
WITH RECURSIVE all_shards (shard) AS (SELECT 0 UNION ALL SELECT shard + 1 FROM all_shards WHERE shard < 255)
SELECT shard FROM all_shards;
