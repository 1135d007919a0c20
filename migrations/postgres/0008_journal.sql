-- What became of the events of kinds that keep a journal. The last outcome of an event wins: 1 consumed, 2 garbage,
-- 3 quarantined, 4 purged by an operator.
CREATE TABLE eventbox_journal (
    shard     int2 NOT NULL,
    recipient text COLLATE "C" NOT NULL,
    id        uuid NOT NULL,
    name      text COLLATE "C",
    turn      int8 NOT NULL,
    outcome   int2 NOT NULL,
    at_us     int8 NOT NULL,
    PRIMARY KEY (shard, recipient, id)
);
-- By kind, so that a runtime finds the old rows of one kind between the rows of others that are kept longer.
CREATE INDEX eventbox_journal_at ON eventbox_journal (split_part(recipient, '/', 1), at_us);
-- The kinds that keep a journal, and for how long. 0 ends a journal: no row is written any more, and a runtime deletes
-- the rows that are there.
CREATE TABLE eventbox_journal_kind (
    kind    text COLLATE "C" PRIMARY KEY,
    keep_us int8 NOT NULL
);
