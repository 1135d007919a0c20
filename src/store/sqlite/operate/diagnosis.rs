//! Facts about the database on SQLite.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, SqliteConnection};

use crate::store::connect::schema::{Schema, SettingsCheck};
use crate::store::fault::Fault;
use crate::store::operate::diagnosis::{
    DiagnosisDialect, FoundObject, MAX_SEARCHED, MadeObject, MissingRight, OldestMessage, RowSecurity, VacuumFacts,
    made, oldest,
};
use crate::store::sqlite::now_us;

/// Differs: a catalogue of its own, in which `_` of GLOB stands for itself.
const LIST_OBJECTS: &str = "SELECT type, name FROM sqlite_schema WHERE name GLOB 'eventbox_*'";

/// Differs: no LATERAL, so the bound is for all shards together.
const OLDEST_UNDELIVERED: &str = concat!(
    "SELECT max(",
    now_us!(),
    " - o.created_at_us, 0), o.attempts, o.last_code, o.last_error FROM (
         SELECT o.created_at_us, o.attempts, o.last_code, o.last_error
         FROM json_each($1) s CROSS JOIN eventbox_outbox o INDEXED BY eventbox_outbox_due
             ON o.shard = s.value AND o.next_attempt_at_us < 9223372036854775807
         WHERE o.delivered_at_us IS NULL LIMIT $2 + 0
     ) o ORDER BY o.created_at_us LIMIT 1"
);

/// A database in memory has no file.
const FILE: &str = "SELECT file FROM pragma_database_list WHERE name = 'main'";

/// At most 20 damages: a damaged page has many.
const DAMAGES: &str = "SELECT integrity_check FROM pragma_integrity_check LIMIT 20";

impl DiagnosisDialect for Sqlite {
    // Differs: a primary key is the table itself, and one statement writes two tables by the trigger of a view.
    const MADE: &'static [MadeObject] = &[
        made(1, "table", "eventbox_event"),
        made(1, "table", "eventbox_tombstone"),
        made(1, "table", "eventbox_state"),
        made(1, "table", "eventbox_outbox"),
        made(1, "index", "eventbox_outbox_due"),
        made(1, "index", "eventbox_outbox_delivered"),
        made(1, "table", "eventbox_dead_letter"),
        made(1, "table", "eventbox_failure"),
        made(2, "table", "eventbox_member"),
        made(2, "table", "eventbox_lease"),
        made(3, "table", "eventbox_timer"),
        made(3, "index", "eventbox_timer_id"),
        made(4, "table", "eventbox_paused_kind"),
        made(6, "view", "eventbox_round_of_one"),
        made(6, "trigger", "eventbox_round_of_one_insert"),
        made(7, "table", "eventbox_operation"),
        made(7, "index", "eventbox_dead_letter_recipient"),
        made(8, "table", "eventbox_journal"),
        made(8, "index", "eventbox_journal_at"),
        made(8, "table", "eventbox_journal_kind"),
        made(9, "table", "eventbox_paused_destination"),
        made(10, "view", "eventbox_named_emit"),
        made(10, "trigger", "eventbox_named_emit_insert"),
        made(11, "table", "eventbox_stream"),
        made(11, "table", "eventbox_checkpoint"),
        made(12, "table", "eventbox_shard"),
        made(12, "table", "eventbox_revision"),
        made(15, "table", "eventbox_anchor"),
    ];

    fn why_unusable(fault: &Fault) -> Option<&'static str> {
        const NOT_A_DATABASE: &str = "26";
        let error = fault.database_error()?;
        (error.code()? == NOT_A_DATABASE)
            .then_some("the file is not a database of SQLite, or is encrypted: open another file")
    }

    async fn engine_version(conn: &mut SqliteConnection) -> Result<String, Fault> {
        Ok(sqlx::query_scalar("SELECT sqlite_version()").fetch_one(conn).await?)
    }

    async fn check_server(conn: &mut SqliteConnection) -> Result<SettingsCheck, Fault> {
        Sqlite::check_settings(conn).await
    }

    async fn list_objects(conn: &mut SqliteConnection) -> Result<Vec<FoundObject>, Fault> {
        let object = |row: &SqliteRow| Ok(FoundObject { sort: row.try_get(0)?, name: row.try_get(1)?, is_valid: true });
        sqlx::query(LIST_OBJECTS).fetch_all(conn).await?.iter().map(object).collect()
    }

    // Differs: the rights are those of the file.
    async fn row_security(_conn: &mut SqliteConnection) -> Result<Option<Vec<RowSecurity>>, Fault> {
        Ok(None)
    }

    // Differs: as above.
    async fn missing_rights(_conn: &mut SqliteConnection) -> Result<Option<Vec<MissingRight>>, Fault> {
        Ok(None)
    }

    // Differs: a removed row leaves its place at once.
    async fn vacuum_facts(_conn: &mut SqliteConnection) -> Result<Option<VacuumFacts>, Fault> {
        Ok(None)
    }

    async fn log_bytes(conn: &mut SqliteConnection) -> Result<Option<u64>, Fault> {
        let file: String = sqlx::query_scalar(FILE).fetch_one(conn).await?;
        if file.is_empty() {
            return Ok(None);
        }
        match std::fs::metadata(format!("{file}-wal")) {
            Ok(log) => Ok(Some(log.len())),
            // The last connection removes the log.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Some(0)),
            Err(error) => Err(sqlx::Error::Io(error).into()),
        }
    }

    async fn damages(conn: &mut SqliteConnection) -> Result<Option<Vec<String>>, Fault> {
        let found: Vec<String> = sqlx::query_scalar(DAMAGES).fetch_all(conn).await?;
        Ok(Some(found.into_iter().filter(|line| line != "ok").collect()))
    }

    async fn oldest_undelivered(conn: &mut SqliteConnection) -> Result<Option<OldestMessage>, Fault> {
        let shards: Vec<u8> = (0..=u8::MAX).collect();
        let shards = serde_json::to_string(&shards).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let row = sqlx::query(OLDEST_UNDELIVERED).bind(shards).bind(MAX_SEARCHED).fetch_optional(conn).await?;
        row.as_ref().map(oldest).transpose()
    }
}
