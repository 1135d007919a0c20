//! Opens a database with the settings that eventboxes need, and begins transactions.

use std::time::Duration;

use sqlx::pool::PoolOptions;
use sqlx::{Connection, Pool, Transaction};

use crate::error::{Error, Result};
use crate::retry::pauses;
use crate::store::{Backend, Class, Fault, Held, Layout, answered, hold};

/// Checks that the database can keep the promises of eventboxes, without changing anything.
///
/// Dangerous settings (`fsync` off, SQLite's `synchronous` below FULL) are logged as warnings.
///
/// # Errors
///
/// [`Error::Setup`] when the database must not be used, with what to do: too old a server or library, an encoding other
/// than UTF-8, a server or file that takes no writes, row-level security that hides from this role what it writes, a
/// connection pooler that shares server connections between sessions, or a cluster of Citus that keeps the tables on
/// several nodes in a way that no [`Layout`] has (`docs/scaling.md`). Transient and database errors.
pub async fn check<B: Backend>(pool: &Pool<B>) -> Result<()> {
    const ATTEMPT: &str = "check the database's settings";
    let refused = |fault: Fault| match B::connection_problem(&fault) {
        Some(problem) => Error::setup(ATTEMPT, problem),
        None => fault.during(ATTEMPT),
    };
    let mut conn = acquire_first(pool).await.map_err(refused)?;
    if let Some(problem) = B::check_connections(pool, &mut conn).await.map_err(refused)? {
        // The pooler may have run its statements on any server connection.
        conn.close();
        return Err(Error::setup(ATTEMPT, problem));
    }
    let found = answered(pool, B::check_settings(&mut conn)).await.map_err(refused)?;
    for warning in &found.warnings {
        tracing::warn!(engine = B::NAME, "{warning}");
    }
    match found.refused {
        Some(problem) => return Err(Error::setup(ATTEMPT, problem)),
        None => drop(conn),
    }
    // On an engine with one writer, beginning a write shows whether the file can be written. Other errors do not answer
    // that.
    if B::ONE_WRITER && B::begin_write(pool).await.is_err_and(|fault| fault.is_read_only()) {
        return Err(Error::setup(ATTEMPT, "the file is read only: let this process write the file and its directory"));
    }
    Ok(())
}

/// Returns how the tables lie in the database: on one server, or on a cluster.
///
/// [`check`], [`migrate`](crate::migrate()) and the start of a runtime read the layout too. From then on the process
/// uses the statements of this layout. One database by shard is enough to make a process use these statements for every
/// database of Postgres; they are right on one server, and slower there.
///
/// # Errors
///
/// [`Error::Setup`] when a cluster keeps the tables in a way that no layout has, with what to do. Transient and
/// database errors.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(":memory:")).await?;
/// assert_eq!(eventbox::layout(&pool).await?, eventbox::Layout::OneNode);
/// # Ok(()) }
/// ```
pub async fn layout<B: Backend>(pool: &Pool<B>) -> Result<Layout> {
    const ATTEMPT: &str = "read the layout of the tables";
    let layout = answered(pool, async { B::read_layout(&mut *hold(pool).await?).await }).await;
    layout.map_err(|fault| fault.during(ATTEMPT))?.map_err(|problem| Error::setup(ATTEMPT, problem))
}

/// Number of retries of the first connection while the file is locked.
const OPEN_RETRIES: usize = 10;

/// Pause before the first connection is retried; it doubles, with jitter.
const OPEN_PAUSE: Duration = Duration::from_millis(2);

/// Opens the first connection, with retries. SQLite does not wait for the busy timeout while it turns a new file into a
/// write-ahead file, which several processes may do at once.
async fn acquire_first<B: Backend>(pool: &Pool<B>) -> Result<Held<B>, Fault> {
    for pause in pauses(OPEN_PAUSE, OPEN_RETRIES) {
        match hold(pool).await {
            Err(fault) if fault.class() == Class::Contention => tokio::time::sleep(pause).await,
            outcome => return outcome,
        }
    }
    hold(pool).await
}

/// Begins a transaction that may write from its first statement.
///
/// Prefer it to `pool.begin()` on SQLite: there a transaction that begins as a reader fails when another transaction
/// writes first, and this one is `BEGIN IMMEDIATE`. Prefer it also wherever the future may be dropped: it is safe to
/// cancel.
///
/// # Errors
///
/// Contention when SQLite's writer did not finish within the busy timeout, transient when the pool had no connection.
///
/// # Cancel safety
///
/// Safe: the transaction is rolled back.
pub async fn begin<B: Backend>(pool: &Pool<B>) -> Result<Transaction<'static, B>> {
    B::begin_write(pool).await.map_err(|fault| fault.during("begin a transaction"))
}

