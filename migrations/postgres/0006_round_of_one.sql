-- Differs: a statement of Postgres can write two tables by itself; there is nothing to do.
SELECT 1;
