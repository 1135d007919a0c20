-- Where the commit of a round of one recipient goes: one statement is a transaction by itself, and a statement of SQLite can write two tables in the
-- trigger of a view only. Its RETURNING row says that the turn moved; RAISE(IGNORE) leaves it out.
CREATE VIEW eventbox_round_of_one AS
SELECT shard, recipient, turn, token, state, 0 AS keeps_state, NULL AS token_before, NULL AS first, NULL AS last, NULL AS ids, 0 AS removed
FROM eventbox_state;
CREATE TRIGGER eventbox_round_of_one_insert INSTEAD OF INSERT ON eventbox_round_of_one BEGIN
    INSERT INTO eventbox_state (shard, recipient, turn, token, updated_at_us, state)
    SELECT new.shard, new.recipient, 1, new.token, CAST(unixepoch('subsec') * 1000000 AS INTEGER), new.state
    WHERE new.turn = 0 ON CONFLICT DO NOTHING;
    UPDATE eventbox_state SET turn = new.turn + 1, token = new.token,
        updated_at_us = CAST(unixepoch('subsec') * 1000000 AS INTEGER),
        state = CASE WHEN new.keeps_state THEN state ELSE new.state END
    WHERE new.turn > 0 AND shard = new.shard AND recipient = new.recipient AND turn = new.turn
      AND (new.token_before IS NULL OR token = new.token_before);
    SELECT RAISE(IGNORE) WHERE NOT EXISTS (
        SELECT 1 FROM eventbox_state s
        WHERE s.shard = new.shard AND s.recipient = new.recipient AND s.token = new.token
    );
    DELETE FROM eventbox_event
    WHERE shard = new.shard AND recipient = new.recipient AND id BETWEEN new.first AND new.last
      AND (new.ids IS NULL OR id IN (SELECT unhex(value) FROM json_each(new.ids)));
    SELECT RAISE(ABORT, 'eventbox: shortfall') WHERE changes() <> new.removed;
END;
