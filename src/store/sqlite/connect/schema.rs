//! Migrations, settings and transactions of SQLite.

use sqlx::migrate::Migrator;
use sqlx::{Pool, Row, Sqlite};

use crate::store::connect::layout::Layout;
use crate::store::connect::migrations::{migration_files, migrator_of};
use crate::store::connect::schema::{Schema, SettingsCheck, SettingsProblem};
use crate::store::fault::Fault;

/// Older libraries can corrupt the log (WAL) of a file that two connections use.
const MIN_VERSION: (u32, u32, u32) = (3, 51, 3);

impl Schema for Sqlite {
    // Differs: a transaction that begins as a reader can fail at its first write, without a wait.
    const BEGIN_WRITE: &'static str = "BEGIN IMMEDIATE";

    // Differs: the rights on a file are those of the file system.
    const ROLES: Option<&'static str> = None;

    fn migrator() -> Migrator {
        migrator_of(&migration_files!("sqlite"))
    }

    async fn has_migrations(conn: &mut sqlx::SqliteConnection) -> Result<bool, Fault> {
        let query = sqlx::query_scalar("SELECT count(*) > 0 FROM sqlite_schema WHERE name = 'eventbox_migration'");
        Ok(query.fetch_one(conn).await?)
    }

    fn why_not_migrated(error: &sqlx::Error) -> Option<&'static str> {
        const SQLITE_READONLY: u32 = 8;
        let error = error.as_database_error()?;
        let code: u32 = error.code()?.parse().ok()?;
        match code & 0xff {
            SQLITE_READONLY => Some("the file or its directory cannot be written"),
            _ if ["already exists", "there is already"].iter().any(|text| error.message().contains(text)) => {
                Some("something of that name is there already: drop or rename it, or use another file")
            }
            _ => None,
        }
    }

    async fn check_settings(conn: &mut sqlx::SqliteConnection) -> Result<SettingsCheck, Fault> {
        let query = sqlx::query(
            "SELECT sqlite_version(), (SELECT journal_mode FROM pragma_journal_mode),
                    (SELECT synchronous FROM pragma_synchronous)",
        );
        let row = query.fetch_one(conn).await?;
        let (version, journal_mode, synchronous): (String, String, i64) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let mut check = SettingsCheck::default();
        if parse_version(&version) < MIN_VERSION {
            check.refuse(
                format!("SQLite {version} can corrupt a WAL file under two connections"),
                "link 3.51.3 or newer (libsqlite3-sys 0.37)",
            );
        }
        const HELP: &str = "open the file with eventbox::sqlite_options";
        if !matches!(journal_mode.as_str(), "wal" | "memory") {
            check.warn(format!("journal_mode is {journal_mode}: readers and the writer block each other"), HELP);
        }
        const SYNCHRONOUS_FULL: i64 = 2;
        if synchronous < SYNCHRONOUS_FULL && journal_mode != "memory" {
            check.warn("synchronous is below FULL: a power loss can lose events that were acknowledged", HELP);
        }
        Ok(check)
    }

    // Differs: a file has no cluster, in the next three functions.
    // Differs: a file lies on one machine, here and below.
    async fn read_layout(_conn: &mut sqlx::SqliteConnection) -> Result<Result<Layout, SettingsProblem>, Fault> {
        Ok(Ok(Layout::OneNode))
    }

    fn is_by_shard() -> bool {
        false
    }

    async fn distribution_problem(
        _conn: &mut sqlx::SqliteConnection,
        _wanted: Layout,
    ) -> Result<Option<SettingsProblem>, Fault> {
        let (what, help) = ("SQLite keeps all tables in one file", "use Postgres with the extension citus");
        Ok(Some(SettingsProblem { what: what.to_owned(), help: help.to_owned() }))
    }

    async fn distribute_schema(_conn: &mut sqlx::SqliteConnection) -> Result<(), Fault> {
        Ok(())
    }

    async fn cut_by_shard(_conn: &mut sqlx::SqliteConnection) -> Result<(), Fault> {
        Ok(())
    }

    // Differs: no pooler stands between the process and the file.
    async fn check_connections(
        _pool: &Pool<Self>,
        _conn: &mut sqlx::SqliteConnection,
    ) -> Result<Option<&'static str>, Fault> {
        Ok(None)
    }

    fn connection_problem(_fault: &Fault) -> Option<&'static str> {
        None
    }

    // Differs: the connection is a part of this process.
    async fn on_connect(_conn: &mut sqlx::SqliteConnection) {}

    // Differs: the connections of a process wait for the file, and a database in memory has only one connection.
    fn reserve(_pool: &Pool<Self>, _connections: u32) -> Option<Pool<Self>> {
        None
    }

    // Differs: BEGIN takes the only lock, and the connection's busy timeout bounds that wait.
    async fn limit_lock_wait(_tx: &mut sqlx::SqliteConnection, _milliseconds: u32) -> Result<(), Fault> {
        Ok(())
    }
}

fn parse_version(text: &str) -> (u32, u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parse_version("3.9.0") < MIN_VERSION);
        assert!(parse_version("3.51.3") >= MIN_VERSION);
        assert!(parse_version("4.0") >= MIN_VERSION);
    }
}
