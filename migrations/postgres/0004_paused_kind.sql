-- Kinds of which no turn is begun until somebody resumes them.
CREATE TABLE eventbox_paused_kind (
    kind         text COLLATE "C" PRIMARY KEY,
    paused_at_us int8 NOT NULL
);