/// Idle time after which a pool of [`pool_options`] pings a connection before its use.
pub const REVALIDATE_IDLE_AFTER: Duration = Duration::from_secs(1);

/// Returns options for a faster pool. It pings a connection, which is a round trip, only when the connection was idle
/// for [`REVALIDATE_IDLE_AFTER`].
///
/// On Postgres each connection also sets `client_connection_check_interval` to 5 s, in `after_connect`: the server then
/// ends the statement of a closed connection. Without that setting, statements that the library gave up while a table
/// was locked stay on the server until the lock is gone, and may take all its connections.
///
/// Use it for many emits and turns. A connection that broke within the last second is noticed by the next statement:
/// the caller gets a transient error, or [`Error::Unknown`] for an emit that may have committed.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("orders.sqlite3");
/// let options = eventbox::pool_options::<sqlx::Sqlite>().max_connections(8);
/// let pool = options.connect_with(eventbox::sqlite_options(&path)).await?;
/// eventbox::migrate(&pool).await?;
/// # Ok(()) }
/// ```
#[must_use]
pub fn pool_options<B: Backend>() -> PoolOptions<B> {
    let options = PoolOptions::new().after_connect(|conn: &mut B::Connection, _| {
        Box::pin(async move {
            B::on_connect(conn).await;
            Ok(())
        })
    });
    options.test_before_acquire(false).before_acquire(|conn: &mut B::Connection, of| {
        Box::pin(async move {
            if of.idle_for >= REVALIDATE_IDLE_AFTER {
                conn.ping().await?;
            }
            Ok(true)
        })
    })
}

/// Returns options to open a Postgres database by its URL, also behind a connection pooler.
///
/// PgBouncer refuses a connection that sends `extra_float_digits`, as sqlx does; these options leave it out. Servers
/// since version 12 do not need it. Behind a pooler, let it pool sessions (`pool_mode = session`). [`check`] refuses a
/// pooler that breaks prepared statements. With `?sslmode=require` in the URL the connection is encrypted, which needs
/// the feature `tls`.
///
/// # Errors
///
/// [`Error::Setup`] when the URL cannot be read.
///
/// # Examples
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let options = eventbox::postgres_options("postgres://orders@pgbouncer:6432/orders")?;
/// let pool = eventbox::pool_options::<sqlx::Postgres>().max_connections(20).connect_with(options).await?;
/// eventbox::migrate(&pool).await?;
/// # Ok(()) }
/// ```
#[cfg(feature = "postgres")]
pub fn postgres_options(url: &str) -> Result<sqlx::postgres::PgConnectOptions> {
    let options: sqlx::postgres::PgConnectOptions =
        url.parse().map_err(|error: sqlx::Error| Error::setup("read the URL of a database", error))?;
    Ok(options.extra_float_digits(None))
}

/// Returns options to open an SQLite file (created when missing), so that an acknowledged commit survives a power loss.
///
/// Write-ahead log, `synchronous = FULL`, a busy timeout of [`SQLITE_BUSY_TIMEOUT`], a cache of [`SQLITE_CACHE_KIB`],
/// foreign keys, and temporary tables and journals in memory (`temp_store`). `:memory:` works for tests, in a pool of
/// one connection.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("orders.sqlite3");
/// let pool = sqlx::SqlitePool::connect_with(eventbox::sqlite_options(&path)).await?;
/// # Ok(()) }
/// ```
#[cfg(feature = "sqlite")]
#[must_use]
pub fn sqlite_options(path: impl AsRef<std::path::Path>) -> sqlx::sqlite::SqliteConnectOptions {
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
    let options = SqliteConnectOptions::new().create_if_missing(true).busy_timeout(SQLITE_BUSY_TIMEOUT);
    let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
    // With a smaller cache, SQLite writes pages to the log and reads them back
    // in the middle of a statement.
    let options = options.pragma("cache_size", format!("-{SQLITE_CACHE_KIB}"));
    // To undo one statement of a transaction SQLite keeps the old pages, which would be a temporary file.
    let options = options.pragma("temp_store", "memory");
    match path.as_ref() {
        path if path == std::path::Path::new(":memory:") => options.in_memory(true).filename(":memory:"),
        path => options.filename(path),
    }
}

/// Most KiB of pages that a connection of [`sqlite_options`] keeps in memory, allocated as needed.
#[cfg(feature = "sqlite")]
pub const SQLITE_CACHE_KIB: u32 = 16 << 10;

/// Time for which a connection of [`sqlite_options`] waits for another writer.
#[cfg(feature = "sqlite")]
pub const SQLITE_BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
