-- What operators ask of each shard, and what its holder reports of a failure. A row for every shard, for ever. A shard
-- whose revisions are 0 was never changed, or was set back.
CREATE TABLE eventbox_shard (
    shard              INTEGER NOT NULL,
    labels             TEXT NOT NULL DEFAULT '{}',
    is_disabled        INTEGER NOT NULL DEFAULT 0,
    zone               TEXT,
    create_revision    INTEGER NOT NULL DEFAULT 0,
    mod_revision       INTEGER NOT NULL DEFAULT 0,
    failed_at_us       INTEGER,
    attempts           INTEGER NOT NULL DEFAULT 0,
    next_attempt_at_us INTEGER,
    errors             TEXT,
    PRIMARY KEY (shard)
) STRICT, WITHOUT ROWID;
INSERT INTO eventbox_shard (shard)
WITH RECURSIVE all_shards (shard) AS (SELECT 0 UNION ALL SELECT shard + 1 FROM all_shards WHERE shard < 255)
SELECT shard FROM all_shards;
-- Counters that grow by one with each change. `shard` counts the changes of eventbox_shard by operators.
CREATE TABLE eventbox_revision (
    counter TEXT NOT NULL,
    value   INTEGER NOT NULL,
    PRIMARY KEY (counter)
) STRICT, WITHOUT ROWID;
INSERT INTO eventbox_revision (counter, value) VALUES ('shard', 0);
-- Where a process runs, and its labels as a JSON object.
ALTER TABLE eventbox_member ADD COLUMN zone TEXT NOT NULL DEFAULT '';
ALTER TABLE eventbox_member ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
