-- Differs: SQLite chooses its plans from the keys alone, because nobody gathers statistics here; there is nothing to do.
SELECT 1;
