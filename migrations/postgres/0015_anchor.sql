-- A row for every shard, for ever. Where a cluster cuts the tables by shard, an insert of several rows reads the row of
-- its shard, so that it goes to the node of that shard as one command.
CREATE TABLE eventbox_anchor (
    shard int2 PRIMARY KEY
);
INSERT INTO eventbox_anchor (shard) SELECT generate_series(0, 255);
