-- A box is empty most of the time, and a planner that sees an empty table reads it as a whole: such a plan is kept, and is as slow as the table is long
-- when the events come. So these tables never give pages back (which would also lock them), and have some from the beginning: then the index is cheaper.
ALTER TABLE eventbox_event SET (vacuum_truncate = off);
ALTER TABLE eventbox_state SET (vacuum_truncate = off);
ALTER TABLE eventbox_outbox SET (vacuum_truncate = off);

-- Nobody ever sees these rows: there is no shard -1, and they are gone before the commit.
INSERT INTO eventbox_event (shard, recipient, id, value)
SELECT -1, 'room', gen_random_uuid(), convert_to(repeat('-', 200), 'UTF8') FROM generate_series(1, 1000);
INSERT INTO eventbox_state (shard, recipient, turn, token, updated_at_us, state)
SELECT -1, 'room/' || n, 0, gen_random_uuid(), 0, convert_to(repeat('-', 200), 'UTF8') FROM generate_series(1, 1000) n;
INSERT INTO eventbox_outbox (shard, id, source, type, created_at_us, next_attempt_at_us, payload)
SELECT -1, gen_random_uuid(), '', '', 0, 0, convert_to(repeat('-', 200), 'UTF8') FROM generate_series(1, 1000);
DELETE FROM eventbox_event WHERE shard = -1;
DELETE FROM eventbox_state WHERE shard = -1;
DELETE FROM eventbox_outbox WHERE shard = -1;
