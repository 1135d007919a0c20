-- Destinations to which nothing is sent until somebody resumes them: messages of a source and a type. An empty text
-- stands for every source, or for every type.
CREATE TABLE eventbox_paused_destination (
    source       text NOT NULL,
    type         text NOT NULL,
    paused_at_us int8 NOT NULL,
    who          text NOT NULL,
    why          text,
    PRIMARY KEY (source, type)
);
