-- Kinds of which no turn is begun until somebody resumes them.
CREATE TABLE eventbox_paused_kind (
    kind         TEXT PRIMARY KEY NOT NULL,
    paused_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
