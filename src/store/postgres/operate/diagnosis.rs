//! Facts about the database on Postgres.

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Postgres, Row};

use crate::store::connect::schema::{Schema, SettingsCheck};
use crate::store::fault::Fault;
use crate::store::operate::diagnosis::{
    DiagnosisDialect, FoundObject, MAX_SEARCHED, MadeObject, MissingRight, OldestMessage, RowSecurity, Sees,
    VacuumFacts, VacuumedTable, made, oldest,
};
use crate::store::postgres::connect::check::{SECURED_HELP, check_server, list_secured};
use crate::store::postgres::{by_shard, now_us};

const LIST_OBJECTS: &str = r"
SELECT CASE WHEN i.indexrelid IS NULL THEN 'table' ELSE 'index' END, c.relname::text, coalesce(i.indisvalid, true)
  FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
 WHERE c.relkind IN ('r', 'p', 'i', 'I') AND c.relname LIKE 'eventbox\_%' AND pg_table_is_visible(c.oid)";

/// A table that is missing has no oid, and is not in the answer. The rows of leases, specs, counters and anchors are
/// there for ever.
const MISSING_RIGHTS: &str = "SELECT t.name, r.name FROM unnest((SELECT $1::text[])) AS t (name)
CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS r (name)
WHERE NOT has_table_privilege(to_regclass(t.name)::oid, r.name)
  AND NOT (t.name IN ('eventbox_lease', 'eventbox_shard', 'eventbox_revision') AND r.name IN ('INSERT', 'DELETE'))
  AND NOT (t.name = 'eventbox_anchor' AND r.name <> 'SELECT')
UNION ALL
SELECT 'eventbox_migration', 'SELECT'
WHERE NOT has_table_privilege(to_regclass('eventbox_migration')::oid, 'SELECT')
ORDER BY 1, 2";

const AUTOVACUUM: &str = "SELECT current_setting('autovacuum') = 'on' AND current_setting('track_counts') = 'on'";

const VACUUMED_TABLES: &str = r"
SELECT c.relname::text,
       coalesce((SELECT o.option_value::bool FROM pg_options_to_table(c.reloptions) o
                 WHERE o.option_name = 'autovacuum_enabled'), true),
       coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0),
       (extract(epoch FROM clock_timestamp() - greatest(s.last_vacuum, s.last_autovacuum)) * 1000000)::int8
  FROM pg_class c LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
 WHERE c.relkind = 'r' AND c.relname LIKE 'eventbox\_%' AND pg_table_is_visible(c.oid)
 ORDER BY c.relname";

/// Finds the undelivered messages as the observation of the outbox does, the same number in each shard.
const OLDEST_UNDELIVERED: &str = concat!(
    "SELECT greatest(",
    now_us!(),
    " - o.created_at_us, 0), o.attempts, o.last_code, o.last_error
     FROM generate_series(0, 255) AS s (shard)
     CROSS JOIN LATERAL (
         SELECT o.created_at_us, o.attempts, o.last_code, o.last_error FROM eventbox_outbox o
         WHERE o.shard = s.shard::int2 AND o.next_attempt_at_us < 9223372036854775807 AND o.delivered_at_us IS NULL
         ORDER BY o.next_attempt_at_us LIMIT $1 / 256
     ) o ORDER BY o.created_at_us LIMIT 1"
);

