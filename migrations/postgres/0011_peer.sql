-- The streams that are open: ordered flows of peers, each with the process that has its connection. A stream whose
-- process has died is lost, and any process that runs the peer removes its row.
CREATE TABLE eventbox_stream (
    peer          text COLLATE "C" NOT NULL,
    stream        text COLLATE "C" NOT NULL,
    worker        uuid NOT NULL,
    facts         text NOT NULL,
    started_at_us int8 NOT NULL,
    PRIMARY KEY (peer, stream)
);
-- How far a stream was read. It moves in the transaction of the emit.
CREATE TABLE eventbox_checkpoint (
    peer        text COLLATE "C" NOT NULL,
    stream      text COLLATE "C" NOT NULL,
    position    text NOT NULL,
    moved_at_us int8 NOT NULL,
    PRIMARY KEY (peer, stream)
);
