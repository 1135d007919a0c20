//! The database of an operator, on either engine.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Pool, Postgres, Sqlite};
use tokio::time::timeout;

/// Number of connections: one for the command, and one for a statement that the library runs beside it.
pub(crate) const CONNECTIONS: u32 = 2;

/// Time limit of the first connection to a server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit of a wait for a pooled connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

const FORMS: &str = "write postgres://USER@HOST/DATABASE, sqlite://FILE or the path of an SQLite file";

/// A pool on the engine of the database.
pub(crate) enum Database {
    Postgres(Pool<Postgres>),
    Sqlite(Pool<Sqlite>),
}

/// Evaluates an expression on the pool of a [`Database`], for its engine.
macro_rules! on {
    ($database:expr, $pool:ident => $body:expr) => {
        match $database {
            $crate::operate::connect::Database::Postgres($pool) => $body,
            $crate::operate::connect::Database::Sqlite($pool) => $body,
        }
    };
}
pub(crate) use on;

/// Location of a database.
#[derive(Debug)]
pub(crate) enum Address {
    Postgres(Box<PgConnectOptions>),
    Sqlite(Box<SqliteConnectOptions>),
}

impl Address {
    /// Parses a URL or the path of a file.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let options = eventbox::postgres_options(url).with_context(|| format!("not a URL of Postgres: {FORMS}"))?;
            return Ok(Address::Postgres(Box::new(options)));
        }
        let options = match url.split_once("://") {
            _ if url.starts_with("sqlite:") => {
                url.parse().with_context(|| format!("not a URL of an SQLite file: {FORMS}"))?
            }
            // The rest of the URL may hold a password.
            Some((scheme, _)) => bail!("no engine has URLs that begin with {scheme}://: {FORMS}"),
            None => SqliteConnectOptions::new().filename(url),
        };
        ensure!(!options.get_filename().as_os_str().is_empty(), "the URL names no file: {FORMS}");
        Ok(Address::Sqlite(Box::new(options)))
    }

    /// Opens the database. Creates no file, and leaves the journal mode of a file as it is.
    pub(crate) async fn open(self) -> Result<Database> {
        match self {
            Address::Postgres(options) => open_postgres(*options, CONNECTIONS).await.map(Database::Postgres),
            Address::Sqlite(options) => {
                let options = existing_file(*options)?.create_if_missing(false).synchronous(SqliteSynchronous::Full);
                let options = options.busy_timeout(eventbox::limits::SQLITE_BUSY_TIMEOUT);
                open_sqlite(options.pragma("temp_store", "memory"), CONNECTIONS).await.map(Database::Sqlite)
            }
        }
    }

    /// Opens the database with the settings of a service, for its migration or for its work. Creates no file.
    pub(crate) async fn open_as_a_service(self, connections: u32) -> Result<Database> {
        match self {
            Address::Postgres(options) => open_postgres(*options, connections).await.map(Database::Postgres),
            Address::Sqlite(options) => {
                let options = eventbox::sqlite_options(existing_file(*options)?.get_filename());
                open_sqlite(options.create_if_missing(false), connections).await.map(Database::Sqlite)
            }
        }
    }
}

fn existing_file(options: SqliteConnectOptions) -> Result<SqliteConnectOptions> {
    let file = options.get_filename();
    ensure!(file.is_file(), "there is no file {}: name the SQLite file of the service", file.display());
    Ok(options)
}

async fn open_sqlite(options: SqliteConnectOptions, connections: u32) -> Result<Pool<Sqlite>> {
    let file = options.get_filename().to_owned();
    let pool = eventbox::pool_options().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
    pool.connect_with(options).await.with_context(|| format!("cannot open {}", file.display()))
}

/// Connects to a server. Fails at once if the server does not answer, unlike a pool, which hides the cause.
async fn open_postgres(options: PgConnectOptions, connections: u32) -> Result<Pool<Postgres>> {
    let at = || format!("cannot connect to Postgres at {}:{}", options.get_host(), options.get_port());
    let connected = timeout(CONNECT_TIMEOUT, options.connect()).await;
    let connected = connected.map_err(|_| anyhow!("{}: no answer within {CONNECT_TIMEOUT:?}", at()))?;
    connected.with_context(at)?.close().await.with_context(at)?;
    let pool = eventbox::pool_options().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
    Ok(pool.connect_lazy_with(options))
}

impl Database {
    /// Refuses a database whose tables this program does not know, or that lie in no layout.
    pub(crate) async fn check_migrated(&self) -> Result<()> {
        let migrations = on!(self, pool => eventbox::migrations(pool).await)?;
        let applied = migrations.iter().filter(|migration| migration.is_applied).count();
        ensure!(applied > 0, "the database has no tables of eventbox: create them with `eventbox migrate up`");
        ensure!(
            applied == migrations.len(),
            "the tables of eventbox are older than this program ({applied} of {} migrations): update them with \
             `eventbox migrate up`",
            migrations.len()
        );
        // From here on, the program uses the statements of the layout.
        on!(self, pool => eventbox::layout(pool).await)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(url: &str) -> String {
        match Address::parse(url).unwrap() {
            Address::Sqlite(options) => options.get_filename().display().to_string(),
            Address::Postgres(_) => panic!("{url}"),
        }
    }

    #[test]
    fn urls_and_paths_are_read() {
        assert_eq!(file("sqlite://orders.sqlite3"), "orders.sqlite3");
        assert_eq!(file("sqlite:///var/orders.sqlite3?mode=ro"), "/var/orders.sqlite3");
        assert_eq!(file("sqlite:orders.sqlite3"), "orders.sqlite3");
        assert_eq!(file("data/orders.sqlite3"), "data/orders.sqlite3");
        assert!(matches!(Address::parse("postgresql://me@localhost/orders"), Ok(Address::Postgres(_))));
        let refused = Address::parse("mysql://me:secret@localhost/orders").unwrap_err().to_string();
        assert!(refused.contains("mysql://") && !refused.contains("secret"), "{refused}");
        assert!(Address::parse("sqlite://").is_err());
        assert!(Address::parse("").is_err());
    }
}