impl DiagnosisDialect for Postgres {
    const MADE: &'static [MadeObject] = &[
        made(1, "table", "eventbox_event"),
        made(1, "index", "eventbox_event_pkey"),
        made(1, "table", "eventbox_tombstone"),
        made(1, "index", "eventbox_tombstone_pkey"),
        made(1, "table", "eventbox_state"),
        made(1, "index", "eventbox_state_pkey"),
        made(1, "table", "eventbox_outbox"),
        made(1, "index", "eventbox_outbox_pkey"),
        made(1, "index", "eventbox_outbox_due"),
        made(1, "index", "eventbox_outbox_delivered"),
        made(1, "table", "eventbox_dead_letter"),
        made(1, "index", "eventbox_dead_letter_pkey"),
        made(1, "table", "eventbox_failure"),
        made(1, "index", "eventbox_failure_pkey"),
        made(2, "table", "eventbox_member"),
        made(2, "index", "eventbox_member_pkey"),
        made(2, "table", "eventbox_lease"),
        made(2, "index", "eventbox_lease_pkey"),
        made(3, "table", "eventbox_timer"),
        made(3, "index", "eventbox_timer_pkey"),
        made(3, "index", "eventbox_timer_id"),
        made(4, "table", "eventbox_paused_kind"),
        made(4, "index", "eventbox_paused_kind_pkey"),
        made(7, "table", "eventbox_operation"),
        made(7, "index", "eventbox_operation_pkey"),
        made(7, "index", "eventbox_dead_letter_recipient"),
        made(8, "table", "eventbox_journal"),
        made(8, "index", "eventbox_journal_pkey"),
        made(8, "index", "eventbox_journal_at"),
        made(8, "table", "eventbox_journal_kind"),
        made(8, "index", "eventbox_journal_kind_pkey"),
        made(9, "table", "eventbox_paused_destination"),
        made(9, "index", "eventbox_paused_destination_pkey"),
        made(11, "table", "eventbox_stream"),
        made(11, "index", "eventbox_stream_pkey"),
        made(11, "table", "eventbox_checkpoint"),
        made(11, "index", "eventbox_checkpoint_pkey"),
        made(12, "table", "eventbox_shard"),
        made(12, "index", "eventbox_shard_pkey"),
        made(12, "table", "eventbox_revision"),
        made(12, "index", "eventbox_revision_pkey"),
        made(15, "table", "eventbox_anchor"),
        made(15, "index", "eventbox_anchor_pkey"),
    ];

    fn why_unusable(fault: &Fault) -> Option<&'static str> {
        Postgres::connection_problem(fault)
    }

    async fn engine_version(conn: &mut PgConnection) -> Result<String, Fault> {
        Ok(sqlx::query_scalar("SELECT current_setting('server_version')").fetch_one(conn).await?)
    }

    async fn check_server(conn: &mut PgConnection) -> Result<SettingsCheck, Fault> {
        check_server(conn).await
    }

    async fn list_objects(conn: &mut PgConnection) -> Result<Vec<FoundObject>, Fault> {
        let object =
            |row: &PgRow| Ok(FoundObject { sort: row.try_get(0)?, name: row.try_get(1)?, is_valid: row.try_get(2)? });
        sqlx::query(LIST_OBJECTS).fetch_all(conn).await?.iter().map(object).collect()
    }

    async fn row_security(conn: &mut PgConnection) -> Result<Option<Vec<RowSecurity>>, Fault> {
        let secured = list_secured(conn).await?.into_iter().map(|secured| RowSecurity {
            table: secured.table,
            sees: match (secured.binds, secured.sees_some, secured.sees_all) {
                (false, ..) => Sees::Unbound,
                (true, false, _) => Sees::Nothing,
                (true, true, false) => Sees::Some,
                (true, true, true) => Sees::All,
            },
            help: SECURED_HELP,
        });
        Ok(Some(secured.collect()))
    }

    async fn missing_rights(conn: &mut PgConnection) -> Result<Option<Vec<MissingRight>>, Fault> {
        let tables = Self::MADE.iter().filter(|made| made.sort == "table").map(|made| made.name);
        let rows = sqlx::query(MISSING_RIGHTS).bind(tables.collect::<Vec<_>>()).fetch_all(conn).await?;
        let missing = |row: &PgRow| Ok(MissingRight { table: row.try_get(0)?, right: row.try_get(1)? });
        rows.iter().map(missing).collect::<Result<_, Fault>>().map(Some)
    }

    async fn vacuum_facts(conn: &mut PgConnection) -> Result<Option<VacuumFacts>, Fault> {
        let is_on = sqlx::query_scalar(AUTOVACUUM).fetch_one(&mut *conn).await?;
        let table = |row: &PgRow| {
            Ok(VacuumedTable {
                table: row.try_get(0)?,
                is_on: row.try_get(1)?,
                live_rows: row.try_get(2)?,
                dead_rows: row.try_get(3)?,
                since_vacuum_us: row.try_get(4)?,
            })
        };
        let rows = sqlx::query(VACUUMED_TABLES).fetch_all(conn).await?;
        let tables = rows.iter().map(table).collect::<Result<_, Fault>>()?;
        Ok(Some(VacuumFacts { is_on, tables }))
    }

    async fn log_bytes(_conn: &mut PgConnection) -> Result<Option<u64>, Fault> {
        Ok(None)
    }

    async fn damages(_conn: &mut PgConnection) -> Result<Option<Vec<String>>, Fault> {
        Ok(None)
    }

    async fn oldest_undelivered(conn: &mut PgConnection) -> Result<Option<OldestMessage>, Fault> {
        let sql = if by_shard::is_on() { by_shard::looking::OLDEST_OF_NODES } else { OLDEST_UNDELIVERED };
        let row = sqlx::query(sql).bind(MAX_SEARCHED).fetch_optional(conn).await?;
        row.as_ref().map(oldest).transpose()
    }
}
