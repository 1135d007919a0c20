-- Where an event came from outside, as JSON: the streams of peers, and the numbers of the first and the last event on
-- each. Everything that the event causes keeps it. NULL for what did not come from outside.
ALTER TABLE eventbox_event ADD COLUMN origin text;
ALTER TABLE eventbox_timer ADD COLUMN origin text;
ALTER TABLE eventbox_dead_letter ADD COLUMN origin text;
ALTER TABLE eventbox_outbox ADD COLUMN origin text;
ALTER TABLE eventbox_journal ADD COLUMN origin text;
