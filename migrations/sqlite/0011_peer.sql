-- The streams that are open: ordered flows of peers, each with the process that has its connection. A stream whose
-- process has died is lost, and any process that runs the peer removes its row.
CREATE TABLE eventbox_stream (
    peer          TEXT NOT NULL,
    stream        TEXT NOT NULL,
    worker        BLOB NOT NULL,
    facts         TEXT NOT NULL,
    started_at_us INTEGER NOT NULL,
    PRIMARY KEY (peer, stream)
) STRICT, WITHOUT ROWID;
-- How far a stream was read. It moves in the transaction of the emit.
CREATE TABLE eventbox_checkpoint (
    peer        TEXT NOT NULL,
    stream      TEXT NOT NULL,
    position    TEXT NOT NULL,
    moved_at_us INTEGER NOT NULL,
    PRIMARY KEY (peer, stream)
) STRICT, WITHOUT ROWID;
