-- Destinations to which nothing is sent until somebody resumes them: messages of a source and a type. An empty text
-- stands for every source, or for every type.
CREATE TABLE eventbox_paused_destination (
    source       TEXT NOT NULL,
    type         TEXT NOT NULL,
    paused_at_us INTEGER NOT NULL,
    who          TEXT NOT NULL,
    why          TEXT,
    PRIMARY KEY (source, type)
) STRICT, WITHOUT ROWID;
