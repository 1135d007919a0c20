-- What operators ask of each shard, and what its holder reports of a failure. A row for every shard, for ever. A shard
-- whose revisions are 0 was never changed, or was set back.
CREATE TABLE eventbox_shard (
    shard              int2 PRIMARY KEY,
    labels             text NOT NULL DEFAULT '{}',
    is_disabled        bool NOT NULL DEFAULT false,
    zone               text,
    create_revision    int8 NOT NULL DEFAULT 0,
    mod_revision       int8 NOT NULL DEFAULT 0,
    failed_at_us       int8,
    attempts           int4 NOT NULL DEFAULT 0,
    next_attempt_at_us int8,
    errors             text
) WITH (fillfactor = 50);
INSERT INTO eventbox_shard (shard) SELECT generate_series(0, 255);
-- Counters that grow by one with each change. `shard` counts the changes of eventbox_shard by operators.
CREATE TABLE eventbox_revision (
    counter text COLLATE "C" PRIMARY KEY,
    value   int8 NOT NULL
);
INSERT INTO eventbox_revision (counter, value) VALUES ('shard', 0);
-- Where a process runs, and its labels as a JSON object.
ALTER TABLE eventbox_member ADD COLUMN zone text NOT NULL DEFAULT '';
ALTER TABLE eventbox_member ADD COLUMN labels text NOT NULL DEFAULT '{}';
