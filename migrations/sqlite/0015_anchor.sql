-- A row for every shard, for ever: statements that look into every shard begin with it.
CREATE TABLE eventbox_anchor (
    shard INTEGER NOT NULL,
    PRIMARY KEY (shard)
) STRICT, WITHOUT ROWID;
INSERT INTO eventbox_anchor (shard)
WITH RECURSIVE all_shards (shard) AS (SELECT 0 UNION ALL SELECT shard + 1 FROM all_shards WHERE shard < 255)
SELECT shard FROM all_shards;
