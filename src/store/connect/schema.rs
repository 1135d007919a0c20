//! The schema, the settings and the transactions of an engine.

use std::fmt;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{Pool, Transaction};

use super::layout::Layout;
use super::session::Session;
use crate::store::fault::Fault;

/// Requirements of an engine before its tables can be used.
pub trait Schema: Session<Connection: Migrate> {
    /// Statement that begins a transaction that writes from its first statement.
    const BEGIN_WRITE: &'static str;

    /// SQL that creates roles for the tables. `None` for an engine without roles.
    const ROLES: Option<&'static str>;

    /// Migrations of the engine, in their own table.
    fn migrator() -> Migrator;

    /// Applies the migrations that are missing. Each commits with its record.
    fn run_migrations(conn: &mut Self::Connection) -> impl Future<Output = Result<(), MigrateError>> + Send {
        async move { Self::migrator().run_direct(None, conn, false).await }
    }

    /// Returns whether the table of the applied migrations exists.
    fn has_migrations(conn: &mut Self::Connection) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Returns why a migration was refused, and what to do, when the reason is known.
    fn why_not_migrated(error: &sqlx::Error) -> Option<&'static str>;

    /// Checks the settings of the server or the file. An error says why the library refuses them, and what to do.
    /// Warnings are logged.
    fn check_settings(conn: &mut Self::Connection) -> impl Future<Output = Result<SettingsCheck, Fault>> + Send;

    /// Returns how the tables lie on a cluster, or why the statements cannot use them, and what to do. From then on the
    /// process uses the statements of that layout.
    fn read_layout(
        conn: &mut Self::Connection,
    ) -> impl Future<Output = Result<Result<Layout, SettingsProblem>, Fault>> + Send;

    /// Returns whether the process uses the statements that touch one shard each.
    fn is_by_shard() -> bool;

    /// Returns why the tables cannot be put on a Citus cluster in a layout, and what to do.
    fn distribution_problem(
        conn: &mut Self::Connection,
        wanted: Layout,
    ) -> impl Future<Output = Result<Option<SettingsProblem>, Fault>> + Send;

    /// Puts the schema of the tables on a node of a Citus cluster. Does nothing when it was put there before.
    fn distribute_schema(conn: &mut Self::Connection) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Cuts the tables by shard on a Citus cluster. Does nothing for tables that were cut before.
    fn cut_by_shard(conn: &mut Self::Connection) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Returns why the connections of a pool cannot be used, and what to do, if a pooler between the process and the
    /// database breaks them.
    fn check_connections(
        pool: &Pool<Self>,
        conn: &mut Self::Connection,
    ) -> impl Future<Output = Result<Option<&'static str>, Fault>> + Send;

    /// Does the same with an error.
    fn connection_problem(fault: &Fault) -> Option<&'static str>;

    /// Prepares a new connection of a pool that [`pool_options`](crate::pool_options) made.
    fn on_connect(conn: &mut Self::Connection) -> impl Future<Output = ()> + Send;

    /// Begins a transaction of sqlx that may write from its first statement, for users.
    ///
    /// Safe to cancel, unlike `Pool::begin` of sqlx 0.9.0, which then hands out a connection with an open transaction.
    fn begin_write(pool: &Pool<Self>) -> impl Future<Output = Result<Transaction<'static, Self>, Fault>> + Send {
        let pool = pool.clone();
        // In a separate task, so that a caller who gives up does not interrupt the `BEGIN`.
        let begun = tokio::spawn(async move { pool.begin_with(Self::BEGIN_WRITE).await });
        async move {
            match begun.await {
                Ok(begun) => begun.map_err(Fault::before_any_statement),
                Err(_) => Err(Fault(sqlx::Error::WorkerCrashed)),
            }
        }
    }

    /// Opens a pool of this many connections with the options of the caller's pool. Its work goes on when all
    /// connections of the caller are taken. `None` where the connections of a process wait for each other anyway.
    fn reserve(pool: &Pool<Self>, connections: u32) -> Option<Pool<Self>>;

    /// Bounds how long the statements of this transaction wait for a lock, where the connection does not bound this
    /// wait.
    fn limit_lock_wait(tx: &mut Self::Connection, milliseconds: u32) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Result of [`Schema::check_settings`].
#[derive(Debug, Default)]
pub struct SettingsCheck {
    /// Why the database must not be used.
    pub refused: Option<SettingsProblem>,
    /// Findings that a person should look at.
    pub warnings: Vec<SettingsProblem>,
}

impl SettingsCheck {
    /// Refuses the database. The first reason stays.
    pub(in crate::store) fn refuse(&mut self, what: impl Into<String>, help: impl Into<String>) {
        self.refused.get_or_insert_with(|| SettingsProblem { what: what.into(), help: help.into() });
    }

    /// Adds a finding.
    pub(in crate::store) fn warn(&mut self, what: impl Into<String>, help: impl Into<String>) {
        self.warnings.push(SettingsProblem { what: what.into(), help: help.into() });
    }
}

/// Problem with a setting, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsProblem {
    pub what: String,
    pub help: String,
}

impl fmt::Display for SettingsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.help)
    }
}
