//! Facts about the database itself, for the doctor.

use sqlx::{Database, Row};

use crate::store::connect::schema::SettingsCheck;
use crate::store::fault::Fault;

/// An object that a migration makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MadeObject {
    /// `table`, `index`, `view` or `trigger`.
    pub sort: &'static str,
    pub name: &'static str,
    /// Number of the migration that made it last.
    pub migration: i64,
}

/// Returns an object that a migration makes.
pub(in crate::store) const fn made(migration: i64, sort: &'static str, name: &'static str) -> MadeObject {
    MadeObject { sort, name, migration }
}

/// An object that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundObject {
    pub sort: String,
    pub name: String,
    /// False for an index that was not built to its end.
    pub is_valid: bool,
}

/// A right that this role lacks on a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingRight {
    pub table: String,
    pub right: String,
}

/// Row-level security of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowSecurity {
    pub table: String,
    /// How much this role sees of the table.
    pub sees: Sees,
    /// What to do about it.
    pub help: &'static str,
}

/// Rows that this role sees of a table with row-level security.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    Nothing,
    /// Perhaps not all rows.
    Some,
    /// All rows, by a policy.
    All,
    /// All rows, because row-level security does not bind this role.
    Unbound,
}

/// Work of the vacuum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VacuumFacts {
    /// Whether the server runs autovacuum.
    pub is_on: bool,
    pub tables: Vec<VacuumedTable>,
}

/// A table, as the vacuum sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VacuumedTable {
    pub table: String,
    /// Whether autovacuum is not switched off for it.
    pub is_on: bool,
    /// Number of rows, as the server estimates it.
    pub live_rows: i64,
    /// Number of removed rows that still take room, as the server estimates it.
    pub dead_rows: i64,
    /// Time since the last vacuum, microseconds; `None` before the first.
    pub since_vacuum_us: Option<i64>,
}

/// The oldest message that is not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldestMessage {
    pub age_us: i64,
    pub attempts: i32,
    pub code: Option<String>,
    pub error: Option<String>,
}

/// Most undelivered messages among which the oldest is searched.
pub(in crate::store) const MAX_SEARCHED: i64 = 100_000;

/// Reads the row of [`DiagnosisDialect::oldest_undelivered`].
pub(in crate::store) fn oldest<R: Row>(row: &R) -> Result<OldestMessage, Fault>
where
    usize: sqlx::ColumnIndex<R>,
    i32: for<'r> sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    i64: for<'r> sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    String: for<'r> sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    Ok(OldestMessage {
        age_us: row.try_get(0)?,
        attempts: row.try_get(1)?,
        code: row.try_get(2)?,
        error: row.try_get(3)?,
    })
}

/// Questions about the database itself.
pub trait DiagnosisDialect: Database {
    /// Objects that the migrations make, except the table in which they are recorded.
    const MADE: &'static [MadeObject];

    /// Returns why no statement can be run at all, and what to do, when the error of a first connection says it.
    fn why_unusable(fault: &Fault) -> Option<&'static str>;

    /// Returns the version of the engine.
    fn engine_version(conn: &mut Self::Connection) -> impl Future<Output = Result<String, Fault>> + Send;

    /// Checks the settings, without the rows that this role sees.
    fn check_server(conn: &mut Self::Connection) -> impl Future<Output = Result<SettingsCheck, Fault>> + Send;

    /// Returns the objects of eventboxes that are there.
    fn list_objects(conn: &mut Self::Connection) -> impl Future<Output = Result<Vec<FoundObject>, Fault>> + Send;

    /// Returns the tables with row-level security; `None` where there is no such thing.
    fn row_security(
        conn: &mut Self::Connection,
    ) -> impl Future<Output = Result<Option<Vec<RowSecurity>>, Fault>> + Send;

    /// Returns the rights on these tables that this role lacks; `None` where there are no roles. The two slices are of
    /// one length: a table, and a right on it.
    fn missing_rights(
        conn: &mut Self::Connection,
        tables: &[&str],
        rights: &[&str],
    ) -> impl Future<Output = Result<Option<Vec<MissingRight>>, Fault>> + Send;

    /// Returns what the vacuum does; `None` where removed rows need none.
    fn vacuum_facts(conn: &mut Self::Connection) -> impl Future<Output = Result<Option<VacuumFacts>, Fault>> + Send;

    /// Returns the size of the write-ahead log; `None` where the log is the server's business, and in memory.
    fn log_bytes(conn: &mut Self::Connection) -> impl Future<Output = Result<Option<u64>, Fault>> + Send;

    /// Reads the whole file and returns what is damaged; `None` where the engine cannot.
    fn damages(conn: &mut Self::Connection) -> impl Future<Output = Result<Option<Vec<String>>, Fault>> + Send;

    /// Returns the oldest message that is not delivered.
    fn oldest_undelivered(
        conn: &mut Self::Connection,
    ) -> impl Future<Output = Result<Option<OldestMessage>, Fault>> + Send;
}
