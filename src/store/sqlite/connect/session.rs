//! Sessions of SQLite.

use std::time::Duration;

use sqlx::{Connection, Pool, Sqlite, SqliteConnection};
use sqlx_core::transaction::TransactionManager;

use crate::store::connect::session::Session;
use crate::store::fault::Fault;

/// No bound, because the file always answers. Closing the connection of a database in memory would lose the database.
/// The connection's busy timeout bounds the waits for the file.
const NO_BOUND: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Settings that a session may keep. The first character says whether the database is a file or in memory.
const READ_SESSION: &str = "SELECT concat_ws(',',
        (SELECT iif(file = '', 'm', 'f') FROM pragma_database_list WHERE name = 'main'),
        (SELECT query_only FROM pragma_query_only), (SELECT foreign_keys FROM pragma_foreign_keys),
        (SELECT timeout FROM pragma_busy_timeout), (SELECT synchronous FROM pragma_synchronous),
        (SELECT recursive_triggers FROM pragma_recursive_triggers),
        (SELECT ignore_check_constraints FROM pragma_ignore_check_constraints),
        (SELECT locking_mode FROM pragma_locking_mode), (SELECT writable_schema FROM pragma_writable_schema),
        (SELECT read_uncommitted FROM pragma_read_uncommitted),
        (SELECT legacy_alter_table FROM pragma_legacy_alter_table),
        (SELECT reverse_unordered_selects FROM pragma_reverse_unordered_selects),
        (SELECT group_concat(name) FROM pragma_database_list WHERE name <> 'temp'),
        (SELECT group_concat(name) FROM sqlite_temp_schema))";

/// Resets the setting that prevents writes to a database in memory.
const RESET_SESSION: &str = "PRAGMA query_only = OFF";

/// One statement for each depth that the driver may count, from the outermost.
const REBUILD: [&str; 4] =
    ["BEGIN", "SAVEPOINT _sqlx_savepoint_1", "SAVEPOINT _sqlx_savepoint_2", "SAVEPOINT _sqlx_savepoint_3"];

impl Session for Sqlite {
    const ANSWER_WAIT: Duration = NO_BOUND;

    const RELEASE_WAIT: Duration = NO_BOUND;

    type Before = String;

    async fn note_session(_pool: &Pool<Self>, conn: &mut SqliteConnection) -> Result<String, Fault> {
        Ok(sqlx::query_scalar(READ_SESSION).fetch_one(conn).await?)
    }

    async fn is_unchanged(conn: &mut SqliteConnection, before: &String) -> Result<bool, Fault> {
        let now: String = sqlx::query_scalar(READ_SESSION).fetch_one(conn).await?;
        Ok(now == *before)
    }

    async fn restore_session(conn: &mut SqliteConnection, before: String) -> Result<bool, Fault> {
        if Self::is_unchanged(conn, &before).await? {
            return Ok(true);
        }
        let is_in_memory = before.starts_with('m');
        if is_in_memory {
            sqlx::raw_sql(RESET_SESSION).execute(conn).await?;
        }
        Ok(is_in_memory)
    }

    async fn is_outside_transaction(conn: &mut SqliteConnection) -> Result<bool, Fault> {
        Ok(sqlx::raw_sql("BEGIN; ROLLBACK").execute(conn).await.is_ok())
    }

    async fn session_id(_conn: &mut SqliteConnection) -> Result<Option<i32>, Fault> {
        Ok(None)
    }

    async fn is_alive(_pool: &Pool<Self>, _session_id: i32) -> bool {
        true
    }

    // The driver still counts a transaction that the engine has ended. So it gets a new transaction, which it can end.
    async fn repair(conn: &mut SqliteConnection) -> bool {
        // There may be no transaction.
        let _ = sqlx::raw_sql("ROLLBACK").execute(&mut *conn).await;
        let depth = <Sqlite as sqlx::Database>::TransactionManager::get_transaction_depth(conn);
        for statement in REBUILD.iter().take(depth) {
            if sqlx::raw_sql(*statement).execute(&mut *conn).await.is_err() {
                return false;
            }
        }
        for _ in 0..depth {
            if <Sqlite as sqlx::Database>::TransactionManager::rollback(conn).await.is_err() {
                return false;
            }
        }
        !conn.is_in_transaction()
    }

    // A transaction that could not begin has not begun.
    fn begins_whole(error: &sqlx::Error) -> bool {
        matches!(error, sqlx::Error::Database(_))
    }
}
