-- What became of the events of kinds that keep a journal. The last outcome of an event wins: 1 consumed, 2 garbage,
-- 3 quarantined, 4 purged by an operator.
CREATE TABLE eventbox_journal (
    shard     INTEGER NOT NULL,
    recipient TEXT NOT NULL,
    id        BLOB NOT NULL,
    name      TEXT,
    turn      INTEGER NOT NULL,
    outcome   INTEGER NOT NULL,
    at_us     INTEGER NOT NULL,
    PRIMARY KEY (shard, recipient, id)
) STRICT, WITHOUT ROWID;
-- By kind, so that a runtime finds the old rows of one kind between the rows of others that are kept longer.
CREATE INDEX eventbox_journal_at
ON eventbox_journal (substr(recipient, 1, instr(recipient || '/', '/') - 1), at_us);
-- The kinds that keep a journal, and for how long. 0 ends a journal: no row is written any more, and a runtime deletes
-- the rows that are there.
CREATE TABLE eventbox_journal_kind (
    kind    TEXT PRIMARY KEY NOT NULL,
    keep_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
