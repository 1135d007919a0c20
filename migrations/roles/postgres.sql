-- Roles of eventbox on Postgres. Run it in the database and schema of the tables, as a superuser, after each migration. Run again, it changes nothing.
--
--   eventbox_owner    owns the tables and migrates them. No service runs with it.
--   eventbox_service  processes, publishes, delivers and repairs: workers, `eventbox serve`, an operator.
--   eventbox_emitter  emits events, and reads none.
--   eventbox_reader   reads everything, payloads included, and changes nothing.
--
-- It is one transaction, so that a service that runs loses no right in between.
--
-- None of them can log in. Make each login a member: CREATE ROLE orders LOGIN PASSWORD '…' IN ROLE eventbox_service.
BEGIN;

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['eventbox_owner', 'eventbox_service', 'eventbox_emitter', 'eventbox_reader'] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = role_name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role_name);
    END LOOP;
    EXECUTE format('GRANT CREATE ON SCHEMA %I TO eventbox_owner', current_schema());
END
$$;

-- The owner, and nobody else, alters and drops the tables.
DO $$
DECLARE
    table_name text;
BEGIN
    FOR table_name IN
        SELECT c.relname FROM pg_class c
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND c.relname LIKE 'eventbox\_%'
    LOOP
        EXECUTE format('ALTER TABLE %I OWNER TO eventbox_owner', table_name);
        EXECUTE format('REVOKE ALL ON %I FROM PUBLIC, eventbox_service, eventbox_emitter, eventbox_reader', table_name);
    END LOOP;
END
$$;

-- A service asks at its start which migrations there are.
GRANT SELECT ON eventbox_migration TO eventbox_service, eventbox_emitter, eventbox_reader;

GRANT SELECT, INSERT, UPDATE, DELETE ON
    eventbox_event, eventbox_tombstone, eventbox_timer, eventbox_state, eventbox_failure, eventbox_paused_kind,
    eventbox_outbox, eventbox_paused_destination, eventbox_dead_letter, eventbox_member, eventbox_operation,
    eventbox_journal, eventbox_journal_kind, eventbox_stream, eventbox_checkpoint
TO eventbox_service;
-- There is a row for each shard, and for each counter, for ever.
GRANT SELECT, UPDATE ON eventbox_lease, eventbox_shard, eventbox_revision TO eventbox_service;
GRANT SELECT ON eventbox_anchor TO eventbox_service, eventbox_emitter;

-- A named event looks by its keys whether the first copy is still there. The values stay hidden.
GRANT INSERT ON eventbox_event, eventbox_timer, eventbox_tombstone TO eventbox_emitter;
GRANT SELECT (shard, recipient, id) ON eventbox_event, eventbox_timer TO eventbox_emitter;
GRANT SELECT (shard, recipient, name, id) ON eventbox_tombstone TO eventbox_emitter;
GRANT SELECT (shard, id) ON eventbox_dead_letter TO eventbox_emitter;

GRANT SELECT ON
    eventbox_event, eventbox_tombstone, eventbox_timer, eventbox_state, eventbox_failure, eventbox_paused_kind,
    eventbox_outbox, eventbox_paused_destination, eventbox_dead_letter, eventbox_member, eventbox_lease,
    eventbox_operation, eventbox_journal, eventbox_journal_kind, eventbox_stream, eventbox_checkpoint, eventbox_shard,
    eventbox_revision, eventbox_anchor
TO eventbox_reader;

COMMIT;
