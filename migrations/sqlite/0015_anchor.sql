-- A row for every shard, for ever: statements that look into every shard begin with it.
CREATE TABLE eventbox_anchor (
    shard INTEGER PRIMARY KEY
) STRICT;
INSERT INTO eventbox_anchor (shard)
WITH RECURSIVE every (shard) AS (SELECT 0 UNION ALL SELECT shard + 1 FROM every WHERE shard < 255)
SELECT shard FROM every;
